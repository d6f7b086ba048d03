"""From the outputs of one or two models to one calibrated probability, and the probability below which to abstain.

All models here are trained with equally common classes, and calibration keeps to that: a probability is the posterior for
a lesion from a population in which all classes are equally common. For another population multiply each by the class's
share there and divide by the sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from lesionseg.classifier_scores import class_weights

_BOUNDS = (1e-3, 20.0)


def pool(log_probabilities: Sequence[np.ndarray], exponents: Sequence[float]) -> np.ndarray:
    """Probabilities (n, classes) proportional to the product of p_i ** exponent_i.

    With one model that is temperature scaling with T = 1 / exponent (Guo et al., ICML 2017); with two the logarithmic
    opinion pool (Genest and Zidek, Statistical Science 1, 1986) of calibrated models.

    Args:
        log_probabilities: for each model (n, classes), logits or log probabilities.
    """
    return softmax(
        sum(e * log_softmax(p, axis=1) for e, p in zip(exponents, log_probabilities, strict=True)), axis=1
    )


def fit_exponents(log_probabilities: Sequence[np.ndarray], truth: np.ndarray) -> list[float]:
    """The exponents of `pool` that give the least log loss, with classes weighted to be equally common.

    Args:
        log_probabilities: see `pool`, of crops that no model was trained on.
        truth: int (n,), class indices.
    """
    weights = class_weights(truth)
    weights = weights / weights.sum()
    logs = np.stack([log_softmax(p, axis=1) for p in log_probabilities])

    def loss(exponents: np.ndarray) -> tuple[float, np.ndarray]:
        pooled = log_softmax(np.tensordot(exponents, logs, axes=1), axis=1)
        expected = (np.exp(pooled) * logs).sum(axis=2)  # (models, n)
        own = logs[:, np.arange(len(truth)), truth]
        return -float(weights @ pooled[np.arange(len(truth)), truth]), (expected - own) @ weights

    lower = _BOUNDS[0] if len(logs) == 1 else 0.0  # one model must not be raised to 0, one of two may
    start = np.full(len(logs), 1.0 / len(logs))
    result = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(lower, _BOUNDS[1])] * len(logs))
    return [float(value) for value in result.x]


def abstain_threshold(probabilities: np.ndarray, share: float) -> float:
    """The highest probability below which the given share of crops lies, in [0, 1]; 0 for a share of 0."""
    return float(np.quantile(probabilities.max(axis=1), share)) if share > 0 else 0.0
