"""The classifier's part of the report: tables and plots from a run of tools/train_classifier.py."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lesionseg.classifier_results import focus_class
from lesionseg.classifier_scores import BINS, class_weights, roc_points, score, score_difference
from lesionseg.classifier_training import IMPORTANCE, PREDICTIONS, SCORES
from lesionseg.errors import LesionsegError
from lesionseg.report_plots import BLUE, GREY, ORANGE, confusion_plot, figure

FEATURES_SHOWN = 10
INFERENCE = "inference.json"  # of tools/evaluate.py --run
NOTHING = "nothing found"


def classifier_part(
    run: Path, scored: Mapping[Path, Sequence[Mapping[str, Any]]], classified: Path | None = None
) -> dict[str, Any]:
    """What the template needs.

    Args:
        run: folder of tools/train_classifier.py.
        scored: by folder of tools/evaluate.py the rows of its scores.csv, for the comparison on the same images.
        classified: table of tools/classify.py on crops that were cut by the detector's masks, compared too.

    Raises:
        LesionsegError: the run is not finished; `classified` is no such table, or has other classes.
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
    others = _classified(classified, classes) if classified else []
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
            found for folder, other in scored.items() if (found := compare_with(folder, other, rows, others))
        ],
        "plots": {
            "roc": roc_plot(positive, p_focus, focus),
            "coverage": coverage_plot(scores["coverage"]),
            "reliability": reliability_plot(truth, probabilities),
            "confusion": confusion_plot({"names": classes, "matrix": scores["confusion_matrix"]}),
        },
    }


def _classified(path: Path, classes: Sequence[str]) -> list[dict[str, str]]:
    rows = _read(path) if path.is_file() else []
    found = [name[2:] for name in (rows[0] if rows else {}) if name.startswith("p_")]
    if found != list(classes):
        raise LesionsegError(
            f"{path}: expected a table of tools/classify.py with the classes {', '.join(classes)}, found "
            f"{', '.join(found) or 'none'}"
        )
    return rows


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@dataclass(frozen=True)
class Way:
    """One way to a class.

    Attributes:
        scores: by sample id, scores in [0, 1] by class; a class that is not named has 0.
        missed: images in which no lesion was found, and so no class.
    """

    name: str
    scores: Mapping[str, Mapping[str, float]]
    missed: frozenset[str] = frozenset()

    def matrix(self, images: Sequence[str], classes: Sequence[str]) -> np.ndarray:
        """Scores, float (images, classes + 1); the last column is 1 for missed images, and so the highest of their row."""
        rows = [[self.scores.get(i, {}).get(c, 0.0) for c in classes] + [i in self.missed] for i in images]
        return np.array(rows, dtype=float)


def detector_way(folder: Path) -> Way:
    """The classes that Mask R-CNN itself found on a data set.

    Args:
        folder: of tools/evaluate.py --run, with inference.json.

    Raises:
        LesionsegError: no scores by class in it.
    """
    path = folder / INFERENCE
    images = json.loads(path.read_text(encoding="utf-8"))["images"] if path.is_file() else {}
    if not images or any("classes" not in found for found in images.values()):
        raise LesionsegError(
            f"{path}: expected the scores of every class in it, found none. Delete the file and run tools/evaluate.py again"
        )
    return Way(
        "Mask R-CNN's own classes",
        {name: found["classes"] for name, found in images.items()},
        frozenset(name for name, found in images.items() if found["score"] is None),
    )


def classifier_way(name: str, rows: Sequence[Mapping[str, str]], images: Iterable[str]) -> Way:
    """What a classifier says of crops; of images without a crop it says nothing.

    Args:
        rows: of predictions.csv, or of tools/classify.py; the first crop of an image counts.
        images: ids of all images that were to be classified.
    """
    scores: dict[str, dict[str, float]] = {}
    for row in rows:
        found = {key[2:]: float(value) for key, value in row.items() if key.startswith("p_")}
        scores.setdefault(row["sample_id"], found)
    return Way(name, scores, frozenset(images) - scores.keys())


def compare_with(
    folder: Path,
    scored: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, str]],
    classified: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any] | None:
    """Mask R-CNN's own classes against the classifier's, on the images that both were tested on.

    Args:
        folder: where tools/evaluate.py scored the data set.
        scored: rows of its scores.csv with "id", "reference_class".
        rows: of the classifier's predictions.csv, of one split: crops by reference masks.
        classified: of tools/classify.py, on crops by the detector's masks; none if there are none.

    Returns:
        See `compare_ways`, and "dataset"; None where there are no such images, or the detector was not trained on these
        classes.
    """
    reference = {row["id"]: row["reference_class"] for row in scored}
    shared = {row["sample_id"]: row for row in reversed(rows)}
    shared = {name: row for name, row in shared.items() if reference.get(name) == row["true_class"]}
    if not shared:
        return None
    ways = [detector_way(folder)]
    if any(row["sample_id"] in shared for row in classified):
        ways.append(classifier_way("Classifier, outlines by Mask R-CNN", classified, shared))
    ways.append(classifier_way("Classifier, reference outlines", rows, shared))
    images = sorted(shared)
    return {
        "dataset": folder.name,
        **compare_ways(
            images,
            [shared[name]["true_class"] for name in images],
            [shared[name]["group"] or name for name in images],
            [key[2:] for key in rows[0] if key.startswith("p_")],
            ways,
        ),
    }


def compare_ways(
    images: Sequence[str],
    truth: Sequence[str],
    groups: Sequence[str],
    classes: Sequence[str],
    ways: Sequence[Way],
) -> dict[str, Any]:
    """Scores of several ways to a class on the same images; an image without a class counts as wrong, and 0 for any class.

    Returns:
        n, groups, focus (see `focus_class`); "rows": of each way its "name", the number of images it "missed", and
        "scores", see `classifier_scores.score`; "differences": of each further way its "name", and by score
        what it has over the first way, see `classifier_scores.score_difference`.
    """
    index = np.array([classes.index(name) for name in truth])
    matrices = [way.matrix(images, classes) for way in ways]
    rows: list[dict[str, Any]] = [
        {
            "name": way.name,
            "missed": int(matrix[:, -1].sum()),
            "scores": score(index, matrix, [*classes, NOTHING], groups),
        }
        for way, matrix in zip(ways, matrices, strict=True)
    ]
    differences = [
        {"name": way.name, "scores": score_difference(index, matrices[0], matrix, groups)}
        for way, matrix in zip(ways[1:], matrices[1:], strict=True)
    ]
    return {
        "n": len(images),
        "groups": rows[0]["scores"]["groups"],
        "classes": list(classes),
        "focus": focus_class(classes),
        "rows": rows,
        "differences": differences,
    }


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
