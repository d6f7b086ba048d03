"""ABCD features of drawn lesions whose values are known."""

from __future__ import annotations

import csv
import math

import cv2
import numpy as np
import pytest
from scipy import integrate, ndimage

from lesionseg.errors import LesionsegError
from lesionseg.features import FEATURES, measure
from lesionseg.features_abc import COLOURS, SKIN_AB
from lesionseg.features_drawing import draw_abcd
from lesionseg.images import read_image, read_mask

SKIN = (70.0, *SKIN_AB)  # CIELAB
Y, X = np.mgrid[:400, :400]


def bgr(lab) -> np.ndarray:
    pixel = cv2.cvtColor(np.array([[lab]], np.float32), cv2.COLOR_LAB2BGR)
    return np.rint(pixel * 255).astype(np.uint8)[0, 0]


def paint(*parts, shape=(400, 400)) -> np.ndarray:
    """Skin, and on it each (mask, CIELAB colour)."""
    image = np.full((*shape, 3), bgr(SKIN), np.uint8)
    for mask, colour in parts:
        image[mask] = bgr(colour)
    return image


def disc(radius=100.0, x=200.0, y=200.0) -> np.ndarray:
    return (X - x) ** 2 + (Y - y) ** 2 <= radius**2


def ellipse(a: float, b: float, degrees: float = 0.0) -> np.ndarray:
    angle = math.radians(degrees)
    u = (X - 200) * math.cos(angle) + (Y - 200) * math.sin(angle)
    v = -(X - 200) * math.sin(angle) + (Y - 200) * math.cos(angle)
    return (u / a) ** 2 + (v / b) ** 2 <= 1


BROWN, BLACK = COLOURS["dark_brown"], COLOURS["black"]


def test_disc():
    mask = disc(100)
    values = measure(paint((mask, BROWN)), mask, mm_per_px=0.05).values
    assert list(values) == list(FEATURES)
    assert values["asymmetry"] == 0
    assert values["asymmetry_shape"] < 0.01
    assert values["asymmetry_colour"] < 1
    assert values["area_px"] == mask.sum()
    assert values["diameter_px"] == pytest.approx(200, rel=0.01)
    assert values["diameter_mm"] == pytest.approx(10, rel=0.01)
    assert values["perimeter_px"] == pytest.approx(2 * math.pi * 100, rel=0.01)
    assert values["circularity"] == pytest.approx(1, abs=0.02)
    assert values["solidity"] == pytest.approx(1, abs=0.02)
    assert values["eccentricity"] < 0.1
    assert values["outline_cut"] == 0
    # CIE 1976 distance of the two colours, from their definition; 8-bit sRGB rounds it a little.
    assert values["contrast"] == pytest.approx(math.dist(BROWN, SKIN), abs=2)
    assert (values["border"], values["colours"]) == (8, 1)
    assert values["tds_without_d"] == pytest.approx(1.3 * 0 + 0.1 * 8 + 0.5 * 1)


def test_ellipse():
    mask = ellipse(150, 75, degrees=30)
    abcd = measure(paint((mask, BROWN)), mask)
    values = abcd.values
    assert values["asymmetry"] == 0
    assert values["asymmetry_shape"] < 0.02
    assert values["eccentricity"] == pytest.approx(math.sqrt(1 - 0.25), abs=0.01)
    assert values["diameter_px"] == pytest.approx(300, rel=0.01)
    # Ramanujan's second approximation of an ellipse's perimeter (1914), exact to 1e-5 here.
    h = (75 / 225) ** 2
    perimeter = math.pi * 225 * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))
    assert values["perimeter_px"] == pytest.approx(perimeter, rel=0.01)
    assert values["circularity"] == pytest.approx(4 * math.pi * math.pi * 150 * 75 / perimeter**2, abs=0.02)
    assert math.degrees(abcd.angle) % 180 == pytest.approx(30, abs=1)
    assert abcd.centre == pytest.approx((200, 200), abs=0.5)


def test_half_disc_is_asymmetric_over_one_axis():
    radius = 110
    mask = disc(radius) & (Y >= 200)
    abcd = measure(paint((mask, BROWN)), mask)
    # Over the axis of symmetry nothing is left over; over the one parallel to the cut, through the centroid at
    # c = 4 r / (3 pi), the overlap is twice the integral of the width from c to 2 c.
    c = 4 / (3 * math.pi)
    overlap = 2 * integrate.quad(lambda t: 2 * math.sqrt(1 - t * t), c, 2 * c)[0]
    outside = 1 - overlap / (math.pi / 2)
    assert outside == pytest.approx(0.185, abs=1e-3)
    assert abcd.values["asymmetry_shape"] == pytest.approx((0 + outside) / 2, abs=0.01)
    assert abcd.values["asymmetry"] == 1
    assert sorted(abcd.axes_asymmetric) == [False, True]
    assert abcd.values["solidity"] == pytest.approx(1, abs=0.02)
    assert abcd.values["perimeter_px"] == pytest.approx((math.pi + 2) * radius, rel=0.02)


def test_solidity_of_a_notched_square():
    square = (abs(X - 200) <= 80) & (abs(Y - 200) <= 80)
    mask = square & ~((abs(X - 200) <= 40) & (Y < 200))  # a quarter of it is cut out of the upper edge
    values = measure(paint((mask, BROWN)), mask).values
    assert values["solidity"] == pytest.approx(0.75, abs=0.02)
    assert values["diameter_px"] == pytest.approx(160 * math.sqrt(2), rel=0.04)  # corners are rounded


def test_two_coloured_disc():
    mask = disc(100)
    values = measure(paint((mask, BROWN), (mask & (X < 200), BLACK)), mask).values
    # Mirrored over the dividing line every point meets the other colour, over the line across it its own.
    assert values["asymmetry"] == 1
    assert values["asymmetry_shape"] < 0.01
    assert values["asymmetry_colour"] == pytest.approx(math.dist(BROWN, BLACK) / 2, rel=0.1)
    assert values["colours"] == 2
    assert values["colour_dark_brown"] == pytest.approx(0.5, abs=0.03)
    assert values["colour_black"] == pytest.approx(0.5, abs=0.03)
    # Half of the pixels lie half the distance from the mean, the other half as well.
    assert values["variegation"] == pytest.approx(math.dist(BROWN, BLACK) / 2, rel=0.05)


def test_asymmetric_over_both_axes():
    # An L with unequal arms has no axis of symmetry.
    mask = np.zeros((400, 400), np.uint8)
    cv2.fillPoly(mask, [np.array([(60, 60), (200, 60), (200, 250), (340, 250), (340, 330), (60, 330)])], 1)
    mask = mask.astype(bool)
    values = measure(paint((mask, BROWN)), mask).values
    assert values["asymmetry"] == 2
    assert values["tds_without_d"] == pytest.approx(
        1.3 * 2 + 0.1 * values["border"] + 0.5 * values["colours"]
    )


@pytest.mark.parametrize("count", range(1, 7))
def test_colours_are_counted(count):
    mask = disc(120)
    names = list(COLOURS)[:count]
    sector = ((np.arctan2(Y - 200, X - 200) + math.pi) / (2 * math.pi) * count).astype(int) % count
    image = paint(*[(mask & (sector == index), COLOURS[name]) for index, name in enumerate(names)])
    values = measure(image, mask).values
    assert values["colours"] == count
    for name in COLOURS:
        expected = 1 / count if name in names else 0
        assert values[f"colour_{name}"] == pytest.approx(expected, abs=0.05), name


def test_white_counts_only_where_lighter_than_skin():
    mask = disc(100)
    image = paint((mask, BROWN), (mask & (X < 200), COLOURS["white"]))
    assert measure(image, mask).values["colour_white"] == pytest.approx(0.5, abs=0.05)
    lightest = cv2.convertScaleAbs(image, alpha=1)
    lightest[~mask] = bgr((95.0, *SKIN_AB))
    assert measure(lightest, mask).values["colour_white"] == 0


def test_tint_of_the_photograph_changes_no_colour():
    mask = disc(100)
    lab = np.empty((400, 400, 3), np.float32)
    lab[:] = SKIN
    lab[mask], lab[mask & (X < 200)] = COLOURS["light_brown"], COLOURS["dark_brown"]
    tinted = lab + np.array([0, 12, -10], np.float32)
    both = [
        np.rint(cv2.cvtColor(values, cv2.COLOR_LAB2BGR) * 255).astype(np.uint8) for values in (lab, tinted)
    ]
    plain, other = (measure(image, mask).values for image in both)
    for name in COLOURS:
        assert plain[f"colour_{name}"] == pytest.approx(other[f"colour_{name}"], abs=0.03), name
    assert plain["colour_dark_brown"] == pytest.approx(0.5, abs=0.03)


def test_border_sharp_against_blurred():
    mask = disc(100)
    sharp = paint((mask, BROWN))
    blurred = cv2.GaussianBlur(sharp, (0, 0), 20)
    assert measure(sharp, mask).values["border"] == 8
    assert measure(blurred, mask).values["border"] == 0
    half = np.where((X < 200)[..., None], sharp, blurred)
    abcd = measure(half, mask)
    assert 3 <= abcd.values["border"] <= 5
    # Which ones: segments whose outline points lie left of the middle.
    left = np.array([abcd.outline[abcd.segments == k, 0].mean() < 200 for k in range(8)])
    assert abcd.abrupt[left].sum() > abcd.abrupt[~left].sum()


def test_border_gradient_of_a_known_ramp():
    # L* falls linearly over 40 px, a fifth of the diameter of 200 px: 36 units over 20 %, 1.8 a percent.
    distance = np.sqrt((X - 200.0) ** 2 + (Y - 200.0) ** 2)
    lab = np.empty((400, 400, 3), np.float32)
    lab[:] = SKIN
    lab[..., 0] = 70 - 36 * np.clip((120 - distance) / 40, 0, 1)
    image = np.rint(cv2.cvtColor(lab, cv2.COLOR_LAB2BGR) * 255).astype(np.uint8)
    assert measure(image, distance <= 100).values["border_gradient"] == pytest.approx(1.8, rel=0.1)


def blob() -> tuple[np.ndarray, np.ndarray]:
    """An irregular lesion of three colours, one edge soft; well inside the image."""
    angle = np.arctan2(Y - 200, X - 200)
    mask = np.hypot(X - 200, Y - 200) <= 85 + 14 * np.cos(2 * angle + 0.4) + 9 * np.sin(3 * angle)
    image = paint(
        (mask, COLOURS["light_brown"]), (mask & (X + 0.5 * Y > 330), BROWN), (disc(25, 180, 170), BLACK)
    )
    soft = cv2.GaussianBlur(image, (0, 0), 15)
    return np.where((Y > 230)[..., None], soft, image), mask


SHARES = [name for name, unit in FEATURES.items() if unit.endswith("0 to 1")]
SCORES = ("asymmetry", "border", "colours")


def assert_alike(one: dict, other: dict, gradient: float = 0.1) -> None:
    for name in SHARES:
        assert one[name] == pytest.approx(other[name], abs=0.03), name
    for name in SCORES:
        assert abs(one[name] - other[name]) <= 1, name
    for name in ("variegation", "contrast", "asymmetry_colour"):
        assert one[name] == pytest.approx(other[name], rel=0.1), name
    assert other["border_gradient"] == pytest.approx(one["border_gradient"], rel=gradient)


@pytest.mark.parametrize("turns", (1, 2, 3))
def test_quarter_turns_change_nothing(turns):
    image, mask = blob()
    assert_alike(
        measure(image, mask).values,
        measure(np.rot90(image, turns).copy(), np.rot90(mask, turns).copy()).values,
    )


def test_mirror_image_changes_nothing():
    image, mask = blob()
    assert_alike(measure(image, mask).values, measure(image[:, ::-1].copy(), mask[:, ::-1].copy()).values)


def test_any_rotation_changes_little():
    image, mask = blob()
    matrix = cv2.getRotationMatrix2D((199.5, 199.5), 33, 1)
    border = tuple(int(v) for v in bgr(SKIN))
    turned = cv2.warpAffine(image, matrix, (400, 400), flags=cv2.INTER_CUBIC, borderValue=border)
    turned_mask = cv2.warpAffine(mask.astype(np.uint8), matrix, (400, 400), flags=cv2.INTER_NEAREST) > 0
    assert_alike(measure(image, mask).values, measure(turned, turned_mask).values)


@pytest.mark.parametrize("factor", (0.35, 2.5))
def test_scale_changes_little(factor):
    image, mask = blob()
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(image, None, fx=factor, fy=factor, interpolation=method)
    scaled_mask = ndimage.zoom(mask.astype(np.uint8), factor, order=0, grid_mode=True, mode="nearest") > 0
    one, other = measure(image, mask).values, measure(scaled, scaled_mask).values
    assert_alike(one, other, gradient=0.25)  # a small picture has no edge sharper than its pixels
    for name in ("diameter_px", "perimeter_px"):
        assert other[name] == pytest.approx(factor * one[name], rel=0.02), name
    assert other["area_px"] == scaled_mask.sum()


def test_lesion_cut_by_the_image():
    mask = disc(120, x=0)
    values = measure(paint((mask, BROWN)), mask).values
    # The straight cut is 2 r of an outline of (pi + 2) r.
    assert values["outline_cut"] == pytest.approx(2 / (math.pi + 2), abs=0.03)
    assert values["border"] >= 4  # of the segments that can be seen


def test_lesion_that_fills_the_image_has_no_border():
    mask = np.ones((60, 80), bool)
    values = measure(paint((mask, BROWN), shape=(60, 80)), mask).values
    assert math.isnan(values["border"])
    assert math.isnan(values["contrast"])
    assert math.isnan(values["tds_without_d"])
    assert values["colours"] == 1


@pytest.mark.parametrize("shape", ((1, 1), (1, 40), (3, 2)))
def test_tiny_lesions_are_measured(shape):
    mask = np.zeros((50, 60), bool)
    mask[20 : 20 + shape[0], 5 : 5 + shape[1]] = True
    values = measure(paint((mask, BROWN), shape=(50, 60)), mask).values
    assert values["area_px"] == shape[0] * shape[1]
    assert 0 <= values["circularity"] <= 1
    assert 0 <= values["solidity"] <= 1


def test_the_largest_region_is_the_lesion():
    mask = disc(80)
    speckled = mask | disc(4, 20, 20)
    image = paint((mask, BROWN))
    assert measure(image, speckled).values == measure(image, mask).values


def test_wrong_input_is_named():
    image, mask = paint(), disc(50)
    with pytest.raises(LesionsegError, match="empty"):
        measure(image, np.zeros((400, 400), bool))
    with pytest.raises(LesionsegError, match=r"mask bool \(10, 10\)"):
        measure(image, mask[:10, :10])
    with pytest.raises(LesionsegError, match="float64"):
        measure(image.astype(float), mask)


def test_drawing_marks_what_scores():
    mask = disc(100) & (Y >= 160)
    image = paint((mask, BROWN))
    before = image.copy()
    abcd = measure(image, mask)
    drawn = draw_abcd(image, abcd)
    assert drawn.shape == image.shape
    assert (image == before).all()

    def share(colour, near):
        """Of the outline points, how many have a pixel of about this colour within 2 px."""
        close = (np.abs(drawn.astype(int) - colour).max(axis=2) < 30).astype(np.uint8)
        close = cv2.dilate(close, np.ones((5, 5), np.uint8))
        points = np.clip(np.round(near).astype(int), 0, 399)
        return close[points[:, 1], points[:, 0]].mean()

    assert abcd.abrupt.all()
    assert share((0, 140, 255), abcd.outline) > 0.95  # all segments orange
    blurred = cv2.GaussianBlur(image, (0, 0), 25)
    abcd = measure(blurred, mask)
    assert not abcd.abrupt.any()
    drawn = draw_abcd(blurred, abcd)
    assert share((255, 190, 60), abcd.outline) > 0.95  # all segments blue


def test_tds_is_higher_for_melanoma_than_for_nevus(shared_data):
    """Direction of the rule on real lesions; Stolz et al. and Nachbar et al. found melanomas to score higher."""
    folder = shared_data / "ham10000_256"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    with (folder / "HAM10000_metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    scores = {"mel": [], "nv": []}
    lesions = set()
    for row in rows:
        image = folder / "images" / f"{row['image_id']}.jpg"
        known = scores.get(row["dx"])
        if known is None or len(known) == 25 or row["lesion_id"] in lesions or not image.is_file():
            continue
        lesions.add(row["lesion_id"])
        mask = read_mask(folder / "masks" / f"{row['image_id']}_segmentation.png")
        known.append(measure(read_image(image), mask).values["tds_without_d"])
    assert np.nanmedian(scores["mel"]) > np.nanmedian(scores["nv"]) + 0.5
