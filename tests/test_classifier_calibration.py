"""Temperature scaling, pooling and abstaining."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from lesionseg.classifier_calibration import abstain_threshold, fit_exponents, pool
from lesionseg.classifier_scores import class_weights


def draw_from(logits: np.ndarray, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([rng.choice(len(p), p=p) for p in softmax(logits, axis=1)])


def test_pool_of_one_is_temperature_scaling():
    logits = np.array([[2.0, 0.0, -1.0]])
    assert pool([logits], [0.5]) == pytest.approx(softmax(logits / 2.0, axis=1))


def test_pool_of_two_is_the_normalised_product():
    one, other = np.array([[0.7, 0.3]]), np.array([[0.4, 0.6]])
    product = one**0.5 * other**2
    assert pool([np.log(one), np.log(other)], [0.5, 2]) == pytest.approx(product / product.sum())


def test_overconfident_logits_get_their_temperature_back():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6000, 3))
    truth = draw_from(logits)
    found = fit_exponents([3 * logits], truth)
    assert 1 / found[0] == pytest.approx(3, rel=0.1)
    # The same minimum as a search over the temperature alone finds.
    weights = class_weights(truth)

    def loss(temperature):
        logs = log_softmax(3 * logits / temperature, axis=1)
        return -np.average(logs[np.arange(len(truth)), truth], weights=weights)

    best = minimize_scalar(loss, bounds=(0.5, 20), method="bounded").x
    assert 1 / found[0] == pytest.approx(best, rel=1e-3)


def test_a_model_that_knows_nothing_gets_no_weight():
    rng = np.random.default_rng(1)
    informative = rng.normal(size=(3000, 2)) * 2
    truth = draw_from(informative, seed=2)
    found = fit_exponents([informative, rng.normal(size=(3000, 2))], truth)
    assert found[0] == pytest.approx(1, abs=0.15)
    assert found[1] == pytest.approx(0, abs=0.1)


def test_abstaining_share():
    probabilities = np.column_stack([np.linspace(0.5, 1, 101), np.linspace(0.5, 0, 101)])
    threshold = abstain_threshold(probabilities, 0.2)
    assert (probabilities.max(axis=1) < threshold).mean() == pytest.approx(0.2, abs=0.01)
    assert abstain_threshold(probabilities, 0) == 0
