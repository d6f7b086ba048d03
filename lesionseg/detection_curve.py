"""Precision and recall of detections over score thresholds, by COCO's matching."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

IOUS = (0.5, 0.75)
THRESHOLDS = np.round(np.arange(0.0, 1.0, 0.02), 2)


def detection_curve(dataset_json: Path, results_json: Path) -> list[dict[str, float]]:
    """Precision and recall of mask detections at mask IoU 0.5 and 0.75 for a range of score thresholds.

    Detections are matched to reference lesions as COCO does it (pycocotools COCOeval: in each image by falling score, each to
    the free reference of the same category with the largest IoU). A match does not depend on detections of lower score,
    so dropping those below a threshold leaves the others as they are: TP are matched ones that remain, precision
    is TP / remaining, recall is TP / references.

    Args:
        dataset_json: COCO json of the data set.
        results_json: list of COCO results, as COCOEvaluator writes `coco_instances_results.json`.

    Returns:
        [{"threshold", "precision50", "recall50", "precision75", "recall75"}, ...], all in [0, 1]; precision is NaN where no
        detection remains, recall where there is no reference.
    """
    matched, scores, references = _matches(dataset_json, results_json)
    curve = []
    for threshold in THRESHOLDS:
        remain = scores >= threshold
        point = {"threshold": float(threshold)}
        for index, iou in enumerate(IOUS):
            hits = float(matched[index, remain].sum())
            point[f"precision{iou * 100:.0f}"] = hits / remain.sum() if remain.any() else float("nan")
            point[f"recall{iou * 100:.0f}"] = hits / references if references else float("nan")
        curve.append(point)
    return curve


def _matches(dataset_json: Path, results_json: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """bool (IoUs, N) whether each of N detections is matched, float (N,) their scores, and the number of references."""
    results: list[dict[str, Any]] = json.loads(results_json.read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(dataset_json))
        references = len(coco.anns)
        if not results:
            return np.zeros((len(IOUS), 0), dtype=bool), np.zeros(0), references
        evaluation = COCOeval(coco, coco.loadRes(results), "segm")
        evaluation.params.iouThrs = np.array(IOUS)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
    images = [image for image in evaluation.evalImgs if image is not None]
    matched = np.concatenate([image["dtMatches"] > 0 for image in images], axis=1)
    scores = np.concatenate([np.asarray(image["dtScores"], dtype=float) for image in images])
    return matched, scores, references
