"""How sure a mean over images is: bootstrap intervals over lesions or patients, and tests of paired differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

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


def group_indices(groups: Sequence[str | None]) -> np.ndarray:
    """Number of the group that each image belongs to, int64 (n,); an image without one ("" or None) is its own group."""
    names: dict[object, int] = {}
    return np.array(
        [names.setdefault(group or index, len(names)) for index, group in enumerate(groups)], dtype=np.int64
    )


@lru_cache(maxsize=4)  # all metrics of a data set are resampled alike
def _drawn(members: bytes, resamples: int, seed: int) -> np.ndarray:
    """How often each image is in each resample of the groups, uint8 (resamples, n); `members` are int64 group numbers."""
    member = np.frombuffer(members, dtype=np.int64)
    count = int(member.max()) + 1
    generator = np.random.default_rng(seed)
    weights = np.empty((resamples, len(member)), dtype=np.uint8)
    for rows in _slices(resamples, count):
        draws = generator.integers(count, size=(rows.stop - rows.start, count))
        draws += np.arange(len(draws))[:, None] * count
        times = np.bincount(draws.ravel(), minlength=draws.size).reshape(draws.shape)
        weights[rows] = times[:, member]
    return weights


def _slices(rows: int, columns: int) -> list[slice]:
    """Parts of a table of so many rows and columns, of at most _CELLS_AT_ONCE cells each."""
    step = max(1, _CELLS_AT_ONCE // columns)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _weighted_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights.astype(float) @ values / weights.sum(axis=1)


def _weighted_medians(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Median of each resample, the mean of the two middle values where their number is even."""
    order = np.argsort(values)
    cumulated = np.cumsum(weights[:, order], axis=1, dtype=np.int32)
    total = cumulated[:, -1:]
    lower = (cumulated <= (total - 1) // 2).sum(axis=1)
    upper = (cumulated <= total // 2).sum(axis=1)
    return (values[order][lower] + values[order][upper]) / 2


_STATISTICS: dict[str, tuple[Callable[..., Any], Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "mean": (np.mean, _weighted_means),
    "median": (np.median, _weighted_medians),
}


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
    given = np.asarray(values, dtype=float)
    if groups is not None and len(groups) != len(given):
        raise ValueError(f"{len(given)} values, but {len(groups)} groups")
    known = ~np.isnan(given)
    names = [None] * len(given) if groups is None else list(groups)
    numbers, names = given[known], [name for name, keep in zip(names, known, strict=True) if keep]
    if not len(numbers):
        return Interval(np.nan, np.nan, np.nan, 0, 0)
    members = group_indices(names)
    plain, resampled = _STATISTICS[statistic]
    count = int(members.max()) + 1
    if count < 2:
        return Interval(float(plain(numbers)), np.nan, np.nan, len(numbers), count)
    weights = _drawn(members.tobytes(), resamples, seed)
    drawn = np.concatenate([resampled(numbers, weights[rows]) for rows in _slices(resamples, len(numbers))])
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Interval(float(plain(numbers)), float(low), float(high), len(numbers), count)


def rate(flags: Sequence[bool] | np.ndarray, groups: Sequence[str | None] | None = None) -> Interval:
    """Share of images of which something is true, with the interval of `bootstrap`.

    Where it is true of all images or of none, every resample is alike and the bootstrap claims certainty; the interval is
    then Clopper and Pearson's (Biometrika 26, 1934) for as many trials as there are groups.
    """
    interval = bootstrap(np.asarray(flags, dtype=float), groups)
    if interval.groups < 2 or interval.low < interval.high:
        return interval
    exact = stats.binomtest(round(interval.value * interval.groups), interval.groups).proportion_ci(
        CONFIDENCE, "exact"
    )
    return interval._replace(low=float(exact.low), high=float(exact.high))


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
    members = group_indices(groups or [None] * len(differences))
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
