"""Pasting masks: against Detectron2, and by hand."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.layers.mask_ops import paste_masks_in_image

from lesionseg.detections import Detections


def detections(boxes: np.ndarray, masks: np.ndarray, height: int, width: int) -> Detections:
    count = len(boxes)
    return Detections(
        boxes.astype(np.float32),
        np.ones(count, np.float32),
        np.zeros(count, np.int64),
        masks.astype(np.float32),
        height,
        width,
    )


def test_full_masks_are_detectron2s() -> None:
    rng = np.random.default_rng(0)
    height, width, count = 90, 130, 40
    corners = rng.uniform(0, 1, (count, 4)) * (width, height, width, height)
    boxes = np.concatenate(
        [np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:]) + 0.3], 1
    )
    boxes = boxes.clip(0, (width, height, width, height))
    boxes[0] = (0, 0, width, height)
    boxes[1] = (width - 0.5, height - 0.5, width, height)
    masks = rng.uniform(0, 1, (count, 28, 28))
    for threshold in (0.3, 0.5):
        ours = detections(boxes, masks, height, width).full_masks(threshold)
        theirs = paste_masks_in_image(
            torch.from_numpy(masks).float(), torch.from_numpy(boxes).float(), (height, width), threshold
        )
        # A probability within float32's rounding of the threshold may fall on either side.
        assert np.count_nonzero(ours != theirs.numpy()) <= 2
        assert ours.any(axis=(1, 2)).sum() > 30


def test_full_masks_by_hand() -> None:
    # A 2x2 grid over a 4x4 box: cell centres at 1 and 3 px, pixel centres at 0.5, 1.5, 2.5, 3.5. The right column is 1:
    # along x the values are 0, 0.25, 0.75 and 0.75 (beyond the last centre it fades towards the zero outside).
    mask = np.array([[[0.0, 1.0], [0.0, 1.0]]])
    found = detections(np.array([[2.0, 1.0, 6.0, 5.0]]), mask, 6, 7).full_masks(0.5)
    # Along y the weight is 0.75, 1, 1, 0.75: the product is 0.5625 in the outer rows, so all four rows pass 0.5.
    expected = np.zeros((1, 6, 7), bool)
    expected[0, 1:5, 4:6] = True
    assert found.tolist() == expected.tolist()
    expected[0, (1, 4)] = False
    assert (
        detections(np.array([[2.0, 1.0, 6.0, 5.0]]), mask, 6, 7).full_masks(0.6).tolist() == expected.tolist()
    )


def test_nothing_found() -> None:
    assert detections(np.zeros((0, 4)), np.zeros((0, 28, 28)), 5, 6).full_masks(0.5).shape == (0, 5, 6)
