"""What a classifier says and how good it is, on disk: CSV rows, JSON, Markdown tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from lesionseg.classifier_data import Crop
from lesionseg.images import atomic_write
from lesionseg.tables import interval_text, number

UNCERTAIN = "uncertain"
MAJORITY = "majority class"  # the baseline that always says the most common class
FOCUS = ("melanoma", "malignant")  # the class that must not be missed


def label_of(probabilities: np.ndarray, classes: Sequence[str], abstain_below: float) -> str:
    """The most probable class of (classes,) probabilities; "uncertain" where it is less probable than `abstain_below`."""
    return classes[int(probabilities.argmax())] if probabilities.max() >= abstain_below else UNCERTAIN


def prediction_rows(
    crops: Sequence[Crop], probabilities: np.ndarray, classes: Sequence[str], abstain_below: float
) -> list[dict[str, Any]]:
    """Rows for a CSV file: what each crop is, the class it is given, and the probability of each class."""
    rows = []
    for crop, p in zip(crops, probabilities, strict=True):
        kept = ("sample_id", "instance", "split", "group", "diagnosis")
        row: dict[str, Any] = {"file": str(crop.file), **{key: crop.row[key] for key in kept}}
        row["true_class"] = "" if crop.label is None else classes[crop.label]
        row |= {"class": label_of(p, classes, abstain_below), "probability": round(float(p.max()), 6)}
        row |= {f"p_{name}": round(float(value), 6) for name, value in zip(classes, p, strict=True)}
        rows.append(row)
    return rows


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def focus_class(classes: Sequence[str]) -> str:
    """Melanoma or malignant, where there is such a class; else the first class."""
    return next((name for name in FOCUS if name in classes), classes[0])


def markdown(splits: Mapping[str, Mapping[str, Any]], classes: Sequence[str]) -> str:
    """For each split a table of all routes, and for each route its classes, confusion matrix and coverage.

    Args:
        splits: {split: {route: scores}}, see `classifier_scores.score`.
    """
    parts = []
    for split, routes in splits.items():
        parts += [summary_table(split, routes, classes)]
        for route, scores in routes.items():
            if route != MAJORITY:
                tables = _classes_table(scores), _confusion_table(scores, classes), _coverage_table(scores)
                parts += [f"### {split}, {route}", *tables]
    return "\n\n".join(parts) + "\n"


def summary_table(split: str, routes: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Heading, a row a route, and what the columns mean."""
    focus = focus_class(classes)
    first = next(iter(routes.values()))
    rows = []
    for route, scores in routes.items():
        entry = scores["classes"][focus]
        rows.append(
            [
                route,
                *(interval_text(scores[key]) for key in ("accuracy", "balanced_accuracy", "macro_auc")),
                *(interval_text(entry[key]) for key in ("auc", "average_precision")),
                number(entry["specificity_at_95_sensitivity"]),
                number(scores["calibration_error"]),
            ]
        )
    head = [
        "route",
        "accuracy",
        "balanced accuracy",
        "mean AUC",
        f"{focus}: AUC",
        f"{focus}: average precision",
    ]
    head += [f"{focus}: specificity at 95 % sensitivity", "calibration error"]
    title = f"## {split}: {first['n']} crops of {first['groups']} lesions or patients"
    note = "In brackets: 95 % bootstrap interval over lesions or patients. Calibration error: for equally common classes."
    return f"{title}\n\n{_table(head, rows)}\n\n{note}"


def _classes_table(scores: Mapping[str, Any]) -> str:
    rows = []
    for name, entry in scores["classes"].items():
        values = [number(entry["sensitivity"]), number(entry["specificity"])]
        values += [interval_text(entry["auc"]), interval_text(entry["average_precision"])]
        rows.append([name, str(entry["n"]), *values, number(entry["specificity_at_95_sensitivity"])])
    head = ["class", "n", "sensitivity", "specificity", "AUC", "average precision"]
    return _table([*head, "specificity at 95 % sensitivity"], rows)


def _confusion_table(scores: Mapping[str, Any], classes: Sequence[str]) -> str:
    rows = [[name, *map(str, row)] for name, row in zip(classes, scores["confusion_matrix"], strict=True)]
    return _table(["true, down; predicted, across", *classes], rows)


def _coverage_table(scores: Mapping[str, Any]) -> str:
    keys = ("coverage", "threshold", "accuracy", "balanced_accuracy")
    rows = [[number(row[key]) for key in keys] for row in scores["coverage"]]
    return _table(["share of crops answered", "least probability", "accuracy", "balanced accuracy"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tabulate(rows, headers=head, tablefmt="github", disable_numparse=True)
