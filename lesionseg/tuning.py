"""Choose the score threshold and the mask threshold of a run on its validation set, and write them into its config."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from tqdm import tqdm

from lesionseg.config import available_device, setup_cfg
from lesionseg.detections import Detections
from lesionseg.errors import LesionsegError
from lesionseg.evaluation import reference_mask
from lesionseg.images import atomic_write
from lesionseg.masks import one_region
from lesionseg.metrics import ISIC_METRICS, confusion
from lesionseg.predictor import LesionPredictor
from lesionseg.register import read_coco, require
from lesionseg.runs import CONFIG, find_model
from lesionseg.stream import FailedImage

logger = logging.getLogger(__name__)

SCORE_THRESHOLDS = tuple(np.round(np.arange(0.05, 0.96, 0.05), 2).tolist())
MASK_THRESHOLDS = tuple(np.round(np.arange(0.2, 0.81, 0.05), 2).tolist())
RECORD = "tuning.json"


def tune_run(
    run: Path,
    dataset: str | None = None,
    metric: str = "threshold_jaccard",
    batch_size: int = 1,
    opts: Sequence[str] = (),
) -> dict[str, Any]:
    """Set LESION.SCORE_THRESHOLD and LESION.MASK_THRESHOLD in <run>/config.yaml to the best pair of a grid.

    Best is the highest mean of `metric` over the images of the validation set; of equal pairs the one nearest to the present
    setting. The score that is reached there is optimistic, since the thresholds were chosen by it: report that of a test set.

    Args:
        dataset: by default the run's first DATASETS.TEST; its split must be a validation part.
        metric: a key of lesionseg.metrics.ISIC_METRICS.
        opts: KEY VALUE pairs for the computation, such as MODEL.DEVICE cuda; they are not written to the config.

    Returns:
        Content of <run>/tuning.json: dataset, metric, "before" and "after" {"score_threshold", "mask_threshold", "value"}, and
        "grid", the mean metric of every pair of thresholds.

    Raises:
        LesionsegError: no such run, a data set that is no validation set, an unknown metric, images that cannot be read.
    """
    if metric not in ISIC_METRICS:
        raise LesionsegError(f"metric {metric}: expected one of {', '.join(ISIC_METRICS)}")
    model = find_model(config_file=run / CONFIG)
    cfg = setup_cfg(model.config, opts)
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = str(model.weights), available_device(cfg.MODEL.DEVICE)
    dataset = dataset or next(iter(cfg.DATASETS.TEST), "")
    require([dataset], cfg.LESION.DATA_ROOT)
    require_validation(dataset)
    scores = grid_scores(cfg, dataset, metric, batch_size)
    means = scores.mean(axis=0)
    now = cfg.LESION.SCORE_THRESHOLD, cfg.LESION.MASK_THRESHOLD
    i, j = best_pair(means, now)
    result = {
        "dataset": dataset,
        "metric": metric,
        "images": len(scores),
        "before": {"score_threshold": now[0], "mask_threshold": now[1], "value": _value_at(means, now)},
        "after": {
            "score_threshold": SCORE_THRESHOLDS[i],
            "mask_threshold": MASK_THRESHOLDS[j],
            "value": float(means[i, j]),
        },
        "grid": {
            "score_thresholds": SCORE_THRESHOLDS,
            "mask_thresholds": MASK_THRESHOLDS,
            "means": means.tolist(),
        },
    }
    write_thresholds(model.config, SCORE_THRESHOLDS[i], MASK_THRESHOLDS[j])
    with atomic_write(run / RECORD) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")
    return result


def require_validation(dataset: str) -> None:
    """Refuse to choose settings on anything but a validation part.

    Raises:
        LesionsegError: the split of a registered data set is not val.
    """
    split = read_coco(MetadataCatalog.get(dataset).json_file)["info"]["split"]
    if not split.endswith("val"):
        raise LesionsegError(
            f"{dataset} is the {split} part of its data set: thresholds are chosen on a validation part only, since "
            "scores on data that settings were chosen by are no test. Name one with --dataset, such as isic2018_val"
        )


def grid_scores(cfg: CfgNode, dataset: str, metric: str, batch_size: int = 1) -> np.ndarray:
    """The metric of every image for every pair of thresholds, float (images, score thresholds, mask thresholds).

    Raises:
        LesionsegError: images that cannot be read, all named.
    """
    records = DatasetCatalog.get(dataset)
    cfg = cfg.clone()
    cfg.LESION.SCORE_THRESHOLD = SCORE_THRESHOLDS[0]
    predictor = LesionPredictor(cfg)
    scores, failed = [], []
    stream = predictor.detect(records, batch_size)
    for record, found in tqdm(stream, desc="tuning", total=len(records), unit="image", disable=None):
        if isinstance(found, FailedImage):
            failed.append(str(found))
        else:
            reference = reference_mask(record)
            table = np.empty((len(SCORE_THRESHOLDS), len(MASK_THRESHOLDS)))
            for i, j, mask in _lesion_masks(found, cfg.LESION.MASK_SELECTION, cfg.LESION.ONE_REGION):
                table[i, j] = ISIC_METRICS[metric](confusion(reference, mask))
            scores.append(table)
    if failed:
        raise LesionsegError(f"{len(failed)} images cannot be read:\n  " + "\n  ".join(failed))
    return np.stack(scores)


def _lesion_masks(found: Detections, selection: str, one: bool) -> Iterator[tuple[int, int, np.ndarray]]:
    """(i, j, lesion mask) for every score threshold i and mask threshold j, as `masks.lesion_mask` makes it.

    Detections come by falling score, so a score threshold keeps the first few; a mask is made once for each number of them.
    """
    kept = [int((found.scores >= threshold).sum()) for threshold in SCORE_THRESHOLDS]
    for j, threshold in enumerate(MASK_THRESHOLDS):
        full = found.full_masks(threshold)
        made: dict[int, np.ndarray] = {}
        for i, count in enumerate(kept):
            count = min(count, 1) if selection == "top" else count
            if count not in made:
                mask: np.ndarray = np.any(full[:count], axis=0)
                made[count] = one_region(mask) if one else mask
            yield i, j, made[count]


def best_pair(means: np.ndarray, now: tuple[float, float]) -> tuple[int, int]:
    """Indices (score threshold, mask threshold) of the highest mean; of equal ones the nearest to the thresholds `now`."""
    candidates = np.argwhere(means >= means.max() - 1e-12)
    distance = [abs(SCORE_THRESHOLDS[i] - now[0]) + abs(MASK_THRESHOLDS[j] - now[1]) for i, j in candidates]
    i, j = candidates[int(np.argmin(distance))]
    return int(i), int(j)


def _value_at(means: np.ndarray, now: tuple[float, float]) -> float | None:
    """The mean at the present thresholds; None where they are not on the grid."""
    on_grid = now[0] in SCORE_THRESHOLDS and now[1] in MASK_THRESHOLDS
    return float(means[SCORE_THRESHOLDS.index(now[0]), MASK_THRESHOLDS.index(now[1])]) if on_grid else None


def write_thresholds(config: Path, score_threshold: float, mask_threshold: float) -> None:
    """Change the two thresholds in a run's config.yaml, and nothing else."""
    cfg = setup_cfg(config)
    cfg.LESION.SCORE_THRESHOLD, cfg.LESION.MASK_THRESHOLD = score_threshold, mask_threshold
    with atomic_write(config) as temporary:
        temporary.write_text(cfg.dump())
