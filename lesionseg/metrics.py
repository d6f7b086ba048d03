"""Overlap metrics of one image, as the ISIC challenges define them: confusion counts once, then pure functions.
Beside them: errors of area and place, count of regions. Distances between outlines are in boundary.py.

Edge cases follow the official scorer (PyPI `isic-challenge-scoring`): where a metric's denominator is zero there
was nothing to get wrong, and the metric is 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

JACCARD_THRESHOLD = 0.65  # ISIC 2018 Task 1 evaluation: a Jaccard below it counts as a failure


class Confusion(NamedTuple):
    """Pixel counts of one image: true/false positives and negatives; lesion is the positive class."""

    tp: int
    fp: int
    fn: int
    tn: int


def confusion(reference: np.ndarray, predicted: np.ndarray) -> Confusion:
    """Count pixels by agreement.

    Args:
        reference, predicted: bool (H, W), the same shape.

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != predicted.shape:
        raise ValueError(f"reference mask is {reference.shape}, predicted mask is {predicted.shape}")
    tp = int(np.count_nonzero(reference & predicted))
    fp = int(np.count_nonzero(predicted)) - tp
    fn = int(np.count_nonzero(reference)) - tp
    return Confusion(tp, fp, fn, reference.size - tp - fp - fn)


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else 1.0


def jaccard(c: Confusion) -> float:
    """Jaccard index TP / (TP + FP + FN) in [0, 1] (Jaccard 1901); 1 when both masks are empty."""
    return _ratio(c.tp, c.tp + c.fp + c.fn)


def threshold_jaccard(c: Confusion, threshold: float = JACCARD_THRESHOLD) -> float:
    """Jaccard index, or 0 where it is below the threshold (ISIC 2018 Task 1 ranking metric)."""
    value = jaccard(c)
    return value if value >= threshold else 0.0


def dice(c: Confusion) -> float:
    """Dice coefficient 2 TP / (2 TP + FP + FN) in [0, 1] (Dice 1945); 1 when both masks are empty."""
    return _ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn)


def accuracy(c: Confusion) -> float:
    """Pixel accuracy (TP + TN) / all in [0, 1]."""
    return _ratio(c.tp + c.tn, sum(c))


def sensitivity(c: Confusion) -> float:
    """Sensitivity (recall) TP / (TP + FN) in [0, 1]; 1 when the reference is empty."""
    return _ratio(c.tp, c.tp + c.fn)


def specificity(c: Confusion) -> float:
    """Specificity TN / (TN + FP) in [0, 1]; 1 when the reference fills the image."""
    return _ratio(c.tn, c.tn + c.fp)


def precision(c: Confusion) -> float:
    """Precision TP / (TP + FP) in [0, 1]; 1 when nothing was predicted."""
    return _ratio(c.tp, c.tp + c.fp)


# The metrics of ISIC 2018 Task 1 under the official scorer's names.
ISIC_METRICS = {
    "jaccard": jaccard,
    "threshold_jaccard": threshold_jaccard,
    "dice": dice,
    "accuracy": accuracy,
    "sensitivity": sensitivity,
    "specificity": specificity,
}


def isic_scores(c: Confusion) -> dict[str, float]:
    """All ISIC 2018 Task 1 metrics of one image, by the official scorer's names."""
    return {name: metric(c) for name, metric in ISIC_METRICS.items()}


def centre(mask: np.ndarray) -> tuple[float, float]:
    """Centre of mass of a mask as (row, column) in px; NaN for an empty one.

    Args:
        mask: bool (H, W).
    """
    area = np.count_nonzero(mask)
    if not area:
        return math.nan, math.nan
    rows, columns = mask.sum(axis=1), mask.sum(axis=0)
    return float(rows @ np.arange(len(rows)) / area), float(columns @ np.arange(len(columns)) / area)


def location_errors(reference: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """How far area and place of a predicted mask are off.

    Args:
        reference, predicted: bool (H, W), the same shape.

    Returns:
        - area_error_pct: (predicted - reference area) / reference area, in %; NaN where the reference is empty;
        - centre_error_px and centre_error_pct: distance of the centres of mass in px and in % of the image diagonal; where
          exactly one mask is empty, the whole diagonal, as for the boundary distances; 0 where both are.
    """
    area, predicted_area = np.count_nonzero(reference), np.count_nonzero(predicted)
    diagonal = math.hypot(*reference.shape)
    if area and predicted_area:
        error = math.dist(centre(reference), centre(predicted))
    else:
        error = diagonal if area != predicted_area else 0.0
    return {
        "area_error_pct": 100 * (predicted_area - area) / area if area else math.nan,
        "centre_error_px": error,
        "centre_error_pct": 100 * error / diagonal,
    }


def component_count(mask: np.ndarray) -> int:
    """Number of 8-connected regions of a bool (H, W) mask."""
    return cv2.connectedComponents(np.ascontiguousarray(mask, dtype=np.uint8), connectivity=8)[0] - 1
