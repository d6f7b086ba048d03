"""Asymmetry, border and colour of the ABCD rule of dermoscopy, measured on a `features_copy.Work`.

Sources and definitions are in `features`; thresholds that the rule leaves to the eye are our own choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from lesionseg.features_copy import WORKING_DIAMETER, Work, normals

ASYMMETRIC_SHAPE = 0.12  # share of the area without counterpart, above which an axis is asymmetric
ASYMMETRIC_COLOUR = 9.0  # mean CIELAB distance to the counterpart, above which an axis is asymmetric
_TURNS = 18  # pairs of axes that are tried, 5 degrees apart
_COLOUR_GRID = 4  # px of the working copy to one of the grid on which colours are compared

SEGMENTS = 8
ABRUPT = 3.0  # CIELAB units per 1 % of the diameter, from which on pigment is cut off abruptly
_STEP = 4  # px of the working copy over which the drop is measured: 2.5 % of the diameter
_REACH = 10  # px of the working copy searched for the drop on each side of the outline

# The six colours of the rule in CIELAB, as they look beside skin of SKIN_AB. Our own calibration, on HAM10000: what the rule
# calls by these names lies near the centres of clusters that the pixels of its lesions form.
COLOURS = {
    "white": (88.0, 2.0, 4.0),
    "red": (48.0, 44.0, 22.0),
    "light_brown": (57.0, 20.0, 29.0),
    "dark_brown": (34.0, 18.0, 22.0),
    "blue_grey": (46.0, 0.0, -3.0),
    "black": (13.0, 4.0, 4.0),
}
# a*, b* of light skin. A lesion's colours are shifted by what the skin around it differs from this, since the tint of
# dermatoscopes and cameras varies by more than the colours do (mean a* of skin in HAM10000: 13 to 31).
SKIN_AB = (13.0, 15.0)
COLOUR_SHARE = 0.05  # of the lesion's area, from which on a colour counts


@dataclass(frozen=True)
class Axes:
    angle: float
    shape: float
    colour: float
    asymmetric: tuple[bool, bool]


def best_axes(work: Work, principal: float) -> Axes:
    """The perpendicular pair over which the lesion is least asymmetric: fewest asymmetric axes, then smallest differences."""
    centre, mask = work.centre, work.mask.astype(np.float32)
    height, width = mask.shape
    # Outside its bounding box the lesion overlaps with nothing.
    x, y, box_width, box_height = cv2.boundingRect(work.mask.astype(np.uint8))
    lesion = work.mask[y : y + box_height, x : x + box_width].astype(np.uint8) * 255
    grid = max(1, round(width / _COLOUR_GRID)), max(1, round(height / _COLOUR_GRID))
    # Colours of lesion pixels only, times their share: skin does not bleed in, and one warp moves both.
    premultiplied = np.dstack([work.lab * mask[..., None], mask])
    weighted = np.asarray(cv2.resize(premultiplied, grid, interpolation=cv2.INTER_AREA))
    factor = np.array(grid) / (width, height)
    grid_centre = (centre + 0.5) * factor - 0.5
    pairs = []
    for turn in range(_TURNS):
        angle = principal + turn * math.pi / 2 / _TURNS
        both = [
            (_outside_mirror(lesion, centre - (x, y), a), _colour_difference(weighted, grid_centre, a))
            for a in (angle, angle + math.pi / 2)
        ]
        asymmetric = tuple(shape > ASYMMETRIC_SHAPE or colour > ASYMMETRIC_COLOUR for shape, colour in both)
        size = sum(max(shape / ASYMMETRIC_SHAPE, colour / ASYMMETRIC_COLOUR) for shape, colour in both)
        pairs.append((sum(asymmetric), size, angle, both, asymmetric))
    _, _, angle, both, asymmetric = min(pairs, key=lambda pair: pair[:2])
    shape, colour = np.mean(both, axis=0)
    return Axes(angle, float(shape), float(colour), (bool(asymmetric[0]), bool(asymmetric[1])))


def _mirror(values: np.ndarray, centre: np.ndarray, angle: float) -> np.ndarray:
    """Mirror an array (h, w, ...) at the line through `centre` at `angle`; zero where nothing comes from inside."""
    cos, sin = math.cos(2 * angle), math.sin(2 * angle)
    turn = np.array([[cos, sin], [sin, -cos]])
    matrix = np.column_stack([turn, centre - turn @ centre])
    return cv2.warpAffine(values, matrix, values.shape[1::-1], flags=cv2.INTER_LINEAR)


def _outside_mirror(mask: np.ndarray, centre: np.ndarray, angle: float) -> float:
    """Share of a mask (0 or 255) that lies outside its mirror image."""
    mirrored = cv2.threshold(_mirror(mask, centre, angle), 127, 255, cv2.THRESH_BINARY)[1]
    overlap = cv2.countNonZero(cv2.bitwise_and(mask, mirrored))
    return 1 - overlap / cv2.countNonZero(mask)


def _colour_difference(weighted: np.ndarray, centre: np.ndarray, angle: float) -> float:
    mirrored = _mirror(weighted, centre, angle)
    both = (weighted[..., 3] > 0.5) & (mirrored[..., 3] > 0.5)
    if not both.any():
        return 0.0
    here, there = weighted[both], mirrored[both]
    difference = here[:, :3] / here[:, 3:] - there[:, :3] / there[:, 3:]
    return float(np.sqrt(np.einsum("ij,ij->i", difference, difference)).mean())


def edge_drops(
    work: Work, outline: np.ndarray, lesion_colour: np.ndarray, skin: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How steeply colour falls from the lesion's to the skin's across each point of the outline.

    Profiles along the outline's normals, of the colour's component on the line from skin to lesion; the largest fall over
    _STEP px within _REACH px of the outline, since an annotated outline is rarely exact.

    Returns:
        drop: float (n,), CIELAB units per 1 % of the diameter; NaN where it cannot be measured.
        cut: bool (n,), points on the image's edge.
    """
    in_image = work.to_image(outline)
    height, width = work.image_size
    cut = np.any((in_image < 0.5) | (in_image > (width - 1.5, height - 1.5)), axis=1)
    difference = lesion_colour - skin
    contrast = np.linalg.norm(difference)
    if not np.isfinite(contrast):
        return np.full(len(outline), np.nan), cut
    pigment = ((work.lab - skin) @ (difference / max(contrast, 1e-6))).astype(np.float32)
    steps = np.arange(-_REACH, _REACH + 1)
    at = (outline[:, None] + steps[:, None] * normals(outline)[:, None]).astype(np.float32)
    x, y = np.ascontiguousarray(at[..., 0]), np.ascontiguousarray(at[..., 1])
    profile = cv2.remap(pigment, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    drop = (profile[:, :-_STEP] - profile[:, _STEP:]).max(axis=1) / (100 * _STEP / WORKING_DIAMETER)
    return np.where(cut, np.nan, np.maximum(drop, 0)), cut


def segments_of(outline: np.ndarray, centre: np.ndarray, angle: float) -> np.ndarray:
    """Eight sectors of 45 degrees around the centroid; the first begins at the first axis. int (n,)."""
    x, y = (outline - centre).T
    return ((np.arctan2(y, x) - angle) % (2 * math.pi) // (2 * math.pi / SEGMENTS)).astype(int) % SEGMENTS


def abrupt_segments(drop: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """bool (8,): segments whose median drop is ABRUPT or more; False where there is nothing to measure."""
    known = np.isfinite(drop)
    members = [drop[known & (segments == index)] for index in range(SEGMENTS)]
    return np.array([len(values) > 0 and bool(np.median(values) >= ABRUPT) for values in members])


def colour_shares(work: Work, skin: np.ndarray) -> dict[str, float]:
    """Share of the lesion's pixels that is nearest to each of the six colours (and not to the skin's)."""
    pixels = work.lab[work.mask]
    references = np.array(list(COLOURS.values()), dtype=np.float32)
    known = np.isfinite(skin).all()
    if known:
        tint = np.array([0, *(skin[1:] - SKIN_AB)], dtype=np.float32)
        pixels, skin = pixels - tint, skin - tint
    # |p - r|^2 without |p|^2, which is the same for all references.
    distance = (references**2).sum(axis=1) - 2 * pixels @ references.T
    if known:
        white = list(COLOURS).index("white")
        distance[pixels[:, 0] <= skin[0], white] = np.inf
        distance = np.column_stack([distance, (skin**2).sum() - 2 * pixels @ skin])
    counts = np.bincount(distance.argmin(axis=1), minlength=len(COLOURS) + 1)
    return {name: float(counts[index] / len(pixels)) for index, name in enumerate(COLOURS)}
