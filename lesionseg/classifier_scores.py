"""Scores of a classifier, with intervals over lesions or patients: pure functions on labels and probabilities.

Probabilities are posteriors for equally common classes (see `classifier_calibration`); calibration is judged with weights
that make the classes equally common, everything else on the crops as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lesionseg.intervals import SEED, group_indices

RESAMPLES = 1000
SENSITIVITY = 0.95  # at which specificity is reported, as in ISIC 2017 part 3
BINS = 10
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts, int (classes, classes): row the true class, column the predicted one."""
    return np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)


def roc_points(
    positive: np.ndarray, score: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Weight of true and of false positives when everything from a score on counts as positive, for each distinct score.

    Args:
        positive: bool (n,).
        score: (n,), higher is more positive.
        weights: (resamples, n) or None for one row of ones.

    Returns:
        true, false: float (resamples, distinct scores), from the highest score to the lowest.
    """
    weights = np.ones((1, len(score))) if weights is None else weights
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)  # of each run of equal scores
    drawn = weights[:, order]
    true = np.cumsum(drawn * positive[order], axis=1)[:, last]
    false = np.cumsum(drawn * ~positive[order], axis=1)[:, last]
    return true, false


def roc_auc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve in [0, 1] by the trapezoidal rule, (resamples,); NaN without both kinds. See `roc_points`."""
    true, false = (np.pad(counts, ((0, 0), (1, 0))) for counts in roc_points(positive, score, weights))
    area = ((true[:, 1:] + true[:, :-1]) / 2 * np.diff(false, axis=1)).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return area / (true[:, -1] * false[:, -1])


def average_precision(
    positive: np.ndarray, score: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Sum over distinct scores of precision times gain in recall, in [0, 1], (resamples,); NaN without positives.

    The estimate without interpolation, as in scikit-learn and the ISIC challenges. See `roc_points` for arguments.
    """
    true, false = roc_points(positive, score, weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.nan_to_num(true / (true + false))
        return (np.diff(np.pad(true, ((0, 0), (1, 0))), axis=1) * precision).sum(axis=1) / true[:, -1]


def specificity_at(positive: np.ndarray, score: np.ndarray, sensitivity: float = SENSITIVITY) -> float:
    """Highest specificity, in [0, 1], of all thresholds that reach the sensitivity; NaN without both kinds."""
    if positive.all() or not positive.any():
        return float("nan")
    true, false = (counts[0] for counts in roc_points(positive, score))
    enough = true >= sensitivity * positive.sum() - 1e-9
    return float(1 - false[enough].min() / np.count_nonzero(~positive))


def class_weights(truth: np.ndarray) -> np.ndarray:
    """Weights (n,), mean 1, that make the classes in `truth` equally common."""
    counts = np.bincount(truth)
    return len(truth) / (np.count_nonzero(counts) * counts[truth])


def calibration_error(truth: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error of the highest probability, in [0, 1], for equally common classes.

    sum over bins of equal width of w_b |accuracy - mean probability| (Guo et al., "On calibration of modern neural
    networks", ICML 2017), w_b the bin's share of `class_weights`.
    """
    top, weights = probabilities.max(axis=1), class_weights(truth)
    right = probabilities.argmax(axis=1) == truth
    member = np.minimum((top * bins).astype(int), bins - 1)
    gaps = np.bincount(member, weights * (right - top), minlength=bins)
    return float(np.abs(gaps).sum() / weights.sum())


def coverage_curve(truth: np.ndarray, probabilities: np.ndarray) -> list[dict[str, float]]:
    """Accuracy and balanced accuracy on the surest crops, when the classifier abstains on the others.

    Returns:
        for each of COVERAGES: coverage (share of crops kept), threshold (lowest highest probability among them),
        accuracy, balanced_accuracy (over the classes that are left).
    """
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    rows = []
    for coverage in COVERAGES:
        kept = order[: max(1, round(coverage * len(truth)))]
        predicted = probabilities[kept].argmax(axis=1)
        matrix = confusion_matrix(truth[kept], predicted, probabilities.shape[1])
        rows.append(
            {
                "coverage": len(kept) / len(truth),
                "threshold": float(probabilities[kept[-1]].max()),
                "accuracy": float(np.trace(matrix) / len(kept)),
                "balanced_accuracy": float(_balanced(matrix)),
            }
        )
    return rows


def _balanced(matrices: np.ndarray) -> np.ndarray:
    """Mean sensitivity over the classes that occur, of confusion matrices (..., classes, classes)."""
    totals = matrices.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nanmean(np.diagonal(matrices, axis1=-2, axis2=-1) / totals, axis=-1)


def _resamples(groups: Sequence[str | None]) -> np.ndarray:
    """How often each crop is drawn when groups are drawn with replacement, (RESAMPLES, n)."""
    members = group_indices(groups)
    count = int(members.max()) + 1
    return np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)[
        :, members
    ]


def _interval(value: float, drawn: np.ndarray) -> dict[str, float | None]:
    """Value with the 2.5th and 97.5th percentile of its resamples; resamples without one of the kinds are left out."""
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (np.nan, np.nan)
    return {"value": _number(value), "low": _number(low), "high": _number(high)}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def score(
    truth: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], groups: Sequence[str | None]
) -> dict[str, Any]:
    """All scores of a classifier, ready for JSON; None where something cannot be computed.

    Args:
        truth: int (n,), class indices.
        probabilities: float (n, classes), rows adding up to 1. The highest is the prediction.
        classes: names.
        groups: (n,) lesion or patient of each crop, over which the 95 % intervals are bootstrapped (see `intervals`).

    Returns:
        n, groups; accuracy, balanced_accuracy (mean sensitivity), macro_auc: {value, low, high}; per class: n,
        sensitivity, specificity, auc, average_precision, specificity_at_95_sensitivity; confusion_matrix (rows true);
        calibration_error and log_loss for equally common classes; coverage, see `coverage_curve`.
    """
    predicted = probabilities.argmax(axis=1)
    drawn = _resamples(groups)
    aucs = _aucs(truth, probabilities, drawn)
    likelihood = np.maximum(probabilities[np.arange(len(truth)), truth], 1e-12)
    return {
        "n": len(truth),
        "groups": len(set(group_indices(groups).tolist())),
        **{name: _interval(*pair) for name, pair in _overall(truth, probabilities, drawn, aucs).items()},
        "classes": {
            name: _class_scores(
                truth == index, predicted == index, probabilities[:, index], drawn, aucs[index]
            )
            for index, name in enumerate(classes)
        },
        "confusion_matrix": confusion_matrix(truth, predicted, len(classes)).tolist(),
        "calibration_error": calibration_error(truth, probabilities),
        "log_loss": float(np.average(-np.log(likelihood), weights=class_weights(truth))),
        "coverage": coverage_curve(truth, probabilities),
    }


def score_difference(
    truth: np.ndarray, first: np.ndarray, second: np.ndarray, groups: Sequence[str | None]
) -> dict[str, dict[str, float | None]]:
    """What the second classifier has over the first one on the same crops, resampled together.

    Args:
        first, second: probabilities, float (n, classes). See `score` for the rest.

    Returns:
        accuracy, balanced_accuracy, macro_auc: {value, low, high}, second minus first.
    """
    drawn = _resamples(groups)
    one, other = (_overall(truth, p, drawn, _aucs(truth, p, drawn)) for p in (first, second))
    return {name: _interval(other[name][0] - one[name][0], other[name][1] - one[name][1]) for name in one}


Resampled = tuple[float, np.ndarray]  # a score, and the same of every resample (RESAMPLES,)


def _aucs(truth: np.ndarray, probabilities: np.ndarray, drawn: np.ndarray) -> list[Resampled]:
    """Of each class against the others; NaN where it does not occur."""
    found = []
    for index in range(probabilities.shape[1]):
        positive, probability = truth == index, probabilities[:, index]
        found.append((float(roc_auc(positive, probability)[0]), roc_auc(positive, probability, drawn)))
    return found


def _overall(
    truth: np.ndarray, probabilities: np.ndarray, drawn: np.ndarray, aucs: Sequence[Resampled]
) -> dict[str, Resampled]:
    """accuracy, balanced_accuracy and macro_auc, the mean AUC of the classes that occur."""
    predicted, classes = probabilities.argmax(axis=1), probabilities.shape[1]
    right = (predicted == truth).astype(float)
    cell = np.eye(classes**2)[truth * classes + predicted]
    matrices = (drawn @ cell).reshape(RESAMPLES, classes, classes)
    known = [pair for pair in aucs if np.isfinite(pair[0])]
    return {
        "accuracy": (right.mean(), drawn @ right / drawn.sum(axis=1)),
        "balanced_accuracy": (
            float(_balanced(confusion_matrix(truth, predicted, classes))),
            _balanced(matrices),
        ),
        "macro_auc": (
            float(np.mean([value for value, _ in known])) if known else np.nan,
            np.mean([resampled for _, resampled in known], axis=0) if known else np.array([]),
        ),
    }


def _class_scores(
    positive: np.ndarray, predicted: np.ndarray, probability: np.ndarray, drawn: np.ndarray, auc: Resampled
) -> dict[str, Any]:
    """Scores of one class against the others."""
    count = int(positive.sum())
    precision = average_precision(positive, probability, drawn)
    others = len(positive) - count
    return {
        "n": count,
        "sensitivity": _number((predicted & positive).sum() / count if count else np.nan),
        "specificity": _number((~predicted & ~positive).sum() / others if others else np.nan),
        "auc": _interval(*auc),
        "average_precision": _interval(float(average_precision(positive, probability)[0]), precision),
        "specificity_at_95_sensitivity": _number(specificity_at(positive, probability)),
    }
