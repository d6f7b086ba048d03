"""Boundary metrics against DeepMind's surface-distance package, SciPy, and masks small enough to count by hand."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy import ndimage

from lesionseg.boundary import (
    boundary_iou,
    boundary_scores,
    image_diagonal,
    outline,
    rim,
    rim_width,
    surface_scores,
)


def square(top: int, left: int, side: int, shape: tuple[int, int] = (20, 20)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def blob(rng: np.random.Generator, shape: tuple[int, int], share: float) -> np.ndarray:
    """Random mask of several smooth regions, often cut by the frame."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), rng.uniform(0.5, 5))
    return noise > np.quantile(noise, 1 - share)


def test_outline_of_one_pixel() -> None:
    points, lengths = outline(square(3, 5, 1))
    assert points.tolist() == [[3, 5], [3, 6], [4, 5], [4, 6]]
    assert lengths == pytest.approx([math.sqrt(0.5)] * 4)


def test_outline_of_two_pixels_touching_at_a_corner() -> None:
    points, lengths = outline(np.eye(2, dtype=bool))
    shared = (points == (1, 1)).all(axis=1)
    assert lengths[shared] == pytest.approx([math.sqrt(2)])
    assert len(points) == 7


def test_shifted_square_by_hand() -> None:
    """A 4x4 square against itself two px to the right, in 20x20: each outline has 12 unit elements and 4 corners."""
    scores = surface_scores(square(8, 4, 4), square(8, 6, 4))
    total = 12 + 4 * math.sqrt(0.5)
    # Columns of corners 4..8 against 6..10, rows 8..12. Of the first outline: left side (x=4) is 2 away, the horizontal
    # sides' x=5 is 1 away, x=6 and 7 lie on the other outline, and the right side (x=8) is inside the other square:
    # its ends lie on the other outline, rows 9 and 11 are 1 away, row 10 is 2 away.
    left = 2 * (3 + 2 * math.sqrt(0.5))
    distance_sum = left + 1 * 2 + (1 + 2 + 1)
    assert scores["assd_px"] == pytest.approx(distance_sum / total)
    assert scores["hd95_px"] == pytest.approx(2.0)
    assert scores["surface_dice_3px"] == 1.0
    # The tolerance is 1 % of 28.3 px, so only what coincides counts: x=6, 7 twice, and the right side's two ends.
    assert scores["surface_dice_1pct"] == pytest.approx((4 + 2 * math.sqrt(0.5)) / total)


def test_percent_is_of_the_diagonal() -> None:
    scores = surface_scores(square(0, 0, 5, (30, 40)), square(10, 10, 5, (30, 40)))
    assert image_diagonal((30, 40)) == 50.0
    assert scores["hd95_pct"] == pytest.approx(scores["hd95_px"] * 2)
    assert scores["assd_pct"] == pytest.approx(scores["assd_px"] * 2)


@pytest.mark.parametrize("seed", range(40))
def test_surface_scores_equal_deepmind_surface_distance(seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        surface_distance = pytest.importorskip(
            "surface_distance.metrics", reason="PyPI surface-distance not installed"
        )
        rng = np.random.default_rng(seed)
        shape = (int(rng.integers(5, 70)), int(rng.integers(5, 70)))
        reference, predicted = (
            blob(rng, shape, rng.uniform(0.02, 0.9)),
            blob(rng, shape, rng.uniform(0.02, 0.9)),
        )
        distances = surface_distance.compute_surface_distances(reference, predicted, (1, 1))
    ours = surface_scores(reference, predicted)
    to_pred, to_ref = distances["distances_gt_to_pred"], distances["distances_pred_to_gt"]
    length_ref, length_pred = distances["surfel_areas_gt"], distances["surfel_areas_pred"]
    both = (to_pred * length_ref).sum() + (to_ref * length_pred).sum()
    assert ours["assd_px"] == pytest.approx(both / (length_ref.sum() + length_pred.sum()), abs=1e-9)
    assert ours["hd95_px"] == pytest.approx(
        surface_distance.compute_robust_hausdorff(distances, 95), abs=1e-9
    )
    for name, tolerance in (("3px", 3.0), ("1pct", 0.01 * math.hypot(*shape))):
        expected = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance)
        assert ours[f"surface_dice_{name}"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_boundary_iou_equals_scipy_erosion(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    shape = (int(rng.integers(5, 80)), int(rng.integers(5, 80)))
    reference, predicted = blob(rng, shape, rng.uniform(0.05, 0.9)), blob(rng, shape, rng.uniform(0.05, 0.9))
    for width in (1, 2, 5):
        rims = [
            mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=width, border_value=0)
            for mask in (reference, predicted)
        ]
        expected = (rims[0] & rims[1]).sum() / (rims[0] | rims[1]).sum()
        assert boundary_iou(reference, predicted, width) == pytest.approx(expected, abs=1e-12)


def test_boundary_iou_by_hand() -> None:
    """5x5 square against its inner 3x3: rims of 1 px have 16 and 8 pixels and share none; of 2 px, 24 and 9 share 8."""
    outer, inner = square(5, 5, 5), square(6, 6, 3)
    assert boundary_iou(outer, inner, 1) == 0.0
    assert boundary_iou(outer, inner, 2) == pytest.approx(8 / 25)


def test_rim_at_the_frame() -> None:
    assert rim(np.ones((5, 5), bool), 1).sum() == 16
    assert rim(np.ones((5, 5), bool), 9).all()


@pytest.mark.parametrize(("shape", "width"), [((512, 512), 14), ((10, 10), 1), ((767, 1022), 26)])
def test_rim_width(shape: tuple[int, int], width: int) -> None:
    assert rim_width(shape) == width


def test_identical_masks() -> None:
    scores = boundary_scores(square(2, 3, 7), square(2, 3, 7))
    assert {name: value for name, value in scores.items() if value == 0} == dict.fromkeys(
        ("hd95_px", "hd95_pct", "assd_px", "assd_pct"), 0.0
    )
    assert [value for value in scores.values() if value != 0] == [1.0] * 4


@pytest.mark.parametrize("empty_first", [True, False])
def test_one_empty_mask_gets_the_worst(empty_first: bool) -> None:
    masks = [np.zeros((30, 40), bool), square(3, 3, 4, (30, 40))]
    scores = boundary_scores(*(masks if empty_first else masks[::-1]))
    assert (scores["hd95_px"], scores["assd_px"]) == (50.0, 50.0)
    assert (scores["hd95_pct"], scores["assd_pct"]) == (100.0, 100.0)
    assert {
        scores[n] for n in ("surface_dice_3px", "surface_dice_1pct", "boundary_iou_5px", "boundary_iou_2pct")
    } == {0.0}


def test_two_empty_masks_agree() -> None:
    scores = boundary_scores(np.zeros((9, 9), bool), np.zeros((9, 9), bool))
    assert scores["hd95_px"] == scores["assd_pct"] == 0.0
    assert scores["surface_dice_1pct"] == scores["boundary_iou_2pct"] == 1.0


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4\).*\(5, 5\)"):
        boundary_scores(np.zeros((4, 4), bool), np.zeros((5, 5), bool))
