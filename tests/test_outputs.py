"""Sinks: what they write, worked out by hand from two rectangles."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image
from tiny_run import tiny_cfg

from lesionseg.detections import LesionInstances
from lesionseg.errors import LesionsegError
from lesionseg.images import write_image
from lesionseg.inputs import Item
from lesionseg.outputs import (
    KINDS,
    CocoSink,
    CropSink,
    CsvSink,
    MaskedCropSink,
    MaskSink,
    OverlaySink,
    Prediction,
    csv_rows,
    describe,
    parse_save,
)

HEIGHT, WIDTH = 40, 60


@pytest.fixture
def prediction(tmp_path: Path) -> Prediction:
    """A melanoma of 10x20 px with a hole and a speck, and a nevus of 4x5 px, in a picture of 40x60."""
    image = np.full((HEIGHT, WIDTH, 3), (120, 150, 200), np.uint8)
    write_image(tmp_path / "imgs/sub/a.png", image)
    masks = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
    masks[0, 10:20, 20:40] = True
    masks[0, 14, 30] = False
    masks[0, 30, 50] = True
    masks[1, 30:34, 2:7] = True
    instances = LesionInstances(
        (HEIGHT, WIDTH),
        pred_boxes=np.array([[20.0, 10.0, 40.0, 20.0], [2.0, 30.0, 7.0, 34.0]], dtype=np.float32),
        scores=np.array([0.9, 0.6], dtype=np.float32),
        pred_classes=np.array([1, 0]),
        pred_masks=masks,
    )
    item = Item(tmp_path / "imgs/sub/a.png", "sub/a.png")
    return Prediction(item, instances, tiny_cfg(), ["nevus", "melanoma"])


def without_lesion(prediction: Prediction) -> Prediction:
    return Prediction(prediction.item, prediction.instances[:0], prediction.cfg, prediction.class_names)


def test_mask_sink_writes_what_isic_asks_for(prediction: Prediction, tmp_path: Path) -> None:
    with MaskSink(tmp_path / "out") as sink:
        assert sink.write(prediction) == ["mask/sub/a_segmentation.png"]
    with Image.open(tmp_path / "out/mask/sub/a_segmentation.png") as written:
        assert (written.mode, written.size) == ("L", (WIDTH, HEIGHT))
        values = np.asarray(written)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[10:20, 20:40] = 255  # the best instance: hole filled, speck gone
    assert values.tolist() == expected.tolist()
    with MaskSink(tmp_path / "none") as sink:
        sink.write(without_lesion(prediction))
    assert np.asarray(Image.open(tmp_path / "none/mask/sub/a_segmentation.png")).max() == 0


def test_crop_sinks(prediction: Prediction, tmp_path: Path) -> None:
    with CropSink(tmp_path) as sink:
        assert sink.write(prediction) == ["crop/sub/a_1.png", "crop/sub/a_2.png"]
        assert sink.write(without_lesion(prediction)) == []
    with MaskedCropSink(tmp_path) as sink:
        assert sink.write(prediction) == ["masked_crop/sub/a_1.png", "masked_crop/sub/a_2.png"]
    # The box's longer side is 20 px, the margin a tenth of it on each side: 24x24 px around (30, 15), from (18, 3).
    kept, masked = (
        np.asarray(Image.open(tmp_path / kind / "sub/a_1.png")) for kind in ("crop", "masked_crop")
    )
    assert kept.shape == masked.shape == (24, 24, 3)
    assert (kept == (200, 150, 120)).all()
    assert masked[7, 2].tolist() == [200, 150, 120] and masked[16, 21].tolist() == [200, 150, 120]
    assert masked[6, 2].tolist() == masked[17, 21].tolist() == masked[11, 12].tolist() == [0, 0, 0]


def test_overlay_sink(prediction: Prediction, tmp_path: Path) -> None:
    with OverlaySink(tmp_path) as sink:
        assert sink.write(prediction) == ["overlay/sub/a.jpg"]
    with Image.open(tmp_path / "overlay/sub/a.jpg") as written:
        assert (written.format, written.size) == ("JPEG", (WIDTH, HEIGHT))


def test_tables(prediction: Prediction, tmp_path: Path) -> None:
    rows = [describe(without_lesion(prediction), {}), describe(prediction, {"mask": ["m.png"]})]
    with CocoSink(tmp_path) as coco, CsvSink(tmp_path) as table:
        for row in rows:
            coco.write(row)
            table.write(row)
        assert not (tmp_path / "predictions.json").exists()  # appears when it is complete
    results = json.loads((tmp_path / "predictions.json").read_text())
    assert [result["category_id"] for result in results] == [2, 1]
    assert [result["image_id"] for result in results] == [2, 2]
    first = results[0]
    assert first["file_name"] == "sub/a.png" and first["bbox"] == [20, 10, 20, 10]
    assert first["score"] == pytest.approx(0.9)
    assert (mask_util.decode(first["segmentation"]) == prediction.instances.pred_masks[0]).all()
    with open(tmp_path / "predictions.csv", newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == [
        "file",
        "instance",
        "class",
        "score",
        "x",
        "y",
        "width",
        "height",
        "area_px",
        "area_share",
    ]
    assert lines[1] == ["sub/a.png", *[""] * 9]
    # 10x20 px less the hole and with the speck are 200 of 2400 px; 4x5 are 20.
    assert lines[2] == [
        "sub/a.png",
        "1",
        "melanoma",
        "0.9",
        "20.0",
        "10.0",
        "20.0",
        "10.0",
        "200",
        "0.083333",
    ]
    assert lines[3] == ["sub/a.png", "2", "nevus", "0.6", "2.0", "30.0", "5.0", "4.0", "20", "0.008333"]


def test_table_without_any_lesion_is_an_empty_list(prediction: Prediction, tmp_path: Path) -> None:
    with CocoSink(tmp_path) as coco:
        coco.write(describe(without_lesion(prediction), {}))
    assert json.loads((tmp_path / "predictions.json").read_text()) == []


def test_table_of_a_failed_run_does_not_appear(prediction: Prediction, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), CsvSink(tmp_path / "out") as table:
        table.write(describe(prediction, {}))
        raise RuntimeError
    assert list((tmp_path / "out").iterdir()) == []


def test_row_survives_json(prediction: Prediction) -> None:
    row = describe(prediction, {"mask": ["m.png"]})
    assert json.loads(json.dumps(row)) == row
    assert (row["name"], row["height"], row["width"]) == ("sub/a", HEIGHT, WIDTH)
    assert len(csv_rows(row)) == 2


def test_parse_save() -> None:
    assert parse_save("mask, csv,mask") == ("mask", "csv")
    with pytest.raises(LesionsegError, match=f"takes {', '.join(KINDS)}.*unknown: masks, png"):
        parse_save("masks,csv,png")
    with pytest.raises(LesionsegError, match="found none"):
        parse_save(" , ")
