"""The overlay, by what must and must not change in the picture."""

from __future__ import annotations

import numpy as np
import pytest

from lesionseg.detections import LesionInstances
from lesionseg.overlay import draw_overlay


def one_lesion(height: int, width: int) -> LesionInstances:
    mask = np.zeros((1, height, width), dtype=bool)
    mask[0, height // 2 : height * 3 // 4, width // 2 : width * 3 // 4] = True
    box = np.array([[width / 2, height / 2, width * 3 / 4, height * 3 / 4]], dtype=np.float32)
    return LesionInstances((height, width), box, np.array([0.93]), np.array([0]), mask)


@pytest.mark.parametrize("height, width", [(200, 300), (1500, 2000)])
def test_lesion_is_tinted_and_skin_is_untouched(height: int, width: int) -> None:
    image = np.full((height, width, 3), (120, 150, 200), np.uint8)
    drawn = draw_overlay(image, one_lesion(height, width), ["nevus"])
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert (image == (120, 150, 200)).all()
    inside = drawn[int(height * 0.66), int(width * 0.66)].astype(int)
    # 12 % of the first colour, RGB (0, 0.9, 1): blue and green rise, red falls.
    assert np.abs(inside - (0.88 * 120 + 0.12 * 255, 0.88 * 150 + 0.12 * 230, 0.88 * 200)).max() <= 3
    assert (drawn[: height // 3] == image[: height // 3]).all()
    assert (drawn[:, : width // 3] == image[:, : width // 3]).all()
    label = drawn[height // 2 - height // 20 : height // 2 + height // 20]
    assert label.max() > 230 and label.min() < 60  # light text on a dark ground at the box's corner


def test_without_lesion_the_picture_is_unchanged() -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8)
    drawn = draw_overlay(image, one_lesion(50, 60)[:0], ["nevus"])
    assert drawn is not image and (drawn == image).all()


def test_labels_stay_inside_the_image_and_off_the_lesion():
    # A box at the right side of a small image, with room above it, and a label wider than the box.
    image = np.full((256, 256, 3), 200, np.uint8)
    mask = np.zeros((1, 256, 256), bool)
    mask[0, 120:200, 190:250] = True
    box = np.array([[190.0, 120.0, 250.0, 200.0]], dtype=np.float32)
    found = LesionInstances((256, 256), box, np.array([0.9]), np.array([0]), mask)
    drawn = draw_overlay(image, found, ["lesion"], ["actinic keratosis 40%"])
    dark = (drawn < 60).all(axis=2)  # the label's background
    rows, columns = np.nonzero(dark)
    assert len(rows) > 1000
    assert columns.max() < 256 - 1 and columns.min() < 150
    assert (rows < 120).mean() > 0.95
