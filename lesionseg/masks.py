"""From detected instances to the one lesion mask of an image, the thing that ISIC scores and mask files hold."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

SELECTIONS = ("top", "union")


def one_region(mask: np.ndarray) -> np.ndarray:
    """The largest 8-connected region of a mask, with its holes filled; an empty mask stays empty.

    Args:
        mask: bool (H, W).

    Returns:
        bool (H, W). ISIC asks for "a single contiguous region without disconnected components or holes"
        (ISIC 2018 Task 1, submission format); of regions of equal area the first in reading order is kept.
    """
    pixels = np.ascontiguousarray(mask, dtype=np.uint8)
    # Most predictions are one region without holes, with one contour in all: seeing that takes a tenth of labelling.
    contours, _ = cv2.findContours(pixels, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    if len(contours) == 1:
        return mask.copy()
    count, labels, stats, _ = cv2.connectedComponentsWithStats(pixels, connectivity=8)
    if count <= 1:
        return np.zeros(mask.shape, dtype=bool)
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    region = (labels == largest).astype(np.uint8)
    contours, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(region, contours, -1, color=1, thickness=cv2.FILLED)
    return region.astype(bool)


def lesion_mask(
    instances: Any,
    selection: str = "top",
    one_region_only: bool = True,
    score_threshold: float = 0.0,
) -> np.ndarray:
    """The predicted lesion mask of an image.

    Args:
        instances: LesionInstances, or Detectron2's Instances on the CPU: `image_size`, `scores` (N,) in [0, 1],
            `pred_masks` bool (N, H, W).
        selection: "top" takes the instance of the highest score, "union" all that pass the threshold.
        one_region_only: reduce the result with `one_region`.
        score_threshold: instances with a lower score do not count.

    Returns:
        bool (H, W); all False where nothing was detected.

    Raises:
        ValueError: unknown selection.
    """
    if selection not in SELECTIONS:
        raise ValueError(f"LESION.MASK_SELECTION is one of {SELECTIONS}, not {selection!r}")
    scores, masks = np.asarray(instances.scores), np.asarray(instances.pred_masks, dtype=bool)
    keep = scores >= score_threshold
    if not keep.any():
        return np.zeros(instances.image_size, dtype=bool)
    mask = np.asarray(masks[int(scores.argmax())] if selection == "top" else masks[keep].any(axis=0))
    return one_region(mask) if one_region_only else mask


def configured_lesion_mask(cfg: Any, instances: Any) -> np.ndarray:
    """`lesion_mask` with the selection and threshold of cfg.LESION."""
    lesion = cfg.LESION
    return lesion_mask(instances, lesion.MASK_SELECTION, lesion.ONE_REGION, lesion.SCORE_THRESHOLD)
