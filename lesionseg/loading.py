"""A trained model from its files: the configuration made ready for prediction, and weights that fit or an error."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from lesionseg.checkpoint import require_weights
from lesionseg.config import add_lesion_config, available_device, setup_cfg
from lesionseg.errors import LesionsegError
from lesionseg.masks import SELECTIONS
from lesionseg.runs import CONFIG, find_model


def prediction_cfg(
    source: CfgNode | str | Path,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
) -> CfgNode:
    """A configuration for prediction, frozen: files found, thresholds checked; see LesionPredictor.

    Raises:
        LesionsegError: no such run, a threshold out of range, a model without masks.
    """
    if isinstance(source, CfgNode):
        cfg = source.clone()
        cfg.defrost()
        if "LESION" not in cfg:
            add_lesion_config(cfg)
    else:
        model = find_model(weights or "", Path(source) / CONFIG)
        cfg = setup_cfg(model.config)
        weights = model.weights
    if weights is not None:
        cfg.MODEL.WEIGHTS = str(weights)
    # A run trained on a GPU must predict on a machine without one, too.
    cfg.MODEL.DEVICE = available_device(str(device or cfg.MODEL.DEVICE))
    if not 0 <= cfg.LESION.SCORE_THRESHOLD <= 1:
        raise LesionsegError(f"LESION.SCORE_THRESHOLD is in [0, 1], not {cfg.LESION.SCORE_THRESHOLD}")
    if not 0 < cfg.LESION.MASK_THRESHOLD <= 1:
        raise LesionsegError(f"LESION.MASK_THRESHOLD is in (0, 1], not {cfg.LESION.MASK_THRESHOLD}")
    if cfg.LESION.MASK_SELECTION not in SELECTIONS:
        raise LesionsegError(
            f"LESION.MASK_SELECTION is {' or '.join(SELECTIONS)}, not {cfg.LESION.MASK_SELECTION}"
        )
    if cfg.INPUT.MIN_SIZE_TEST < 1:
        raise LesionsegError(f"INPUT.MIN_SIZE_TEST is 1 px or more, not {cfg.INPUT.MIN_SIZE_TEST}")
    # Non-maximum suppression goes by falling score: dropping low scores before or after it is the same. Not so with
    # test-time augmentation, where a detection that is weak in one view may be strong in the mean.
    weakest = cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST if cfg.LESION.TTA.ENABLED else 1.0
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = min(weakest, cfg.LESION.SCORE_THRESHOLD)
    if not cfg.MODEL.MASK_ON:
        raise LesionsegError("MODEL.MASK_ON is False: a model without masks cannot outline lesions")
    cfg.freeze()
    return cfg


def class_names(cfg: CfgNode) -> list[str]:
    """cfg.LESION.CLASSES, else what the test set's registration says, else class numbers."""
    count = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    names = list(cfg.LESION.CLASSES)
    if not names and cfg.DATASETS.TEST:
        names = MetadataCatalog.get(cfg.DATASETS.TEST[0]).get("thing_classes", [])
    if not names:
        names = ["lesion"] if count == 1 else [f"class {index}" for index in range(count)]
    if len(names) != count:
        raise LesionsegError(
            f"the configuration names {len(names)} classes ({', '.join(names)}), but MODEL.ROI_HEADS.NUM_CLASSES is {count}"
        )
    return names


class _StrictCheckpointer(DetectionCheckpointer):
    """Refuses weights that leave a part of the model at its random initialisation, instead of logging it."""

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        shapes = [
            f"{key}: {found} instead of {wanted}" for key, found, wanted in incompatible.incorrect_shapes
        ]
        misshapen = {key for key, *_ in incompatible.incorrect_shapes}
        problems = {
            "missing": [key for key in incompatible.missing_keys if key not in misshapen],
            "of another shape": shapes,
            "unknown to the model": list(incompatible.unexpected_keys),
        }
        if any(problems.values()):
            listed = "; ".join(f"{len(v)} {k} (as {v[0]})" for k, v in problems.items() if v)
            raise LesionsegError(
                f"the weights do not fit the configuration: {listed}. Use the config.yaml that was written beside "
                "them in training; another number of classes is MODEL.ROI_HEADS.NUM_CLASSES"
            )


def load_weights(model: torch.nn.Module, weights: str) -> None:
    """Load a checkpoint into a model, all of it.

    Raises:
        LesionsegError: no such file, not a checkpoint, or one that does not fit the model.
    """
    if not weights:
        raise LesionsegError("no weights: give a checkpoint, or set MODEL.WEIGHTS")
    require_weights(weights)
    try:
        _StrictCheckpointer(model).load(weights)
    except (RuntimeError, OSError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise LesionsegError(f"{weights} is not a readable checkpoint: {error}") from error
    except LesionsegError as error:
        raise LesionsegError(f"{weights}: {error}") from None
