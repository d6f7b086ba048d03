"""Reliability and calibration error, by hand and against scikit-learn and torch-free recomputation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lesionseg.calibration import expected_calibration_error, reliability


def test_by_hand() -> None:
    bins = reliability([0.95, 0.85, 0.92, 1.0], [0.9, 0.5, 0.7, 0.8])
    assert [b.n for b in bins] == [0, 0, 0, 0, 0, 0, 0, 0, 1, 3]
    assert (bins[9].score, bins[9].jaccard) == pytest.approx((2.87 / 3, 0.8))
    assert expected_calibration_error(bins) == pytest.approx((1 * 0.35 + 3 * (2.87 / 3 - 0.8)) / 4)


def test_edges_belong_to_the_bin_above() -> None:
    bins = reliability([0.0, 0.5, 1.0], [0, 0, 0], bins=2)
    assert [b.n for b in bins] == [1, 2]


def test_curve_equals_scikit_learn() -> None:
    calibration_curve = pytest.importorskip("sklearn.calibration").calibration_curve
    rng = np.random.default_rng(0)
    scores, hits = rng.uniform(size=500), rng.integers(0, 2, size=500)
    bins = [b for b in reliability(scores.tolist(), hits.tolist()) if b.n]
    accuracy, confidence = calibration_curve(hits, scores, n_bins=10)
    assert [b.jaccard for b in bins] == pytest.approx(accuracy, abs=1e-12)
    assert [b.score for b in bins] == pytest.approx(confidence, abs=1e-12)


def test_perfect_and_empty() -> None:
    assert expected_calibration_error(reliability([0.3, 0.9], [0.3, 0.9])) == pytest.approx(0)
    assert math.isnan(expected_calibration_error(reliability([], [])))
