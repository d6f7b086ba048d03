"""Crops of a whole prepared data set with their labels and ABCD features: what the classifier is trained on.

Output folder: `<split>/<sample id>_<k>.png`, `crops.csv` (one row a crop, see COLUMNS) and `crops.json` (how they were
made; written last, its presence means the folder is complete). Splits, groups and diagnoses are those of the prepared
data set, which keeps pictures of one lesion or patient, and near duplicates, on one side.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
from tqdm import tqdm

from lesionseg import __version__
from lesionseg.crops import BACKGROUNDS, crop
from lesionseg.errors import LesionsegError
from lesionseg.features import FEATURES, measure
from lesionseg.images import atomic_write, read_image, remove_leftovers, write_image
from lesionseg.metrics import confusion, jaccard
from lesionseg.register import load_lesion_json, read_coco
from lesionseg.workers import died, each, in_processes

CROPS_CSV, CROPS_JSON, PROGRESS = "crops.csv", "crops.json", "progress.jsonl"
COLUMNS = (
    *("file", "sample_id", "instance", "image", "split", "group", "diagnosis", "category"),
    *("x", "y", "width", "height"),  # the lesion's box in px of the image
    "source",  # "reference" or "predicted"
    *("score", "jaccard"),  # of a predicted lesion; jaccard is with the image's reference mask
    *FEATURES,
)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CropSettings:
    """How crops are cut, see `lesionseg.crops.crop`; a classifier keeps the settings it was trained with."""

    margin: float = 0.1
    size: int = 256
    background: str = "keep"


@dataclass
class ExportSummary:
    """Crops by split; images without a predicted lesion; images that failed, with the reason."""

    crops: Counter[str] = field(default_factory=Counter)
    without_lesion: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def export_crops(
    dataset: str | Path,
    out: str | Path,
    settings: CropSettings = CropSettings(),
    predictions: Iterable[str | Path] = (),
    score_threshold: float = 0.3,
    workers: int = 1,
) -> ExportSummary:
    """Cut the crops of a prepared data set; a killed export continues when called again.

    Args:
        dataset: folder that tools/prepare_dataset.py wrote.
        out: folder for the crops.
        predictions: COCO results with masks, of `tools/predict.py` (predictions.json) or of an evaluation
            (coco_instances_results.json). Given, the best detection of each image is cropped instead of the reference.
        score_threshold: detections below it do not count, in [0, 1].
        workers: processes.

    Raises:
        LesionsegError: data set or predictions cannot be read; `out` holds crops that were made otherwise.
    """
    if settings.background not in BACKGROUNDS or settings.margin < 0 or settings.size < 8:
        raise LesionsegError(
            f"crops need a margin of 0 or more, a size of 8 px or more and a background of {', '.join(BACKGROUNDS)}; "
            f"found {settings}"
        )
    records = read_prepared(dataset)
    files = [Path(path) for path in predictions]
    digest = hashlib.sha256(
        json.dumps([[r["sample_id"], r["split"], r["annotations"]] for r in records], default=str).encode()
    )
    out = Path(out)
    if files:
        detections = best_detections(files, score_threshold)
        for path in files:
            digest.update(path.read_bytes())
        for record in records:
            record["detection"] = detections.get(record["sample_id"]) or detections.get(record["image_id"])
        records = _predicted_splits(records, out)
    made_by = {
        **asdict(settings),
        "dataset": Path(dataset).resolve().name,
        "source": "predicted" if files else "reference",
        "predictions": [path.name for path in files],
        "input (SHA-256)": digest.hexdigest(),
        "score_threshold": score_threshold if files else None,
    }
    done = _open_progress(out, made_by)
    todo = [record for record in records if record["sample_id"] not in done]
    cut = partial(_cut, out=out, settings=settings, predicted=bool(files))
    # Not forked: this process may hold threads of OpenCV or torch, for which a fork waits for ever.
    results = in_processes(each, cut, todo, min(workers, len(todo)), _died, together=4)
    summary = ExportSummary()
    with (out / PROGRESS).open("a", encoding="utf-8") as progress:
        for result in tqdm(results, total=len(todo), unit="image", disable=None):
            if "error" in result:
                summary.failed.append(result["error"])
                continue
            done[result["id"]] = result["rows"]
            progress.write(json.dumps(result) + "\n")
            progress.flush()
    remove_leftovers(*{out / record["split"] for record in records})
    _write(out, records, done, made_by, summary)
    return summary


def read_prepared(dataset: str | Path) -> list[dict[str, Any]]:
    """Records of all splits of a prepared data set, see `load_lesion_json`, each with "split" and "classes" added."""
    folder = Path(dataset)
    if not (folder / "summary.json").is_file():
        raise LesionsegError(
            f"{folder} is no prepared data set: expected a summary.json in it. Prepare one with tools/prepare_dataset.py"
        )
    records = []
    for split in read_coco(folder / "summary.json")["splits"]:
        path = folder / f"{split}.json"
        classes = [category["name"] for category in read_coco(path)["categories"]]
        records += [record | {"split": split, "classes": classes} for record in load_lesion_json(path)]
    return records


def _predicted_splits(records: list[dict[str, Any]], out: Path) -> list[dict[str, Any]]:
    """Records of the splits that were predicted at all: results name no image in which nothing was found."""
    found = {record["split"] for record in records if record["detection"]}
    if not found:
        raise LesionsegError(
            f"{out}: no crops, since none of the predictions is of an image of this data set, or none reaches the threshold"
        )
    if left_out := sorted({record["split"] for record in records} - found):
        logger.info("no predictions of %s: left out", ", ".join(left_out))
    return [record for record in records if record["split"] in found]


def best_detections(paths: Iterable[Path], score_threshold: float) -> dict[str | int, dict[str, Any]]:
    """The detection of the highest score of each image, by sample id (where the results have file names) or image id."""
    best: dict[str | int, dict[str, Any]] = {}
    for path in paths:
        results: Any = read_coco(path)
        if not isinstance(results, list) or not all(
            isinstance(r, dict) and "segmentation" in r for r in results
        ):
            raise LesionsegError(
                f"{path}: expected a list of COCO results with masks, such as predictions.json or coco_instances_results.json"
            )
        for result in results:
            key = Path(result["file_name"]).stem if "file_name" in result else result["image_id"]
            if result["score"] >= max(score_threshold, best.get(key, {"score": 0.0})["score"]):
                best[key] = result
    return best


def _open_progress(out: Path, made_by: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Rows of finished images by sample id; the first line of the file says how they were made."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / PROGRESS
    header = json.dumps({"version": __version__, **made_by})
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_text(header + "\n", encoding="utf-8")
        return {}
    with path.open(encoding="utf-8") as file:
        found = file.readline().rstrip("\n")
        if found != header:
            raise LesionsegError(
                f"{out} holds crops that were made differently: expected {header}, found {found}. "
                "Choose another --out, or delete the folder"
            )
        lines = [line for line in file if line.endswith("\n")]  # a killed run leaves a cut last line
    with atomic_write(path) as temporary:
        temporary.write_text(header + "\n" + "".join(lines), encoding="utf-8")
    return {row["id"]: row["rows"] for row in map(json.loads, lines)}


def _decode(segmentation: dict[str, Any], record: dict[str, Any]) -> np.ndarray:
    mask = mask_util.decode(segmentation).astype(bool)
    if mask.shape != (record["height"], record["width"]):
        raise LesionsegError(
            f"{record['file_name']}: expected a mask of {(record['height'], record['width'])}, found {mask.shape}. "
            "The predictions belong to another copy of the data set"
        )
    return mask


def _cut(record: dict[str, Any], out: Path, settings: CropSettings, predicted: bool) -> dict[str, Any]:
    """Write the crops of one image. Runs in a worker process: errors come back as text."""
    try:
        references = [_decode(a["segmentation"], record) for a in record["annotations"]]
        lesions: list[tuple[np.ndarray, dict[str, Any]]] = [
            (mask, {"source": "reference"}) for mask in references
        ]
        if predicted:
            lesions = _predicted_lesion(record, references)
        image = read_image(record["file_name"]) if lesions else None
        rows = []
        for number, (mask, extra) in enumerate(lesions, start=1):
            assert image is not None
            x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
            box = (x, y, x + width, y + height)
            file = f"{record['split']}/{record['sample_id']}_{number}.png"
            piece = crop(image, mask, box, settings.margin, settings.size, settings.background)
            write_image(out / file, piece)
            category = record["annotations"][0]["category_id"] if record["annotations"] else None
            row = {
                **{key: record[key] or "" for key in ("sample_id", "split", "group", "diagnosis")},
                "file": file,
                "instance": number,
                "image": record["file_name"],
                "category": "" if category is None else record["classes"][category],
                "x": x,
                "y": y,
                "width": width,
                "height": height,
                **extra,
                **{name: _rounded(value) for name, value in measure(image, mask).values.items()},
            }
            rows.append(row)
        return {"id": record["sample_id"], "rows": rows}
    except LesionsegError as error:
        return {"id": record["sample_id"], "error": str(error)}


def _died(record: dict[str, Any]) -> dict[str, Any]:
    return {"id": record["sample_id"], "error": str(died(record["file_name"]))}


def _predicted_lesion(
    record: dict[str, Any], references: list[np.ndarray]
) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """The image's best detection, with its score and its Jaccard index with the reference; none where there is none."""
    detection = record["detection"]
    if detection is None:
        return []
    mask = _decode(detection["segmentation"], record)
    if not mask.any():
        return []
    extra = {"source": "predicted", "score": round(detection["score"], 6)}
    if references:
        extra["jaccard"] = round(jaccard(confusion(np.any(references, axis=0), mask)), 6)
    return [(mask, extra)]


def _rounded(value: float) -> float | str:
    return "" if np.isnan(value) else float(f"{value:.6g}")


def _write(
    out: Path,
    records: list[dict[str, Any]],
    done: dict[str, list[dict[str, Any]]],
    made_by: dict[str, Any],
    summary: ExportSummary,
) -> None:
    """crops.csv in the data set's order, then crops.json."""
    with (
        atomic_write(out / CROPS_CSV) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, fieldnames=COLUMNS, lineterminator="\n")
        writer.writeheader()
        for record in records:
            rows = done.get(record["sample_id"])
            writer.writerows(rows or [])
            summary.crops[record["split"]] += len(rows or [])
            if rows == []:
                summary.without_lesion.append(record["file_name"])
    content = {
        "version": __version__,
        **made_by,
        "crops": dict(summary.crops),
        "without_lesion": len(summary.without_lesion),
        "failed": summary.failed,
    }
    with atomic_write(out / CROPS_JSON) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
