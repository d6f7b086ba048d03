"""Predicted masks against reference masks: one row of scores an image, the same for every model and every team.

Rows go to `scores.csv`, and everything that is said of a data set (summary, comparison, report) is made from that file.
"""

from __future__ import annotations

import csv
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lesionseg.boundary import boundary_scores
from lesionseg.cases import Case, reference_mask, some
from lesionseg.conditions import image_conditions
from lesionseg.errors import LesionsegError
from lesionseg.images import atomic_write, read_image, read_mask
from lesionseg.metrics import component_count, confusion, isic_scores, location_errors, precision
from lesionseg.workers import cores, died, each, in_processes

logger = logging.getLogger(__name__)

# Columns of scores.csv that hold words; every other one holds a number, or nothing where nothing was measured.
TEXT_COLUMNS = ("id", "group", "diagnosis", "source", "reference_class", "predicted_class")
# Files that the row was made from, in scores.csv relative to its folder.
PATH_COLUMNS = ("image", "reference", "predicted")
_LEAST_FOR_PROCESSES = 100  # starting processes takes longer than scoring fewer
_CHUNK = 4


def score_masks(reference: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """All scores of one image from its two masks, bool (H, W) of one shape."""
    counts = confusion(reference, predicted)
    frame = np.concatenate([reference[0], reference[-1], reference[:, 0], reference[:, -1]])
    height, width = reference.shape
    return {
        "height": height,
        "width": width,
        **isic_scores(counts),
        "precision": precision(counts),
        **boundary_scores(reference, predicted),
        **location_errors(reference, predicted),
        "reference_area_px": counts.tp + counts.fn,
        "predicted_area_px": counts.tp + counts.fp,
        "reference_area_pct": 100 * (counts.tp + counts.fn) / (height * width),
        "reference_components": component_count(reference),
        "predicted_components": component_count(predicted),
        "touches_frame": int(frame.any()),
    }


def score_case(case: Case) -> dict[str, Any]:
    """One row of scores.csv: words about the image, scores, and image conditions where the image is known.

    Raises:
        LesionsegError: a file cannot be read, or sizes differ.
    """
    reference = reference_mask(case)
    predicted = read_mask(case.predicted) if case.predicted else np.zeros_like(reference)
    if predicted.shape != reference.shape:
        raise LesionsegError(
            f"{case.predicted}: expected {_size(reference)} px as the reference mask of {case.id} has, found "
            f"{_size(predicted)}. Resize the prediction to its image's size (nearest neighbour) before scoring"
        )
    row: dict[str, Any] = {
        "id": case.id,
        "group": case.group,
        "diagnosis": case.diagnosis,
        "source": case.source,
        "reference_class": case.reference_class,
        "predicted_class": case.predicted_class,
        "score": case.score,
        "missing": int(case.predicted is None),
        **score_masks(reference, predicted),
    }
    if case.image:
        image = read_image(case.image)
        if image.shape[:2] != reference.shape:
            raise LesionsegError(
                f"{case.image}: expected {_size(reference)} px as its reference mask has, found {_size(image)}. "
                "Prepare the data set again with tools/prepare_dataset.py"
            )
        row |= image_conditions(image, reference)
    return {**row, "image": case.image, "reference": case.mask, "predicted": case.predicted}


def _score_or_problem(case: Case) -> dict[str, Any] | str:
    try:
        return score_case(case)
    except LesionsegError as error:
        return str(error)


def _died(case: Case) -> str:
    return str(died(case.image or case.id))


def score_cases(cases: Sequence[Case], workers: int | None = None) -> list[dict[str, Any]]:
    """Rows of all cases, in their order, computed on all cores.

    Args:
        workers: processes; by default one a processor, and none beside this one for a few images.

    Raises:
        LesionsegError: files that cannot be read or have a wrong size; all of them are named.
    """
    workers = workers or (cores() if len(cases) >= _LEAST_FOR_PROCESSES else 1)
    # Not forked: this process may hold threads of torch or a CUDA context, which a fork breaks.
    scored = in_processes(each, _score_or_problem, cases, workers, _died, together=_CHUNK)
    results = list(tqdm(scored, total=len(cases), desc="scoring", unit="image", disable=None))
    if problems := [result for result in results if isinstance(result, str)]:
        raise LesionsegError(
            f"{len(problems)} of {len(cases)} images cannot be scored, so there is no score:\n  "
            + "\n  ".join(problems[:50])
            + (f"\n  ... and {len(problems) - 50} more" if len(problems) > 50 else "")
        )
    rows = [result for result in results if isinstance(result, dict)]
    if missing := [row["id"] for row in rows if row["missing"]]:
        logger.warning(
            "%d of %d images have no prediction and are scored as empty masks: %s",
            len(missing),
            len(rows),
            some(missing),
        )
    return rows


def write_scores(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write scores.csv: a row an image, floats in full precision, an empty cell where nothing was measured."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value, path.parent) for name, value in row.items()})


def _cell(value: Any, folder: Path) -> Any:
    if isinstance(value, Path):
        return Path(os.path.relpath(value.resolve(), folder.resolve())).as_posix()
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def read_scores(path: Path) -> list[dict[str, Any]]:
    """Rows of scores.csv: str in TEXT_COLUMNS, Path or None in PATH_COLUMNS, float elsewhere, NaN for an empty cell.

    Raises:
        LesionsegError: no such file, or not one that `write_scores` wrote.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [
                {name: _value(name, cell, path.parent) for name, cell in row.items()}
                for row in csv.DictReader(file)
            ]
    except FileNotFoundError:
        raise LesionsegError(f"{path}: no such file; make it with tools/evaluate.py") from None
    except (ValueError, TypeError, UnicodeDecodeError) as error:
        raise LesionsegError(
            f"{path}: expected a table of tools/evaluate.py, found: {error}; make it again"
        ) from error
    if not rows or not {"id", "jaccard"} <= rows[0].keys():
        raise LesionsegError(
            f"{path}: expected rows with columns id and jaccard; make it again with tools/evaluate.py"
        )
    return rows


def _value(name: str, cell: str, folder: Path) -> Any:
    if name in TEXT_COLUMNS:
        return cell
    if name in PATH_COLUMNS:
        return Path(os.path.normpath(folder / cell)) if cell else None
    return float(cell) if cell else math.nan


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
