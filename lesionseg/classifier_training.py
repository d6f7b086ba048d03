"""A classifier run from crops to scores: network, feature models, calibration, tables. A killed run continues."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
import torchvision
from detectron2.config import CfgNode

from lesionseg import __version__, classifier_features
from lesionseg.classifier import MODEL, Models
from lesionseg.classifier_calibration import abstain_threshold, fit_exponents, pool
from lesionseg.classifier_data import (
    MODEL_FEATURES,
    Crop,
    choose_classes,
    feature_table,
    labelled,
    read_crops,
)
from lesionseg.classifier_loop import train_network
from lesionseg.classifier_results import (
    MAJORITY,
    markdown,
    prediction_rows,
    write_csv,
    write_json,
    write_text,
)
from lesionseg.classifier_scores import score
from lesionseg.crop_export import CROPS_CSV, CropSettings
from lesionseg.errors import LesionsegError
from lesionseg.runs import CONFIG

ROUTES = ("network", "features", "combined")
SCORES, TABLE, PREDICTIONS, IMPORTANCE = (
    "scores.json",
    "scores.md",
    "predictions.csv",
    "feature_importance.csv",
)
# Where a run is done and how many processes help does not change what comes out.
_FREE = ("DEVICE", "WORKERS")
logger = logging.getLogger(__name__)


def train_classifier(cfg: CfgNode) -> dict[str, Any]:
    """Train, calibrate and score a classifier.

    The run folder cfg.OUTPUT_DIR ends with config.yaml, classifier.json (classes, routes, calibration, how crops are
    cut), network_best.pth and metrics.json (a row an epoch), features.joblib and feature_importance.csv, predictions.csv
    (validation and test crops), scores.json and scores.md.

    Returns:
        The content of scores.json: {split: {route: scores}}, see `classifier_scores.score`.

    Raises:
        LesionsegError: settings or crops that do not work; a folder that holds another run.
    """
    node, folder = cfg.CLASSIFIER, Path(cfg.OUTPUT_DIR)
    if node.ROUTE not in ROUTES:
        raise LesionsegError(f"CLASSIFIER.ROUTE is one of {', '.join(ROUTES)}, not {node.ROUTE!r}")
    found, settings = read_crops(node.CROPS)
    classes = choose_classes([row for _, row in found], node.LABELS)
    parts = _parts(labelled(found, classes, node.LABELS), classes)
    _open_run(cfg, folder)
    members = []
    if node.ROUTE != "features":
        train_network(cfg, parts["train"], parts["val"], len(classes), folder)
        members.append("network")
    if node.ROUTE != "network":
        _train_features(parts, cfg.SEED, folder)
        members += classifier_features.KINDS
    models = Models(folder, cfg, len(classes))
    logs = {
        split: {m: models.log_probabilities(m, parts[split]) for m in members}
        for split in parts
        if split != "train"
    }
    model = _calibrate(cfg, logs["val"], _truth(parts["val"]), classes, settings)
    write_json(folder / MODEL, model)
    return _score(folder, model, parts, logs)


def _parts(crops: Sequence[Crop], classes: Sequence[str]) -> dict[str, list[Crop]]:
    """Crops with a label, by split.

    Raises:
        LesionsegError: no validation crops.
    """
    known = [crop for crop in crops if crop.label is not None]
    if len(known) < len(crops):
        logger.warning(
            "%d of %d crops have none of the classes and are left out", len(crops) - len(known), len(crops)
        )
    parts: dict[str, list[Crop]] = {}
    for split in ("train", "val", "test"):
        if chosen := [crop for crop in known if crop.row["split"] == split]:
            parts[split] = chosen
            counts = Counter(classes[crop.label or 0] for crop in chosen)
            logger.info(
                "%s: %d crops (%s)", split, len(chosen), ", ".join(f"{counts[c]} {c}" for c in classes)
            )
    if "val" not in parts:
        raise LesionsegError(
            "no validation crops with a label: early stopping and calibration need them. Prepare the data with --split, "
            "such as 0.65/0.15/0.2"
        )
    if "test" not in parts:
        logger.warning(
            "no test crops: scores are of the validation crops, by which the network was chosen and calibrated, and so "
            "are better than they would be on new images. Prepare the data with --split 0.65/0.15/0.2"
        )
    return parts


def _truth(crops: Sequence[Crop]) -> np.ndarray:
    return np.array([crop.label for crop in crops])


def _open_run(cfg: CfgNode, folder: Path) -> None:
    """Write config.yaml, or check that the run in the folder is the same one."""
    tables = [(Path(crops) / CROPS_CSV).read_bytes() for crops in cfg.CLASSIFIER.CROPS]
    text = f"# crops: {hashlib.sha256(b''.join(tables)).hexdigest()}\n{cfg.dump()}"
    path = folder / CONFIG
    if path.is_file():
        old, new = (
            [line for line in t.splitlines() if line.strip().split(":")[0] not in _FREE]
            for t in (path.read_text(encoding="utf-8"), text)
        )
        if old != new:
            differences = sorted(set(old) ^ set(new))
            raise LesionsegError(
                f"{folder} holds a run with other settings or crops ({'; '.join(map(str.strip, differences[:4]))}). "
                "Set another OUTPUT_DIR, or delete the folder"
            )
    write_text(path, text)


def _train_features(parts: dict[str, list[Crop]], seed: int, folder: Path) -> None:
    train, val = parts["train"], parts["val"]
    models = classifier_features.fit(feature_table(train), _truth(train), seed)
    classifier_features.save(models, folder)
    rows = classifier_features.importance(models, feature_table(val), _truth(val), seed)
    write_csv(folder / IMPORTANCE, rows)


def _calibrate(
    cfg: CfgNode,
    logs: dict[str, np.ndarray],
    truth: np.ndarray,
    classes: Sequence[str],
    settings: CropSettings,
) -> dict[str, Any]:
    """The content of classifier.json: for each route its models, their exponents and the abstain threshold."""
    kinds = [kind for kind in classifier_features.KINDS if kind in logs]
    routes = {f"features_{kind}": [kind] for kind in kinds}
    best = min(kinds, key=lambda kind: _pooled_loss([logs[kind]], truth), default="")
    if "network" in logs:
        routes["network"] = ["network"]
    if kinds and "network" in logs:
        routes["combined"] = ["network", best]
    chosen = f"features_{best}" if cfg.CLASSIFIER.ROUTE == "features" else cfg.CLASSIFIER.ROUTE
    fitted = {}
    for route, members in routes.items():
        exponents = fit_exponents([logs[m] for m in members], truth)
        probabilities = pool([logs[m] for m in members], exponents)
        threshold = abstain_threshold(probabilities, cfg.CLASSIFIER.ABSTAIN_SHARE)
        fitted[route] = {"members": members, "exponents": exponents, "abstain_below": threshold}
    return {
        "classes": list(classes),
        "route": chosen,
        "labels": cfg.CLASSIFIER.LABELS,
        "routes": fitted,
        "crops": asdict(settings),
        "features": list(MODEL_FEATURES),
        "versions": {
            "lesionseg": __version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }


def _pooled_loss(logs: Sequence[np.ndarray], truth: np.ndarray) -> float:
    """Log loss for equally common classes of calibrated models."""
    probabilities = pool(logs, fit_exponents(logs, truth))
    own = np.log(np.maximum(probabilities[np.arange(len(truth)), truth], 1e-12))
    return -float(np.mean([own[truth == label].mean() for label in np.unique(truth)]))


def _score(
    folder: Path, model: dict[str, Any], parts: dict[str, list[Crop]], logs: dict[str, dict[str, np.ndarray]]
) -> dict[str, Any]:
    """Score every route and the majority class on validation and test crops; write predictions and tables."""
    classes, scores, rows = model["classes"], {}, []
    majority = Counter(_truth(parts["train"]).tolist()).most_common(1)[0][0]
    for split, outputs in logs.items():
        crops, truth = parts[split], _truth(parts[split])
        groups = [crop.group for crop in crops]
        constant = np.full((len(crops), len(classes)), 0.0)
        constant[:, majority] = 1.0
        probabilities = {MAJORITY: constant}
        for route, fitted in model["routes"].items():
            probabilities[route] = pool([outputs[m] for m in fitted["members"]], fitted["exponents"])
        scores[split] = {route: score(truth, p, classes, groups) for route, p in probabilities.items()}
        chosen = model["routes"][model["route"]]
        rows += prediction_rows(crops, probabilities[model["route"]], classes, chosen["abstain_below"])
    write_csv(folder / PREDICTIONS, rows)
    write_json(folder / SCORES, {"classes": classes, "route": model["route"], "splits": scores})
    write_text(folder / TABLE, markdown(scores, classes))
    return scores
