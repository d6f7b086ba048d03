"""Image conditions measured from pixels: hair, dark corners, contrast, skin tone. They tell where a model fails.

Estimates for grouping images, not measurements of the patient: photographs are not colour-calibrated, and dermatoscopes
light, filter and press the skin. Everything is measured on a copy of `LONG_SIDE` px, so that a photograph and its reduced copy
give about the same values.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

LONG_SIDE = 512  # px
_DARK = 45  # of 255; what the eye takes for the black outside of a dermatoscope's field
_HAIR_WIDTH = 15  # px; more than a hair is wide
_HAIR_DEPTH = 14  # grey values that a hair is darker than its two sides
_HAIR_RUN = 31  # px that a hair runs straight at the least
_FRAME = 4  # px; a dark edge of the photograph is no hair
_RING = 0.06  # width of the ring of skin around a lesion, as a share of the diagonal
_LEAST_SKIN = 0.005  # of the image; with less, skin is not measured

# Del Bino and Bernerd, "Variations in skin colour and the biological consequences of ultraviolet radiation exposure",
# Br J Dermatol 169 (2013): lower limits in degrees.
ITA_CLASSES = (
    ("very light", 55.0),
    ("light", 41.0),
    ("intermediate", 28.0),
    ("tan", 10.0),
    ("brown", -30.0),
    ("dark", -math.inf),
)


def dark_corners(grey: np.ndarray) -> np.ndarray:
    """Pixels of the dark surroundings of a dermatoscope's field: dark regions that contain a corner of the image.

    Args:
        grey: uint8 (H, W).

    Returns:
        bool (H, W).
    """
    dark = cv2.morphologyEx((grey < _DARK).astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    labels = cv2.connectedComponents(dark)[1]
    corners = {int(labels[row, column]) for row in (0, -1) for column in (0, -1)} - {0}
    return np.isin(labels, list(corners))


def hair(grey: np.ndarray) -> np.ndarray:
    """Pixels of dark hairs, after DullRazor (Lee et al., Comput Biol Med 27, 1997).

    Closing along a line fills dark structures that are narrower than it: what one of four directions fills is a thin
    dark structure. Of these, hairs run straight for a while, which pigment network does not. The line of a
    ruler counts as a hair (about 1 % of an image).

    Args:
        grey: uint8 (H, W), about LONG_SIDE px.

    Returns:
        bool (H, W).
    """
    smooth = cv2.GaussianBlur(grey, (3, 3), 0)
    filled = np.zeros_like(grey)
    for angle in range(0, 180, 45):
        filled = np.maximum(filled, cv2.morphologyEx(smooth, cv2.MORPH_BLACKHAT, _line(_HAIR_WIDTH, angle)))
    thin = (filled > _HAIR_DEPTH).astype(np.uint8)
    thin[:_FRAME], thin[-_FRAME:], thin[:, :_FRAME], thin[:, -_FRAME:] = 0, 0, 0, 0
    straight = np.zeros_like(thin)
    for angle in range(0, 180, 15):
        straight = np.maximum(straight, cv2.morphologyEx(thin, cv2.MORPH_OPEN, _line(_HAIR_RUN, angle)))
    return straight.astype(bool)


def _line(length: int, angle: int) -> np.ndarray:
    """Structuring element: a line of odd length through the middle, at an angle in degrees."""
    line = np.zeros((length, length), np.uint8)
    middle = length // 2
    dx, dy = round(middle * math.cos(math.radians(angle))), round(middle * math.sin(math.radians(angle)))
    cv2.line(line, (middle - dx, middle - dy), (middle + dx, middle + dy), color=1)
    return line


def individual_typology_angle(lightness: float, b: float) -> float:
    """ITA in degrees, arctan((L* - 50) / b*) (Chardon et al., Int J Cosmet Sci 13, 1991): above 55 very light skin, below -30 dark.

    Args:
        lightness, b: CIELAB L* in [0, 100] and b*. Skin has b* > 0; the angle is continued above 90 where b* is not.
    """
    return math.degrees(math.atan2(lightness - 50.0, b))


def ita_class(degrees: float) -> str:
    """Name of the skin colour class of Del Bino and Bernerd (2013); "" for NaN."""
    return next((name for name, limit in ITA_CLASSES if degrees > limit), "")


def image_conditions(image: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Conditions of one photograph.

    Args:
        image: uint8 (H, W, 3) BGR.
        reference: bool (H, W), the reference lesion mask.

    Returns:
        - hair_pct: share of the dermatoscope's field that is covered by dark hair, in %;
        - dark_corner_pct: share of the image outside that field, in %;
        - contrast: CIELAB distance dE*ab (CIE 1976) between the mean colours of the lesion and of the skin in a ring around
          it; 2 is just visible. NaN without lesion or ring;
        - ita_degrees: individual typology angle of the median skin colour outside lesion, hair and dark corners, as Kinyanjui et
          al. (MICCAI 2020) measure it on ISIC images. NaN where less than 0.5 % of the image is such skin.
    """
    scale = LONG_SIDE / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    lesion = cv2.resize(reference.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    outside = dark_corners(np.where(lesion, np.uint8(255), grey))  # a black lesion may reach a corner
    hairs = hair(grey) & ~outside
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_BGR2LAB)
    usable = ~(cv2.dilate((outside | hairs).astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool))

    to_lesion = cv2.distanceTransform((~lesion).astype(np.uint8), cv2.DIST_L2, 5) if lesion.any() else None
    near = 3.0  # px; the outline itself is neither lesion nor skin
    skin = usable if to_lesion is None else usable & (to_lesion > near)
    enough = skin.mean() >= _LEAST_SKIN
    tone = np.median(lab[skin], axis=0) if enough else np.full(3, np.nan)
    contrast = math.nan
    if to_lesion is not None:
        ring = skin & (to_lesion <= near + _RING * math.hypot(*size))
        inside = lesion & usable
        if ring.any() and inside.any():
            contrast = float(np.linalg.norm(lab[inside].mean(axis=0) - lab[ring].mean(axis=0)))
    field = np.count_nonzero(~outside)
    return {
        "hair_pct": float(100 * np.count_nonzero(hairs) / field) if field else math.nan,
        "dark_corner_pct": 100 * float(outside.mean()),
        "contrast": contrast,
        "ita_degrees": individual_typology_angle(tone[0], tone[2]) if enough else math.nan,
    }
