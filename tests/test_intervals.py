"""Bootstrap intervals against SciPy, complete enumeration and simulation; Wilcoxon and Holm by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from lesionseg.intervals import bootstrap, group_indices, holm, rate, wilcoxon_p


def test_interval_of_the_mean_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).beta(8, 2, size=120)
    ours = bootstrap(values, resamples=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    )
    assert ours.value == pytest.approx(values.mean(), abs=1e-12)
    width = ours.high - ours.low
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_interval_over_groups_agrees_with_all_resamples(statistic: str) -> None:
    """Five lesions of unequal size have 5^5 = 3125 resamples, all equally likely."""
    clusters = [[0.9, 0.8, 0.85], [0.4], [0.7, 0.2], [0.95, 0.6, 0.1, 0.3], [0.55, 0.65]]
    values = [value for cluster in clusters for value in cluster]
    groups = [f"lesion {number}" for number, cluster in enumerate(clusters) for _ in cluster]
    exact = [
        getattr(np, statistic)([value for index in draw for value in clusters[index]])
        for draw in itertools.product(range(5), repeat=5)
    ]
    ours = bootstrap(values, groups, statistic, resamples=50_000)
    assert ours.value == pytest.approx(getattr(np, statistic)(values))
    assert (ours.n, ours.groups) == (12, 5)
    # The bounds are quantiles of a discrete distribution: they lie between the quantiles a little to either side.
    for bound, share in ((ours.low, 2.5), (ours.high, 97.5)):
        assert np.percentile(exact, share - 0.4) - 1e-9 <= bound <= np.percentile(exact, share + 0.4) + 1e-9


def test_median_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(3).normal(size=81)
    ours = bootstrap(values, statistic="median", resamples=20_000)
    theirs = stats.bootstrap(
        (values,), np.median, n_resamples=20_000, method="percentile", rng=np.random.default_rng(4)
    )
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.05)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.05)


def test_interval_covers_the_truth_only_when_groups_are_respected() -> None:
    """Lesions differ, pictures of a lesion hardly do: the interval over images is far too narrow."""
    rng = np.random.default_rng(5)
    hits = {"groups": 0, "images": 0}
    groups = [str(lesion) for lesion in range(40) for _ in range(5)]
    for _ in range(200):
        values = np.repeat(rng.normal(0.8, 0.1, size=40), 5) + rng.normal(0, 0.01, size=200)
        for name, grouping in (("groups", groups), ("images", None)):
            interval = bootstrap(values, grouping, resamples=500)
            hits[name] += interval.low <= 0.8 <= interval.high
    assert hits["groups"] / 200 > 0.89
    assert hits["images"] / 200 < 0.75


def test_interval_repeats_and_leaves_nan_out() -> None:
    first = bootstrap([0.5, np.nan, 0.7, 0.9], ["a", "b", "c", "c"])
    assert first == bootstrap([0.5, 0.7, 0.9], ["a", "c", "c"])
    assert (first.value, first.n, first.groups) == (pytest.approx(0.7), 3, 2)


@pytest.mark.parametrize(("values", "groups"), [([0.5, 0.9], ["a", "a"]), ([0.5], None)])
def test_one_group_has_no_interval(values: list[float], groups: list[str] | None) -> None:
    interval = bootstrap(values, groups)
    assert interval.value == np.mean(values)
    assert np.isnan(interval.low) and np.isnan(interval.high)


def test_no_values() -> None:
    assert bootstrap([]).n == 0
    assert np.isnan(bootstrap([np.nan]).value)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 values, but 1 groups"):
        bootstrap([1, 2], ["a"])


def test_images_without_group_stand_alone() -> None:
    assert group_indices(["a", None, "", "a", None]).tolist() == [0, 1, 2, 0, 3]


def test_wilcoxon_by_hand() -> None:
    """Five positive differences: of the 32 sign patterns 1 is as high and 1 as low, so p = 2/32."""
    assert wilcoxon_p([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(2 / 32)


def test_wilcoxon_averages_groups_first() -> None:
    differences = [0.1, 0.3, -0.1, 0.3, 0.4, 0.5]
    groups = ["a", "a", "b", "b", "c", "d"]
    assert wilcoxon_p(differences, groups) == pytest.approx(stats.wilcoxon([0.2, 0.1, 0.4, 0.5]).pvalue)


def test_wilcoxon_without_any_difference() -> None:
    assert wilcoxon_p([0.0, 0.0, 0.0]) == 1.0


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_rate_of_nothing_is_not_certain() -> None:
    """No failure in 40 lesions: Clopper and Pearson's upper bound is 1 - 0.025^(1/40), whatever the number of pictures."""
    groups = [str(lesion) for lesion in range(40) for _ in range(3)]
    interval = rate([False] * 120, groups)
    assert (interval.value, interval.low) == (0.0, 0.0)
    assert interval.high == pytest.approx(1 - 0.025 ** (1 / 40))
    assert rate([True] * 40).low == pytest.approx(0.025 ** (1 / 40))


def test_rate_is_the_bootstrap_otherwise() -> None:
    flags = [True] * 7 + [False] * 13
    assert rate(flags) == bootstrap([float(flag) for flag in flags])
