"""Pasting masks: against Detectron2, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.layers.mask_ops import paste_masks_in_image

from lesionseg.detections import Detections, box_iou


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


def test_box_iou_by_hand() -> None:
    a = np.array([[0, 0, 4, 2], [10, 10, 12, 12]], np.float32)
    b = np.array([[2, 0, 6, 2], [0, 0, 4, 2], [11, 11, 12, 12]], np.float32)
    assert box_iou(a, b) == pytest.approx(np.array([[4 / 12, 1, 0], [0, 0, 1 / 4]]))
    assert box_iou(a, b[:0]).shape == (2, 0)


def found(lefts: list[float], classes: list[int]) -> Detections:
    """Boxes 10 px wide and high, by falling score, at `lefts` of one row; masks filled with the number of the box."""
    count = len(lefts)
    boxes = np.array([[left, 0, left + 10, 10] for left in lefts], np.float32).reshape(-1, 4)
    scores, masks = np.linspace(0.9, 0.1, count), np.arange(count)[:, None, None] * np.ones((1, 2, 2))
    return Detections(
        boxes, scores.astype(np.float32), np.array(classes, np.int64), masks.astype(np.float32), 20, 99
    )


def test_one_lesion_keeps_its_likeliest_class() -> None:
    """IoU of two boxes d px apart is (10 - d) / (10 + d): 0.67 at 2 px, 0.43 at 4 px."""
    three = found([0, 2, 50], [1, 0, 0]).best_class_only(0.5)
    assert three.boxes[:, 0].tolist() == [0, 50] and three.classes.tolist() == [1, 0]
    assert three.scores.tolist() == pytest.approx([0.9, 0.1]) and three.masks[:, 0, 0].tolist() == [0, 2]
    assert (three.height, three.width) == (20, 99)
    assert len(found([0, 4], [1, 0]).best_class_only(0.5)) == 2
    assert len(found([0, 4], [1, 0]).best_class_only(0.4)) == 1
    # The second goes for the first's sake, and so does not take the third with it.
    assert found([0, 2, 4], [1, 0, 1]).best_class_only(0.5).boxes[:, 0].tolist() == [0, 4]
    assert found([0, 3, 3], [1, 0, 2]).best_class_only(0.5).boxes[:, 0].tolist() == [0]


def test_detections_of_one_class_stay() -> None:
    """Detectron2 has suppressed those."""
    for one in (found([0, 1, 2], [3, 3, 3]), found([], [])):
        assert one.best_class_only(0.5) is one
    assert len(found([0, 1, 50], [3, 3, 1]).best_class_only(0.5)) == 3
