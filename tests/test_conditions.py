"""Image conditions on drawn pictures of known hair, corners, contrast and skin tone."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from lesionseg.conditions import image_conditions, individual_typology_angle, ita_class

SKIN = (150, 180, 220)  # BGR
EMPTY = np.zeros((512, 512), bool)


def skin(size: int = 512) -> np.ndarray:
    return np.full((size, size, 3), SKIN, np.uint8)


def disc(radius: int = 100, size: int = 512) -> np.ndarray:
    return cv2.circle(np.zeros((size, size), np.uint8), (size // 2, size // 2), radius, 1, -1).astype(bool)


def cielab(bgr: tuple[int, int, int]) -> np.ndarray:
    """CIELAB under D65 from the definitions (IEC 61966-2-1, CIE 15)."""
    srgb = np.array(bgr[::-1]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    matrix = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    f = np.cbrt(matrix @ linear / np.array([0.95047, 1.0, 1.08883]))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_plain_skin_has_no_hair_and_no_corners() -> None:
    conditions = image_conditions(skin(), EMPTY)
    assert conditions["hair_pct"] == conditions["dark_corner_pct"] == 0
    assert math.isnan(conditions["contrast"])


@pytest.mark.parametrize("hairs", [2, 4, 8])
def test_hair_cover_is_about_what_was_drawn(hairs: int) -> None:
    """Marks are a px wider on each side than the hair."""
    image, wide = skin(), skin()
    for offset in range(0, 60 * hairs, 60):
        cv2.line(image, (offset, 20), (offset + 60, 490), (30, 40, 50), thickness=4)
        cv2.line(wide, (offset, 20), (offset + 60, 490), (30, 40, 50), thickness=6)
    drawn, widened = (100 * (picture != SKIN).any(axis=2).mean() for picture in (image, wide))
    assert 0.8 * drawn < image_conditions(image, EMPTY)["hair_pct"] < 1.1 * widened


def test_dots_and_a_lesion_are_no_hair() -> None:
    image = skin()
    rng = np.random.default_rng(0)
    for x, y in rng.integers(20, 490, size=(60, 2)):
        cv2.circle(image, (int(x), int(y)), 4, (60, 70, 90), -1)
    cv2.circle(image, (256, 256), 100, (60, 80, 120), -1)
    assert image_conditions(image, disc())["hair_pct"] < 0.1


def test_dark_corners_are_the_area_outside_the_circle() -> None:
    image = skin()
    field = disc(250)
    image[~field] = 5
    assert image_conditions(image, EMPTY)["dark_corner_pct"] == pytest.approx(100 * (~field).mean(), abs=0.5)


def test_a_black_lesion_at_the_corner_is_no_dark_corner() -> None:
    image, lesion = skin(), EMPTY.copy()
    lesion[:200, :200] = True
    image[lesion] = 10
    assert image_conditions(image, lesion)["dark_corner_pct"] == 0


@pytest.mark.parametrize("size", [256, 512, 1500])
def test_contrast_and_skin_tone_from_the_definitions(size: int) -> None:
    image, lesion = skin(size), disc(size // 5, size)
    brown = (60, 80, 120)
    image[lesion] = brown
    conditions = image_conditions(image, lesion)
    expected = cielab(SKIN)
    assert conditions["contrast"] == pytest.approx(np.linalg.norm(cielab(brown) - expected), rel=0.05)
    assert conditions["ita_degrees"] == pytest.approx(
        math.degrees(math.atan((expected[0] - 50) / expected[2])), abs=0.5
    )


def test_no_skin_in_the_picture() -> None:
    conditions = image_conditions(skin(), np.ones((512, 512), bool))
    assert math.isnan(conditions["ita_degrees"]) and math.isnan(conditions["contrast"])


def test_black_picture() -> None:
    conditions = image_conditions(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), bool))
    assert conditions["dark_corner_pct"] == 100
    assert math.isnan(conditions["hair_pct"]) and math.isnan(conditions["ita_degrees"])


def test_individual_typology_angle_by_hand() -> None:
    assert individual_typology_angle(65, 15) == pytest.approx(45)
    assert individual_typology_angle(50, 20) == 0
    assert individual_typology_angle(40, 10) == pytest.approx(-45)


@pytest.mark.parametrize(
    ("degrees", "name"),
    [
        (56, "very light"),
        (55, "light"),
        (30, "intermediate"),
        (11, "tan"),
        (0, "brown"),
        (-31, "dark"),
        (math.nan, ""),
    ],
)
def test_skin_colour_classes(degrees: float, name: str) -> None:
    assert ita_class(degrees) == name
