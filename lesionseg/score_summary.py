"""From a row an image to what is said of a data set: means with intervals, subgroups, calibration. Content of scores.json."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lesionseg.calibration import expected_calibration_error, reliability
from lesionseg.errors import LesionsegError
from lesionseg.images import atomic_write
from lesionseg.intervals import CONFIDENCE, RESAMPLES, Interval, bootstrap, rate
from lesionseg.metrics import JACCARD_THRESHOLD
from lesionseg.subgroups import DIVISIONS, Division

Row = dict[str, Any]

# Metrics of scores.csv that a data set's table shows, in its order.
METRICS = (
    "jaccard",
    "threshold_jaccard",
    "dice",
    "accuracy",
    "sensitivity",
    "specificity",
    "precision",
    "boundary_iou_2pct",
    "boundary_iou_5px",
    "surface_dice_1pct",
    "surface_dice_3px",
    "hd95_px",
    "hd95_pct",
    "assd_px",
    "assd_pct",
    "area_error_pct",
    "centre_error_px",
    "centre_error_pct",
)
SUBGROUP_METRICS = ("jaccard", "threshold_jaccard", "dice", "hd95_pct")
MIN_GROUPS = 10  # a bootstrap of fewer says nothing of what it has not seen: no interval is given


def _entry(interval: Interval) -> dict[str, Any]:
    if interval.groups < MIN_GROUPS:
        interval = interval._replace(low=math.nan, high=math.nan)
    return interval._asdict()


def _groups(rows: Sequence[Row]) -> list[str]:
    return [row["group"] for row in rows]


def failure_rate(rows: Sequence[Row]) -> dict[str, Any]:
    """Share of images whose Jaccard index is below 0.65, with its interval."""
    return _entry(rate([row["jaccard"] < JACCARD_THRESHOLD for row in rows], _groups(rows)))


def metric_table(rows: Sequence[Row], metrics: Sequence[str] = METRICS) -> dict[str, dict[str, Any]]:
    """Mean and median of each metric, with intervals over groups: {metric: {"mean": {...}, "median": {...}}}."""
    groups = _groups(rows)
    table = {}
    for metric in metrics:
        values = [row[metric] for row in rows]
        table[metric] = {kind: _entry(bootstrap(values, groups, kind)) for kind in ("mean", "median")}
    return table


def subgroup_table(rows: Sequence[Row], division: Division) -> dict[str, Any]:
    """n, mean scores and failure rate of every group of a division."""
    parts = []
    for name in division.names:
        members = [row for row, member in zip(rows, division.member, strict=True) if member == name]
        groups = _groups(members)
        scores = {
            metric: _entry(bootstrap([row[metric] for row in members], groups)) for metric in SUBGROUP_METRICS
        }
        parts.append({"name": name, "n": len(members), **scores, "failure_rate": failure_rate(members)})
    return {"title": division.title, "note": division.note, "groups": parts}


def calibration_table(rows: Sequence[Row]) -> dict[str, Any]:
    """Reliability bins and expected calibration error of the images that have a detection."""
    detected = [row for row in rows if not math.isnan(row["score"])]
    if not detected:
        note = "there are no detection scores: only a run (--run) has them, masks alone do not"
        return {"note": note, "n": 0, "ece": math.nan, "bins": []}
    bins = reliability([row["score"] for row in detected], [row["jaccard"] for row in detected])
    without = len(rows) - len(detected)
    note = f"{without} images without a detection have no score and are left out" if without else ""
    return {
        "note": note,
        "n": len(detected),
        "ece": expected_calibration_error(bins),
        "bins": [b._asdict() for b in bins],
    }


def class_table(rows: Sequence[Row]) -> dict[str, Any]:
    """Confusion matrix of the class of the best detection: rows are reference classes, the last column is no detection."""
    names = sorted({row[column] for row in rows for column in ("reference_class", "predicted_class")} - {""})
    if len(names) < 2:
        note = (
            "the detector has one class, lesion; prepare the data with --classes to have it tell more apart"
        )
        return {"note": note, "names": [], "matrix": []}
    columns = [*names, ""]
    matrix = [[0] * len(columns) for _ in names]
    for row in rows:
        if row["reference_class"]:
            matrix[names.index(row["reference_class"])][columns.index(row["predicted_class"])] += 1
    return {"note": "", "names": names, "matrix": matrix}


def summarise_scores(rows: Sequence[Row]) -> dict[str, Any]:
    """Everything that rows of scores.csv tell of a data set; plain lists and dicts, NaN where nothing was measured."""
    groups = _groups(rows)
    unit = "lesions or patients" if any(groups) else "images, as no lesion or patient is known"
    return {
        "images": len(rows),
        "groups": len(set(groups) - {""}) + groups.count(""),
        "interval": f"{100 * CONFIDENCE:.0f} % percentile bootstrap over {unit}, {RESAMPLES} resamples; none for fewer than {MIN_GROUPS}",
        "missing": [row["id"] for row in rows if row["missing"]],
        "empty": [row["id"] for row in rows if not row["missing"] and not row["predicted_area_px"]],
        "failure_rate": failure_rate(rows),
        "metrics": metric_table(rows),
        "subgroups": [subgroup_table(rows, divide(rows)) for divide in DIVISIONS],
        "calibration": calibration_table(rows),
        "classes": class_table(rows),
    }


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Write scores.json; NaN becomes null."""
    with atomic_write(path) as temporary:
        temporary.write_text(
            json.dumps(_without_nan(summary), indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_summary(path: Path) -> dict[str, Any]:
    """Content of scores.json, with None for what was not measured.

    Raises:
        LesionsegError: no such file, or not one that `write_summary` wrote.
    """
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        summary["metrics"]["jaccard"]
    except FileNotFoundError:
        raise LesionsegError(f"{path}: no such file; make it with tools/evaluate.py") from None
    except (ValueError, KeyError, TypeError) as error:
        raise LesionsegError(
            f"{path}: expected scores of tools/evaluate.py, found: {error!r}; make it again"
        ) from error
    return summary
