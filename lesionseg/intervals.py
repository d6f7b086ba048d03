"""How sure a mean over images is: bootstrap intervals over lesions or patients, and tests of paired differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 5000
CONFIDENCE = 0.95
SEED = 0  # the same scores give the same intervals
_CELLS_AT_ONCE = 4_000_000  # of a resamples x images table; bounds memory


class Interval(NamedTuple):
    """An estimate with its confidence interval; `n` values from `groups` independent groups. NaN bounds: too few groups."""

    value: float
    low: float
    high: float
    n: int
    groups: int


def group_indices(groups: Sequence[str | None], n: int) -> np.ndarray:
    """Number of the group that each image belongs to, int (n,); an image without one ("" or None) is its own group."""
    names: dict[object, int] = {}
    return np.array(
        [names.setdefault(group or index, len(names)) for index, group in zip(range(n), groups)], dtype=int
    )


def _weights(members: np.ndarray, resamples: int, seed: int) -> Callable[[int], np.ndarray]:
    """A function that draws so many resamples of the groups: how often each image is in them, int (count, n)."""
    count = int(members.max()) + 1
    generator = np.random.default_rng(seed)

    def draw(size: int) -> np.ndarray:
        return generator.multinomial(count, np.full(count, 1 / count), size=size)[:, members]

    return draw


def _weighted_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights @ values / weights.sum(axis=1)


def _weighted_medians(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Median of each resample, the mean of the two middle values where their number is even."""
    order = np.argsort(values)
    cumulated = np.cumsum(weights[:, order], axis=1)
    total = cumulated[:, -1:]
    lower = (cumulated <= (total - 1) // 2).sum(axis=1)
    upper = (cumulated <= total // 2).sum(axis=1)
    return (values[order][lower] + values[order][upper]) / 2


_STATISTICS = {"mean": (np.mean, _weighted_means), "median": (np.median, _weighted_medians)}


def bootstrap(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[str | None] | None = None,
    statistic: str = "mean",
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """Mean or median with its 95 % confidence interval by the percentile bootstrap over groups.

    Whole groups (lesions, patients) are drawn with replacement, since pictures of one lesion are not independent (cluster
    bootstrap; Field and Welsh, J R Stat Soc B 69, 2007; percentile interval: Efron and Tibshirani, "An introduction to the
    bootstrap", 1993, chapter 13). With one picture a group it is the ordinary bootstrap over images.

    Args:
        values: (n,), a value an image; NaN (not measured) is left out.
        groups: (n,) names; None, or an image without a name, stands for itself.
        statistic: "mean" or "median".

    Returns:
        Interval; its bounds are NaN with fewer than two groups, and everything is with no value.

    Raises:
        ValueError: `values` and `groups` differ in length.
    """
    values = np.asarray(values, dtype=float)
    if groups is not None and len(groups) != len(values):
        raise ValueError(f"{len(values)} values, but {len(groups)} groups")
    known = ~np.isnan(values)
    names = [None] * len(values) if groups is None else list(groups)
    values, names = values[known], [name for name, keep in zip(names, known) if keep]
    if not len(values):
        return Interval(np.nan, np.nan, np.nan, 0, 0)
    members = group_indices(names, len(values))
    plain, resampled = _STATISTICS[statistic]
    count = int(members.max()) + 1
    if count < 2:
        return Interval(float(plain(values)), np.nan, np.nan, len(values), count)
    draw = _weights(members, resamples, seed)
    step = max(1, _CELLS_AT_ONCE // len(values))
    sizes = [min(step, resamples - start) for start in range(0, resamples, step)]
    drawn = np.concatenate([resampled(values, draw(size)) for size in sizes])
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Interval(float(plain(values)), float(low), float(high), len(values), count)


def wilcoxon_p(
    differences: Sequence[float] | np.ndarray, groups: Sequence[str | None] | None = None
) -> float:
    """Two-sided p of Wilcoxon's signed-rank test (Wilcoxon 1945) that paired differences are symmetric about 0.

    The test needs independent pairs: differences are averaged within a group first. Differences of 0 are dropped, as
    Wilcoxon did. 1 where no difference is left.

    Args:
        differences: (n,), second minus first, an image each.
        groups: (n,) names, as in `bootstrap`.
    """
    differences = np.asarray(differences, dtype=float)
    members = group_indices(groups or [None] * len(differences), len(differences))
    means = np.bincount(members, differences) / np.bincount(members)
    if not np.any(means):
        return 1.0
    return float(stats.wilcoxon(means, zero_method="wilcox").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for making several tests at once (Holm, Scand J Stat 6, 1979), in the order given."""
    order = np.argsort(p_values)
    corrected = np.empty(len(p_values))
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected.tolist()
