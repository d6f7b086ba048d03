"""Does a detection's score tell how good its outline is? Reliability curve and expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BINS = 10


class Bin(NamedTuple):
    """Images whose score lies in [low, high) (the last bin: [low, high]); means are NaN where there is none."""

    low: float
    high: float
    n: int
    score: float
    jaccard: float


def reliability(scores: Sequence[float], jaccards: Sequence[float], bins: int = BINS) -> list[Bin]:
    """Mean score and mean achieved Jaccard in bins of equal width.

    The reliability diagram of Guo et al., "On calibration of modern neural networks", ICML 2017, with the achieved
    Jaccard index in the place of accuracy: a score of 0.9 should mean an expected Jaccard of 0.9.

    Args:
        scores, jaccards: (n,), in [0, 1]; images without a detection have no score and stay out.
    """
    score, jaccard = np.asarray(scores, float), np.asarray(jaccards, float)
    edges = np.linspace(0, 1, bins + 1)
    member = np.minimum(np.searchsorted(edges, score, side="right") - 1, bins - 1)
    result = []
    for index in range(bins):
        here = member == index
        n = int(here.sum())
        means = (float(score[here].mean()), float(jaccard[here].mean())) if n else (np.nan, np.nan)
        result.append(Bin(float(edges[index]), float(edges[index + 1]), n, *means))
    return result


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """ECE = sum over bins of n_b / n |mean Jaccard - mean score|, in [0, 1]; NaN without images.

    Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015; Guo et al. 2017.
    """
    n = sum(b.n for b in bins)
    return sum(b.n * abs(b.jaccard - b.score) for b in bins if b.n) / n if n else float("nan")
