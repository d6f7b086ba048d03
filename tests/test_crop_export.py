"""Crops of a prepared data set: names, table, split, Jaccard of predictions, continuing, errors."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from conftest import leave_half_written

from lesionseg.crop_export import COLUMNS, CropSettings, export_crops
from lesionseg.crops import crop
from lesionseg.errors import LesionsegError
from lesionseg.features import FEATURES, measure
from lesionseg.images import read_image
from lesionseg.register import load_lesion_json


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "crops.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def records_of(dataset: Path) -> dict[str, dict]:
    records = {}
    for split in ("train", "val"):
        for record in load_lesion_json(dataset / f"{split}.json"):
            records[record["sample_id"]] = {**record, "split": split}
    return records


def rle(mask: np.ndarray) -> dict:
    found = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": found["size"], "counts": found["counts"].decode()}


@pytest.fixture(scope="module")
def dataset(lesion_root) -> Path:
    return lesion_root / "tiny"


def test_reference_crops(dataset, tmp_path):
    summary = export_crops(dataset, tmp_path, CropSettings(margin=0.2, size=40, background="mean"), workers=2)
    records, rows = records_of(dataset), rows_of(tmp_path)
    assert summary.crops == {"train": 32, "val": 8}
    assert len(rows) == 40
    assert tuple(rows[0]) == COLUMNS
    for row in rows[::7]:
        record = records[row["sample_id"]]
        assert row["file"] == f"{record['split']}/{row['sample_id']}_1.png"
        assert (row["split"], row["source"], row["score"]) == (record["split"], "reference", "")
        mask = mask_util.decode(record["annotations"][0]["segmentation"]).astype(bool)
        ys, xs = np.nonzero(mask)
        box = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
        assert [int(row[key]) for key in ("x", "y", "width", "height")] == box
        image = read_image(record["file_name"])
        expected = crop(image, mask, (box[0], box[1], box[0] + box[2], box[1] + box[3]), 0.2, 40, "mean")
        assert (read_image(tmp_path / row["file"]) == expected).all()
        values = measure(image, mask).values
        for name in FEATURES:
            found = float(row[name] or "nan")
            assert found == pytest.approx(values[name], rel=1e-5, nan_ok=True), name
    content = json.loads((tmp_path / "crops.json").read_text())
    assert (content["margin"], content["size"], content["background"]) == (0.2, 40, "mean")


def test_predicted_crops_record_their_jaccard(dataset, tmp_path):
    records = records_of(dataset)
    ids = sorted(records)
    results = []
    for name in ids[:3]:
        mask = mask_util.decode(records[name]["annotations"][0]["segmentation"]).astype(bool)
        half = mask.copy()
        half[:, : int(np.nonzero(mask)[1].mean())] = False
        for found, score in ((half, 0.9), (mask, 0.5), (~mask, 0.2)):
            results.append(
                {
                    "image_id": records[name]["image_id"],
                    "category_id": 1,
                    "score": score,
                    "segmentation": rle(found),
                }
            )
    results[3]["score"] = 0.1  # of the second image, the whole mask is now the best
    results[8] = {**results[8], "score": 0.29}
    results[6]["score"] = results[7]["score"] = 0.1  # of the third none is left
    path = tmp_path / "coco_instances_results.json"
    path.write_text(json.dumps(results))
    summary = export_crops(dataset, tmp_path / "crops", predictions=[path], score_threshold=0.3)
    rows = {row["sample_id"]: row for row in rows_of(tmp_path / "crops")}
    assert sorted(rows) == ids[:2]
    predicted = {records[name]["split"] for name in ids[:2]}  # of other splits the results say nothing
    assert len(summary.without_lesion) == sum(r["split"] in predicted for r in records.values()) - 2
    first = mask_util.decode(records[ids[0]]["annotations"][0]["segmentation"]).astype(bool)
    share = mask_util.decode(results[0]["segmentation"]).sum() / first.sum()
    assert float(rows[ids[0]]["jaccard"]) == pytest.approx(share, abs=1e-5)
    assert (float(rows[ids[0]]["score"]), rows[ids[0]]["source"]) == (0.9, "predicted")
    assert (float(rows[ids[1]]["jaccard"]), float(rows[ids[1]]["score"])) == (1, 0.5)


def test_predictions_with_file_names_are_matched_by_them(dataset, tmp_path):
    records = records_of(dataset)
    name = sorted(records)[5]
    mask = mask_util.decode(records[name]["annotations"][0]["segmentation"])
    result = {"image_id": 1, "file_name": f"sub/{name}.png", "score": 0.8, "segmentation": rle(mask)}
    (tmp_path / "predictions.json").write_text(json.dumps([result]))
    export_crops(dataset, tmp_path / "crops", predictions=[tmp_path / "predictions.json"])
    assert [(row["sample_id"], row["jaccard"]) for row in rows_of(tmp_path / "crops")] == [(name, "1.0")]


def test_splits_that_were_not_predicted_are_left_out(dataset, tmp_path):
    records = records_of(dataset)
    train = next(record for record in records.values() if record["split"] == "train")
    result = {
        "image_id": train["image_id"],
        "score": 0.8,
        "segmentation": train["annotations"][0]["segmentation"],
    }
    result["segmentation"] = rle(mask_util.decode(result["segmentation"]))
    (tmp_path / "p.json").write_text(json.dumps([result]))
    summary = export_crops(dataset, tmp_path / "crops", predictions=[tmp_path / "p.json"])
    assert dict(summary.crops) == {"train": 1}
    assert len(summary.without_lesion) == 31
    with pytest.raises(LesionsegError, match=r"none of the predictions .*threshold"):
        export_crops(dataset, tmp_path / "none", predictions=[tmp_path / "p.json"], score_threshold=0.9)


def test_a_killed_export_continues(dataset, tmp_path):
    export_crops(dataset, tmp_path)
    table = (tmp_path / "crops.csv").read_bytes()
    lines = (tmp_path / "progress.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "progress.jsonl").write_text(
        "".join(lines[:11]) + lines[11][:20]
    )  # ten images, and a cut line
    for name in ("crops.csv", "crops.json"):
        (tmp_path / name).unlink()
    crops = sorted(tmp_path.glob("*/*.png"))
    times = {path: path.stat().st_mtime_ns for path in crops}
    leftover = leave_half_written(crops[-1])
    export_crops(dataset, tmp_path)
    assert not leftover.exists()
    assert (tmp_path / "crops.csv").read_bytes() == table
    assert sum(path.stat().st_mtime_ns == times[path] for path in crops) == 10


def test_other_settings_in_the_same_folder_are_an_error(dataset, tmp_path):
    export_crops(dataset, tmp_path, CropSettings(size=16))
    with pytest.raises(LesionsegError, match='"size": 16'):
        export_crops(dataset, tmp_path, CropSettings(size=32))


def test_one_bad_image_does_not_stop_the_rest(dataset, tmp_path):
    bad = sorted(records_of(dataset).items())[3][1]["file_name"]
    content = Path(bad).read_bytes()
    try:
        Path(bad).write_bytes(content[:100])
        summary = export_crops(dataset, tmp_path)
        assert len(summary.failed) == 1
        assert bad in summary.failed[0]
        assert sum(summary.crops.values()) == 39
    finally:
        Path(bad).write_bytes(content)
    assert export_crops(dataset, tmp_path).crops == {"train": 32, "val": 8}  # mended, the rerun adds it


def test_wrong_input_is_named(dataset, tmp_path):
    with pytest.raises(LesionsegError, match=r"summary\.json"):
        export_crops(tmp_path, tmp_path / "out")
    with pytest.raises(LesionsegError, match="background"):
        export_crops(dataset, tmp_path / "out", CropSettings(background="pink"))
    (tmp_path / "p.json").write_text('{"images": []}')
    with pytest.raises(LesionsegError, match=r"p\.json: expected a list of COCO results"):
        export_crops(dataset, tmp_path / "out", predictions=[tmp_path / "p.json"])
