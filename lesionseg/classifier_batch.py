"""Classify exported crops with a trained run: a CSV of probabilities, and scores where the diagnosis is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lesionseg.classifier import CropClassifier
from lesionseg.classifier_data import Crop, labelled, read_crops
from lesionseg.classifier_results import (
    markdown,
    prediction_rows,
    summary_table,
    write_csv,
    write_json,
    write_text,
)
from lesionseg.classifier_scores import score
from lesionseg.errors import LesionsegError
from lesionseg.images import read_image


@dataclass
class BatchSummary:
    """How many crops got which class; the table of scores ("" without known diagnoses); crops that failed, and why."""

    labels: Counter[str] = field(default_factory=Counter)
    table: str = ""
    failed: list[str] = field(default_factory=list)


def classify_crops(
    classifier: CropClassifier, folders: Sequence[str | Path], output: str | Path, split: str | None = None
) -> BatchSummary:
    """Write `output` (CSV, see `prediction_rows`) and, where diagnoses are known, scores beside it as .json and .md.

    Args:
        folders: of tools/export_crops.py, cut as the classifier's training crops were.
        split: only crops of this split.

    Raises:
        LesionsegError: `output` is no .csv, so that the scores would overwrite it; folders that cannot be used; no crops.
    """
    if Path(output).suffix.lower() != ".csv":
        raise LesionsegError(f"--output {output}: expected the name of a .csv file")
    found, settings = read_crops(folders)
    if settings != classifier.settings:
        raise LesionsegError(
            f"the classifier was trained on crops cut with {classifier.settings}, these were cut with {settings}: "
            "export them again with the same --margin, --size and --background"
        )
    crops = labelled(found, classifier.classes, classifier.model["labels"])
    crops = [crop for crop in crops if split in (None, crop.row["split"])]
    summary = BatchSummary()
    if "network" in classifier.members:
        crops = [crop for crop in crops if _readable(crop, summary.failed)]
    if not crops:
        raise LesionsegError(
            f"no crops to classify in {', '.join(map(str, folders))} (split: {split or 'all'})"
        )
    probabilities = classifier.predict(crops)
    rows = prediction_rows(crops, probabilities, classifier.classes, classifier.abstain_below)
    output = Path(output)
    write_csv(output, rows)
    summary.labels = Counter(row["class"] for row in rows)
    summary.table = _write_scores(classifier, crops, probabilities, output, split or "all")
    return summary


def _readable(crop: Crop, failed: list[str]) -> bool:
    try:
        read_image(crop.file)
    except LesionsegError as error:
        failed.append(str(error))
        return False
    return True


def _write_scores(
    classifier: CropClassifier, crops: Sequence[Crop], probabilities: np.ndarray, output: Path, name: str
) -> str:
    """Scores of the crops with a known class; returns the summary table, "" where there are none."""
    known = [index for index, crop in enumerate(crops) if crop.label is not None]
    if not known:
        return ""
    truth = np.array([crops[index].label for index in known])
    groups = [crops[index].group for index in known]
    scores = {classifier.route: score(truth, probabilities[known], classifier.classes, groups)}
    write_json(output.with_suffix(".json"), {"classes": classifier.classes, "splits": {name: scores}})
    write_text(output.with_suffix(".md"), markdown({name: scores}, classifier.classes))
    return summary_table(name, scores, classifier.classes)
