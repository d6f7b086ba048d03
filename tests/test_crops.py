"""Crop windows and backgrounds, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lesionseg.crops import crop, crop_box
from lesionseg.errors import LesionsegError


def test_crop_box_adds_the_margin_to_the_longer_side() -> None:
    # Longer side 20, so 2 px on each side; 20x10 becomes 24x14, or 24x24 around the centre (50, 45).
    assert crop_box((40, 40, 60, 50), 0.1, 100, 100, square=False) == (38, 38, 62, 52)
    assert crop_box((40, 40, 60, 50), 0.1, 100, 100, square=True) == (38, 33, 62, 57)


def test_crop_box_stays_in_the_image() -> None:
    # At the corner the square window moves in and keeps its side; the plain one is cut.
    assert crop_box((0, 0, 20, 10), 0.5, 100, 100, square=True) == (0, 0, 40, 40)
    assert crop_box((80, 90, 100, 100), 0.5, 100, 100, square=True) == (60, 60, 100, 100)
    assert crop_box((0, 0, 20, 10), 0.5, 100, 100, square=False) == (0, 0, 30, 20)
    # A window larger than the image is the image.
    assert crop_box((0, 0, 60, 50), 0.2, 50, 60, square=True) == (0, 0, 60, 50)


def test_crop_box_is_never_empty() -> None:
    assert crop_box((9.6, 9.6, 9.9, 9.9), 0, 10, 10, square=True) == (9, 9, 10, 10)
    assert crop_box((9.6, 9.6, 9.9, 9.9), 0, 10, 10, square=False) == (9, 9, 10, 10)


@pytest.mark.parametrize(
    "box", [(5, 5, 5, 9), (float("nan"), 0, 1, 1), (20, 20, 30, 30), (-9, -9, -1, -1), (9, 9, 5, 5)]
)
def test_crop_box_refuses_senseless_boxes(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(LesionsegError, match="cannot crop box"):
        crop_box(box, 0.1, 10, 10)


def test_crop_backgrounds() -> None:
    image = np.zeros((6, 6, 3), np.uint8)
    image[:] = (10, 20, 30)
    image[2:4, 2:4] = (200, 100, 50)
    image[0, 0] = 255  # outside the crop: must not enter its mean
    mask = np.zeros((6, 6), bool)
    mask[2:4, 2:4] = True
    box = (2, 2, 4, 4)
    kept = crop(image, None, box, 0.5)
    assert kept.tolist() == image[1:5, 1:5].tolist()
    for background, value in (("black", [0, 0, 0]), ("mean", [10, 20, 30])):
        piece = crop(image, mask, box, 0.5, background=background)
        assert piece.shape == (4, 4, 3)
        assert piece[0, 0].tolist() == value
        assert piece[1:3, 1:3].tolist() == image[2:4, 2:4].tolist()
    blurred = crop(image, mask, box, 0.5, background="blur")
    assert blurred[1:3, 1:3].tolist() == image[2:4, 2:4].tolist()
    # Smoothing mixes lesion colour into the ring around it: its blue lies between the two blues.
    assert 10 < blurred[0, 1, 0] < 200
    assert image[1, 1].tolist() == [10, 20, 30]  # the input is not written to


def test_crop_size() -> None:
    image = np.full((40, 60, 3), 90, np.uint8)
    assert crop(image, None, (10, 10, 30, 20), 0.0, size=32).shape == (32, 32, 3)
    assert crop(image, None, (10, 10, 30, 20), 0.0, size=32, square=False).shape == (16, 32, 3)
    # 60x40 is not square although it should be: 30x20 in the middle of 30x30, 5 rows of padding above and below.
    padded = crop(image, None, (0, 0, 60, 40), 0.0, size=30)
    assert padded.shape == (30, 30, 3)
    assert padded[:5].max() == 0 and padded[25:].max() == 0 and padded[5:25].min() == 90


def test_crop_says_what_is_missing() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(LesionsegError, match="no mask"):
        crop(image, None, (1, 1, 4, 4), 0.1, background="mean")
    with pytest.raises(LesionsegError, match=r"\(4, 4\)"):
        crop(image, np.zeros((4, 4), bool), (1, 1, 4, 4), 0.1, background="black")
    with pytest.raises(LesionsegError, match="gray"):
        crop(image, None, (1, 1, 4, 4), 0.1, background="gray")
