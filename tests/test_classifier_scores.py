"""Classifier scores against scikit-learn and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics

from lesionseg.classifier_scores import (
    average_precision,
    calibration_error,
    class_weights,
    confusion_matrix,
    coverage_curve,
    roc_auc,
    score,
    score_difference,
    specificity_at,
)


def draw(seed: int, n: int = 80, classes: int = 3, ties: bool = False):
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=n)
    truth[:classes] = range(classes)
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[truth]
    if ties:
        logits = np.round(logits)
    odds = np.exp(logits)
    return truth, odds / odds.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", (False, True))
def test_auc_and_average_precision_equal_scikit_learn(seed, ties):
    truth, probabilities = draw(seed, ties=ties)
    positive, p = truth == 1, probabilities[:, 1]
    assert roc_auc(positive, p)[0] == pytest.approx(metrics.roc_auc_score(positive, p), abs=1e-12)
    expected = metrics.average_precision_score(positive, p)
    assert average_precision(positive, p)[0] == pytest.approx(expected, abs=1e-12)


def test_resampling_weights_equal_scikit_learn_sample_weights():
    truth, probabilities = draw(7, ties=True)
    positive, p = truth == 0, probabilities[:, 0]
    weights = np.random.default_rng(1).integers(0, 4, size=(6, len(truth)))
    for row, auc, ap in zip(
        weights, roc_auc(positive, p, weights), average_precision(positive, p, weights), strict=True
    ):
        assert auc == pytest.approx(metrics.roc_auc_score(positive, p, sample_weight=row), abs=1e-12)
        assert ap == pytest.approx(metrics.average_precision_score(positive, p, sample_weight=row), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_score_equals_scikit_learn(seed):
    truth, probabilities = draw(seed)
    predicted = probabilities.argmax(axis=1)
    names = ["nevus", "melanoma", "keratosis"]
    found = score(truth, probabilities, names, [f"g{i // 2}" for i in range(len(truth))])
    assert found["accuracy"]["value"] == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert found["balanced_accuracy"]["value"] == pytest.approx(
        metrics.balanced_accuracy_score(truth, predicted)
    )
    assert found["macro_auc"]["value"] == pytest.approx(
        metrics.roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")
    )
    assert found["confusion_matrix"] == metrics.confusion_matrix(truth, predicted).tolist()
    weights = class_weights(truth)
    assert found["log_loss"] == pytest.approx(metrics.log_loss(truth, probabilities, sample_weight=weights))
    assert (found["n"], found["groups"]) == (80, 40)
    for index, name in enumerate(names):
        entry, positive = found["classes"][name], truth == index
        assert entry["n"] == positive.sum()
        assert entry["sensitivity"] == pytest.approx(metrics.recall_score(positive, predicted == index))
        assert entry["specificity"] == pytest.approx(metrics.recall_score(~positive, predicted != index))
        assert entry["auc"]["low"] < entry["auc"]["value"] < entry["auc"]["high"]
        false, true, _ = metrics.roc_curve(positive, probabilities[:, index], drop_intermediate=False)
        assert entry["specificity_at_95_sensitivity"] == pytest.approx(1 - false[true >= 0.95 - 1e-9].min())


def test_difference_is_paired():
    truth, first = draw(1)
    _, second = draw(2)
    groups = [None] * len(truth)
    found = score_difference(truth, first, second, groups)
    one, other = (p.argmax(axis=1) for p in (first, second))
    for name, expected in (
        ("accuracy", metrics.accuracy_score(truth, other) - metrics.accuracy_score(truth, one)),
        (
            "balanced_accuracy",
            metrics.balanced_accuracy_score(truth, other) - metrics.balanced_accuracy_score(truth, one),
        ),
        (
            "macro_auc",
            metrics.roc_auc_score(truth, second, multi_class="ovr")
            - metrics.roc_auc_score(truth, first, multi_class="ovr"),
        ),
    ):
        assert found[name]["value"] == pytest.approx(expected)
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
    # Against itself there is no difference in any resample; unpaired resamples would differ.
    assert score_difference(truth, first, first, groups)["macro_auc"] == {"value": 0, "low": 0, "high": 0}
    # Normal approximation of a paired difference of shares.
    steps = (other == truth).astype(float) - (one == truth)
    width = found["accuracy"]["high"] - found["accuracy"]["low"]
    assert width == pytest.approx(2 * 1.96 * steps.std() / math.sqrt(len(truth)), rel=0.15)


def test_intervals_are_over_groups():
    # 20 lesions of 10 identical pictures each carry the information of 20 pictures.
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(20) < 0.7, 10)
    truth = np.tile([0, 1], 100)
    predicted = np.where(right, truth, 1 - truth)
    probabilities = np.eye(2)[predicted]
    names = ["benign", "malignant"]
    alone = score(truth, probabilities, names, [str(i) for i in range(200)])["accuracy"]
    grouped = score(truth, probabilities, names, [str(i // 10) for i in range(200)])["accuracy"]

    def width(entry):
        return entry["high"] - entry["low"]

    assert alone["value"] == grouped["value"] == right.mean()
    assert width(grouped) == pytest.approx(math.sqrt(10) * width(alone), rel=0.25)
    # 1.96 standard errors of a share of 20 independent lesions.
    share = right.mean()
    assert width(grouped) == pytest.approx(2 * 1.96 * math.sqrt(share * (1 - share) / 20), rel=0.2)


def test_confusion_matrix_by_hand():
    truth, predicted = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 0, 2])
    assert confusion_matrix(truth, predicted, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


def test_specificity_at_95_sensitivity_by_hand():
    # All 20 positives but one lie above 0.5: 95 % sensitivity leaves that one out, and 3 of 10 negatives in.
    positive = np.array([True] * 20 + [False] * 10)
    scores = np.array([0.9] * 19 + [0.05] + [0.95, 0.92, 0.9] + [0.1] * 7)
    assert specificity_at(positive, scores) == pytest.approx(0.7)
    assert specificity_at(positive, scores, sensitivity=1.0) == 0.0
    assert math.isnan(specificity_at(np.ones(3, bool), np.ones(3)))


def test_class_without_crops_has_no_scores():
    truth, probabilities = draw(0, classes=2)
    padded = np.column_stack([probabilities, np.zeros(len(truth))])
    entry = score(truth, padded, ["a", "b", "c"], [None] * len(truth))["classes"]["c"]
    assert entry["n"] == 0
    assert entry["sensitivity"] is None
    assert entry["auc"] == {"value": None, "low": None, "high": None}


def test_calibration_error_by_hand():
    # Equal classes, all predictions at 0.8; 3 of 4 right: off by 0.05. At 0.75 nothing is off.
    truth = np.array([0, 0, 1, 1])
    sides = np.array([0, 0, 1, 0])
    for p, expected in ((0.8, 0.05), (0.75, 0.0)):
        probabilities = np.where(np.eye(2)[sides] > 0, p, 1 - p)
        assert calibration_error(truth, probabilities) == pytest.approx(expected)


def test_calibration_error_weighs_classes_equally():
    # 9 of class 0 all right, 1 of class 1 wrong, all at probability 0.5 + tiny: weighted accuracy is one half.
    truth = np.array([0] * 9 + [1])
    probabilities = np.tile([0.5 + 1e-9, 0.5 - 1e-9], (10, 1))
    assert calibration_error(truth, probabilities) == pytest.approx(0, abs=1e-6)


def test_coverage_keeps_the_surest():
    truth = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    top = np.array([0.99, 0.98, 0.97, 0.6, 0.55, 0.96, 0.95, 0.94, 0.7, 0.52])
    right = np.array([1, 1, 1, 0, 0, 1, 1, 1, 1, 0], bool)
    predicted = np.where(right, truth, 1 - truth)
    probabilities = np.where(np.eye(2)[predicted] > 0, top[:, None], 1 - top[:, None])
    curve = {round(row["coverage"], 1): row for row in coverage_curve(truth, probabilities)}
    assert curve[1.0]["accuracy"] == pytest.approx(0.7)
    assert curve[0.7]["accuracy"] == 1.0
    assert curve[0.7]["threshold"] == pytest.approx(0.7)
    assert curve[0.8]["accuracy"] == pytest.approx(7 / 8)
    assert curve[0.8]["balanced_accuracy"] == pytest.approx((3 / 4 + 4 / 4) / 2)
