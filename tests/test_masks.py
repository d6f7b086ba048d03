"""The lesion mask of an image: selection, threshold, one region; on masks small enough to see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from scipy import ndimage

from lesionseg.masks import lesion_mask, one_region


def grid(*rows: str) -> np.ndarray:
    return np.array([[character == "#" for character in row] for row in rows])


def test_one_region_keeps_the_largest_and_fills_its_holes():
    mask = grid("###..#", "#.#..#", "###...")
    assert np.array_equal(one_region(mask), grid("###...", "###...", "###..."))


def test_pixels_that_touch_at_a_corner_are_one_region():
    mask = grid("#...", ".#..", "..##")
    assert np.array_equal(one_region(mask), mask)


def test_a_bay_that_opens_to_the_outside_is_no_hole():
    mask = grid("###", "#..", "###")
    assert np.array_equal(one_region(mask), mask)


def test_empty_stays_empty_and_full_stays_full():
    assert not one_region(np.zeros((3, 4), bool)).any()
    assert one_region(np.ones((3, 4), bool)).all()


def test_one_region_agrees_with_scipy_on_random_masks():
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = rng.random((12, 15)) > 0.55
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        sizes = ndimage.sum_labels(mask, labels, range(1, count + 1))
        result = one_region(mask)
        # Among regions of the same size either is right: compare with the one that was chosen.
        chosen = labels[result & mask][0]
        assert sizes[chosen - 1] == sizes.max()
        assert np.array_equal(result, ndimage.binary_fill_holes(labels == chosen))


def detections(*items: tuple[float, np.ndarray]) -> Instances:
    result = Instances((3, 6))
    result.scores = torch.tensor([score for score, _ in items])
    result.pred_masks = torch.tensor(np.array([mask for _, mask in items]).reshape(-1, 3, 6))
    return result


LEFT = grid("##....", "##....", "......")
RIGHT = grid("....##", "....##", "....##")


def test_top_takes_the_highest_score():
    assert np.array_equal(lesion_mask(detections((0.4, RIGHT), (0.9, LEFT))), LEFT)


def test_union_takes_all_above_the_threshold():
    found = detections((0.4, RIGHT), (0.9, LEFT))
    assert np.array_equal(lesion_mask(found, "union", one_region_only=False), LEFT | RIGHT)
    assert np.array_equal(lesion_mask(found, "union", one_region_only=False, score_threshold=0.5), LEFT)
    assert np.array_equal(lesion_mask(found, "union"), RIGHT)  # 6 px against 4


def test_nothing_above_the_threshold_is_an_empty_mask():
    assert not lesion_mask(detections((0.4, RIGHT)), score_threshold=0.5).any()
    assert lesion_mask(detections()).shape == (3, 6)


def test_unknown_selection():
    with pytest.raises(ValueError, match="MASK_SELECTION"):
        lesion_mask(detections(), "best")
