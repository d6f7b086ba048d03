"""The classifier on measured ABCD features: logistic regression and gradient boosting by scikit-learn."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lesionseg.classifier_data import MODEL_FEATURES
from lesionseg.errors import LesionsegError
from lesionseg.images import atomic_write

KINDS = ("logistic", "boosting")
FILE = "features.joblib"
_REPEATS = 10
logger = logging.getLogger(__name__)


def fit(table: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, Any]:
    """Both models, trained with balanced classes.

    Args:
        table: float (n, MODEL_FEATURES), NaN where not measured.
        labels: int (n,), every class present.
    """
    logistic = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(class_weight="balanced", max_iter=2000),
    )
    boosting = HistGradientBoostingClassifier(
        class_weight="balanced",
        learning_rate=0.05,
        max_iter=150,
        max_leaf_nodes=15,
        min_samples_leaf=min(20, max(2, len(labels) // 20)),
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    )
    return {kind: model.fit(table, labels) for kind, model in zip(KINDS, (logistic, boosting), strict=True)}


def log_probabilities(model: Any, table: np.ndarray) -> np.ndarray:
    """float (n, classes); log of the model's probabilities, bounded below at log(1e-9)."""
    return np.log(np.maximum(model.predict_proba(table), 1e-9))


def importance(
    models: dict[str, Any], table: np.ndarray, labels: np.ndarray, seed: int
) -> list[dict[str, Any]]:
    """How much each feature matters to each model: fall of balanced accuracy when its values are shuffled among the crops.

    Permutation importance (Breiman, "Random forests", Machine Learning 45, 2001), mean of 10 shuffles, on crops that were
    not trained on. Features that say the same share their importance.

    Returns:
        Rows {feature, logistic, logistic_std, boosting, boosting_std}, by falling importance to either.
    """
    rows: list[dict[str, Any]] = [{"feature": name} for name in MODEL_FEATURES]
    for kind, model in models.items():
        result = permutation_importance(
            model, table, labels, scoring="balanced_accuracy", n_repeats=_REPEATS, random_state=seed
        )
        for row, mean, std in zip(rows, result.importances_mean, result.importances_std, strict=True):
            row |= {kind: round(float(mean), 6), f"{kind}_std": round(float(std), 6)}
    return sorted(rows, key=lambda row: -max(row[kind] for kind in models))


def save(models: dict[str, Any], folder: Path) -> None:
    with atomic_write(folder / FILE) as temporary:
        joblib.dump(models, temporary)


def load(folder: Path) -> dict[str, Any]:
    """Models of a run. joblib runs code from the file, as pickle does: load runs of people you trust.

    Raises:
        LesionsegError: the file is missing, or another version of scikit-learn cannot read it.
    """
    path = folder / FILE
    if not path.is_file():
        raise LesionsegError(f"{path} does not exist: run tools/train_classifier.py (again) for {folder}")
    try:
        return joblib.load(path)
    except Exception as error:
        raise LesionsegError(
            f"{path} cannot be read ({error}); train again with this scikit-learn"
        ) from error
