"""The classifier's part of the report: tables and plots from a run of tools/train_classifier.py."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lesionseg.classifier_results import focus_class
from lesionseg.classifier_scores import BINS, class_weights, roc_points
from lesionseg.classifier_training import IMPORTANCE, PREDICTIONS, SCORES
from lesionseg.errors import LesionsegError
from lesionseg.intervals import bootstrap
from lesionseg.report_plots import BLUE, GREY, ORANGE, confusion_plot, figure
from lesionseg.tables import interval_text, number

FEATURES_SHOWN = 10


def classifier_part(run: Path, scored: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """What the template needs.

    Args:
        run: folder of tools/train_classifier.py.
        scored: by data set, the rows of scores.csv of the report's own run, for the comparison on the same images.

    Raises:
        LesionsegError: the run is not finished.
    """
    if not (run / SCORES).is_file():
        raise LesionsegError(
            f"{run}: expected a finished classifier run with {SCORES}; see tools/train_classifier.py"
        )
    content = json.loads((run / SCORES).read_text(encoding="utf-8"))
    classes, route = content["classes"], content["route"]
    split = list(content["splits"])[-1]
    scores = content["splits"][split][route]
    rows = [row for row in _read(run / PREDICTIONS) if row["split"] == split]
    truth = np.array([classes.index(row["true_class"]) for row in rows])
    probabilities = np.array([[float(row[f"p_{name}"]) for name in classes] for row in rows])
    focus = focus_class(classes)
    positive, p_focus = truth == classes.index(focus), probabilities[:, classes.index(focus)]
    return {
        "name": run.resolve().name,
        "split": split,
        "route": route,
        "focus": focus,
        "n": scores["n"],
        "groups": scores["groups"],
        "routes": content["splits"][split],
        "classes": scores["classes"],
        "calibration_error": scores["calibration_error"],
        "importance": _read(run / IMPORTANCE)[:FEATURES_SHOWN] if (run / IMPORTANCE).is_file() else [],
        "comparisons": [
            found for name, other in scored.items() if (found := compare_with(name, other, rows))
        ],
        "plots": {
            "roc": roc_plot(positive, p_focus, focus),
            "coverage": coverage_plot(scores["coverage"]),
            "reliability": reliability_plot(truth, probabilities),
            "confusion": confusion_plot({"names": classes, "matrix": scores["confusion_matrix"]}),
        },
    }


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def compare_with(
    dataset: str, scored: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, str]]
) -> dict[str, Any] | None:
    """Classes by the detector's best instance against the classifier's, on the images that both were tested on.

    Args:
        scored: rows of scores.csv with "id", "reference_class", "predicted_class".
        rows: of the classifier's predictions.csv.

    Returns:
        n, and for both the accuracy and balanced accuracy, and the difference in accuracy, with 95 % intervals over lesions
        or patients; None where there are no such images, or the detector was not trained on these classes.
    """
    detector = {row["id"]: row for row in scored}
    pairs = [(row, detector[row["sample_id"]]) for row in rows if row["sample_id"] in detector]
    pairs = [(row, other) for row, other in pairs if row["true_class"] == other["reference_class"]]
    if not pairs:
        return None
    groups = [row["group"] or row["sample_id"] for row, _ in pairs]
    truth = [row["true_class"] for row, _ in pairs]
    right = {
        "Mask R-CNN with classes": [other["predicted_class"] == row["true_class"] for row, other in pairs],
        "Mask R-CNN and classifier": [most_probable(row) == row["true_class"] for row, _ in pairs],
    }
    result: dict[str, Any] = {"dataset": dataset, "n": len(pairs), "rows": []}
    for name, hits in right.items():
        share = [
            np.mean([hit for hit, label in zip(hits, truth, strict=True) if label == c]) for c in set(truth)
        ]
        accuracy = interval_text(bootstrap(np.array(hits, float), groups)._asdict())
        result["rows"].append((name, accuracy, number(float(np.mean(share)))))
    first, second = (np.array(hits, float) for hits in right.values())
    result["difference"] = interval_text(bootstrap(second - first, groups)._asdict())
    return result


def most_probable(row: Mapping[str, str]) -> str:
    """The class of the highest probability in a row of predictions.csv, also where the classifier abstained."""
    columns = [name for name in row if name.startswith("p_")]
    return max(columns, key=lambda name: float(row[name]))[2:]


def roc_plot(positive: np.ndarray, probability: np.ndarray, focus: str) -> str | None:
    """Sensitivity over 1 - specificity of one class against the others; None without both kinds."""
    if positive.all() or not positive.any():
        return None
    true, false = (np.append(0, counts[0]) for counts in roc_points(positive, probability))
    with figure() as (_, axes, result):
        axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="chance")
        axes.plot(false / false[-1], true / true[-1], color=BLUE, label=focus)
        axes.axhline(0.95, color=ORANGE, linewidth=1, linestyle=":", label="sensitivity 0.95")
        axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
        axes.legend(loc="lower right")
    return result[0]


def coverage_plot(curve: Sequence[Mapping[str, float]]) -> str:
    """Accuracy over the share of crops that are answered."""
    with figure() as (_, axes, result):
        x = [point["coverage"] for point in curve]
        for key, color in (("accuracy", BLUE), ("balanced_accuracy", ORANGE)):
            y = [point[key] for point in curve]
            axes.plot(x, y, "o-", color=color, markersize=4, label=key.replace("_", " "))
        axes.set(xlabel="share of crops answered, surest first", ylabel="share right")
        axes.legend(loc="lower left")
    return result[0]


def reliability_plot(truth: np.ndarray, probabilities: np.ndarray) -> str:
    """Share right over the highest probability, in bins; classes weighted to be equally common, as in calibration."""
    top, weights = probabilities.max(axis=1), class_weights(truth)
    right = probabilities.argmax(axis=1) == truth
    member = np.minimum((top * BINS).astype(int), BINS - 1)
    total = np.bincount(member, weights, minlength=BINS)
    filled = total > 0
    x = np.bincount(member, weights * top, minlength=BINS)[filled] / total[filled]
    y = np.bincount(member, weights * right, minlength=BINS)[filled] / total[filled]
    with figure() as (_, axes, result):
        axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="probability = share right")
        axes.plot(x, y, color=BLUE, linewidth=1)
        axes.scatter(
            x, y, s=20 + 160 * total[filled] / total.max(), color=BLUE, alpha=0.8, label="crops of a bin"
        )
        axes.set(
            xlabel="highest probability, mean of bin", ylabel="share right", xlim=(0, 1.02), ylim=(0, 1.02)
        )
        axes.legend(loc="upper left")
    return result[0]
