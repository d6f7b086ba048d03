"""ABCD measurements of one lesion: asymmetry, border, colour and diameter, from an image and a mask.

They put numbers on the ABCD rule of dermoscopy (Stolz et al., "ABCD rule of dermatoscopy: a new practical method for
early recognition of malignant melanoma", Eur J Dermatol 4:521-527, 1994; Nachbar et al., "The ABCD rule of dermatoscopy:
high prospective value in the diagnosis of doubtful melanocytic skin lesions", J Am Acad Dermatol 30:551-559, 1994). The
rule's fifth criterion, D for differential structures, needs a trained eye and is not measured; "diameter" stands in the
list of measurements but in no score. Thresholds that the rule leaves to the eye are our own choice and named below.

Everything but area is measured on a copy of the lesion scaled to WORKING_DIAMETER, so values do not depend on the image's
resolution and a crop of any size takes a few milliseconds. Colours are CIELAB (D65) of sRGB as stored: photographs are
not calibrated, so values of different devices compare only roughly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lesionseg.errors import LesionsegError
from lesionseg.features_abc import (
    COLOUR_SHARE,
    COLOURS,
    abrupt_segments,
    best_axes,
    colour_shares,
    edge_drops,
    segments_of,
)
from lesionseg.features_copy import shape_measures, skin_colour, smooth_outline, working_copy
from lesionseg.masks import one_region


@dataclass(frozen=True)
class Abcd:
    """Measurements of one lesion, see `measure`. NaN where something cannot be measured.

    Attributes:
        values: the numbers, by the names in `FEATURES`.
        centre: (x, y) of the lesion's centroid in px of the image.
        angle: of the first axis in radians, from the x axis towards the y axis (down); the second is perpendicular.
        axes_asymmetric: whether each of the two axes counts as asymmetric.
        outline: float32 (256, 2), points x, y along the lesion's edge in px of the image.
        segments: int (256,), which of the eight segments each point belongs to.
        abrupt: bool (8,), segments in which pigment is cut off abruptly.
    """

    values: dict[str, float]
    centre: tuple[float, float]
    angle: float
    axes_asymmetric: tuple[bool, bool]
    outline: np.ndarray
    segments: np.ndarray
    abrupt: np.ndarray


# Name: unit and range. The order is that of the columns.
FEATURES = {
    "asymmetry": "axes, 0 to 2",
    "asymmetry_shape": "share of the area, 0 to 1",
    "asymmetry_colour": "CIELAB distance, 0 up",
    "border": "segments, 0 to 8",
    "border_gradient": "CIELAB distance per 1 % of the diameter, 0 up",
    "colours": "colours, 1 to 6",
    **{f"colour_{name}": "share of the area, 0 to 1" for name in COLOURS},
    "tds_without_d": "points, 0.5 to 6.4",
    "diameter_px": "px",
    "diameter_mm": "mm",
    "area_px": "px",
    "perimeter_px": "px",
    "circularity": "0 to 1",
    "solidity": "0 to 1",
    "eccentricity": "0 to 1",
    "variegation": "CIELAB distance, 0 up",
    "contrast": "CIELAB distance, 0 up",
    "outline_cut": "share of the outline, 0 to 1",
}


def measure(image: np.ndarray, mask: np.ndarray, mm_per_px: float | None = None) -> Abcd:
    """Measure one lesion.

    Args:
        image: uint8 (H, W, 3) BGR.
        mask: bool (H, W); its largest region, holes filled, is the lesion.
        mm_per_px: scale of the image, for diameter_mm.

    Returns:
        Abcd, whose `values` are:
        - asymmetry: A of the rule, the number of axes (0 to 2) of a perpendicular pair over which the lesion differs from
          its mirror image in shape or colour. Nachbar et al. place the pair where the lesion is least asymmetric: here the
          best of the principal axes and 17 turned pairs, 5 degrees apart. (The eye also judges structures; this does not.)
        - asymmetry_shape: share of the lesion outside its mirror image, mean of the two axes;
        - asymmetry_colour: mean CIELAB distance (dE*ab, CIE 1976) of points to their mirror points, mean of the two axes;
        - border: B of the rule, the number of the eight segments in which pigment is cut off abruptly;
        - border_gradient: steepest fall of colour towards the skin's across the edge, median of the outline;
        - colours: C of the rule, the number of the six colours with 5 % of the lesion or more, at least 1. White counts only
          where it is lighter than the surrounding skin (Nachbar et al.);
        - colour_*: share of each colour; what is nearer to the surrounding skin's colour than to any of the six is in none;
        - tds_without_d: 1.3 A + 0.1 B + 0.5 C, the total dermoscopy score WITHOUT its term for differential structures
          (0.5 to 2.5 points). The rule's limits of 4.75 and 5.45 are for the full score and do not apply to it;
        - diameter_px: largest distance between two points of the outline (Feret); diameter_mm: the same times `mm_per_px`;
        - area_px: number of pixels; perimeter_px: length of the outline smoothed by about 1 % of the diameter;
        - circularity: 4 pi area / perimeter^2, 1 for a disc; solidity: area / area of the convex hull;
        - eccentricity: of the ellipse with the same second moments, sqrt(1 - (minor/major)^2);
        - variegation: root mean square CIELAB distance of the lesion's pixels to their mean;
        - contrast: CIELAB distance of the lesion's mean colour to the median of the skin around it;
        - outline_cut: share of the outline that lies on the image's edge: there the lesion goes on outside the image.

        Turning or mirroring the image changes shares and ratios by less than 0.03, CIELAB distances by less than 10 % and, where a
        value is near its threshold, scores by 1. So does scaling, as long as the lesion is 60 px across or more;
        only border_gradient falls, by up to a quarter, since a small picture has no edge sharper than its pixels.

    Raises:
        LesionsegError: image and mask do not fit each other, or the mask is empty.
    """
    found = f"image {image.dtype} {image.shape}, mask {mask.dtype} {mask.shape}"
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or mask.shape != image.shape[:2]:
        raise LesionsegError(
            f"ABCD features need a uint8 (H, W, 3) image and a bool (H, W) mask, found {found}"
        )
    if not mask.any():
        raise LesionsegError(f"ABCD features need a lesion, but the mask is empty ({found})")
    work = working_copy(image, one_region(mask))
    skin, lesion_colour = skin_colour(work), work.lab[work.mask].mean(axis=0)
    outline = smooth_outline(work.mask)
    geometry = shape_measures(work, outline)
    axes = best_axes(work, geometry.pop("angle"))
    contrast = float(np.linalg.norm(lesion_colour - skin))
    drop, cut = edge_drops(work, outline, lesion_colour, skin)
    segments = segments_of(outline, work.centre, axes.angle)
    abrupt = abrupt_segments(drop, segments)
    measurable = np.isfinite(drop).any()
    shares = colour_shares(work, skin)
    scores = {
        "asymmetry": float(sum(axes.asymmetric)),
        "border": float(abrupt.sum()) if measurable else math.nan,
        "colours": float(max(1, sum(share >= COLOUR_SHARE for share in shares.values()))),
    }
    values = {
        **scores,
        **geometry,
        "asymmetry_shape": axes.shape,
        "asymmetry_colour": axes.colour,
        "border_gradient": float(np.nanmedian(drop)) if measurable else math.nan,
        **{f"colour_{name}": share for name, share in shares.items()},
        "tds_without_d": 1.3 * scores["asymmetry"] + 0.1 * scores["border"] + 0.5 * scores["colours"],
        "diameter_mm": geometry["diameter_px"] * mm_per_px if mm_per_px else math.nan,
        "variegation": float(np.sqrt(work.lab[work.mask].var(axis=0).sum())),
        "contrast": contrast,
        "outline_cut": float(cut.mean()),
    }
    centre = work.to_image(work.centre)
    return Abcd(
        values={name: values[name] for name in FEATURES},
        centre=(float(centre[0]), float(centre[1])),
        angle=axes.angle,
        axes_asymmetric=axes.asymmetric,
        outline=work.to_image(outline).astype(np.float32),
        segments=segments,
        abrupt=abrupt,
    )
