"""A lesion scaled to a fixed size, its outline and its shape: what the ABCD features are measured on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

WORKING_DIAMETER = 160  # px; the diameter of a disc of the lesion's area in the working copy
_LONGEST_SIDE = 640  # px; bounds the working copy of very long lesions
_MARGIN = 0.25  # of the diameter; what is kept around the lesion
_SMOOTHING = 1.0  # px of the working copy; standard deviation, against noise
_RING = (0.04, 0.16)  # of the diameter; skin is measured between these distances from the lesion
_LEAST_SKIN = 100  # px of the working copy
_DARK_FRAME = 15.0  # L*; darker pixels of the ring are the dermatoscope's frame, not skin
_OUTLINE_POINTS = 256


@dataclass(frozen=True)
class Work:
    """The lesion scaled to WORKING_DIAMETER: lab float32 (h, w, 3), mask bool (h, w), and the way back to the image."""

    lab: np.ndarray
    mask: np.ndarray
    area_px: int  # in the image
    scale: float  # px here to one of the image
    corner: tuple[int, int]  # x, y of the window in the image
    image_size: tuple[int, int]  # height, width

    @property
    def centre(self) -> np.ndarray:
        rows, columns = np.nonzero(self.mask)
        return np.array([columns.mean(), rows.mean()])

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """x, y here to x, y in the image; pixel centres lie at whole numbers in both."""
        return (np.asarray(points) + 0.5) / self.scale - 0.5 + np.array(self.corner)


def working_copy(image: np.ndarray, mask: np.ndarray) -> Work:
    area = int(np.count_nonzero(mask))
    diameter = math.sqrt(4 * area / math.pi)
    x, y, box_width, box_height = cv2.boundingRect(mask.astype(np.uint8))
    margin = math.ceil(_MARGIN * diameter) + 1
    height, width = mask.shape
    x0, y0 = max(0, x - margin), max(0, y - margin)
    x1, y1 = min(width, x + box_width + margin), min(height, y + box_height + margin)
    scale = min(WORKING_DIAMETER / diameter, _LONGEST_SIDE / max(box_width, box_height))
    size = max(3, round((x1 - x0) * scale)), max(3, round((y1 - y0) * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(image[y0:y1, x0:x1], size, interpolation=method)
    share = cv2.resize(mask[y0:y1, x0:x1].astype(np.float32), size, interpolation=method)
    small_mask = share >= min(0.5, float(share.max()))
    smooth = cv2.GaussianBlur(small.astype(np.float32) / 255, (0, 0), _SMOOTHING)
    lab = cv2.cvtColor(smooth, cv2.COLOR_BGR2LAB)
    return Work(lab, small_mask, area, scale, (x0, y0), (height, width))


def skin_colour(work: Work) -> np.ndarray:
    """Median CIELAB colour around the lesion, float (3,); NaN where the image shows too little of it."""
    distance = cv2.distanceTransform((~work.mask).astype(np.uint8), cv2.DIST_L2, 5)
    near, far = (share * WORKING_DIAMETER for share in _RING)
    ring = (distance > near) & (distance <= far) & (work.lab[..., 0] > _DARK_FRAME)
    if np.count_nonzero(ring) < _LEAST_SKIN:
        return np.full(3, np.nan)
    return np.median(work.lab[ring], axis=0).astype(float)


def smooth_outline(mask: np.ndarray) -> np.ndarray:
    """Points x, y at equal distances along the lesion's edge, clockwise on screen, smoothed; float (256, 2).

    OpenCV's contour runs through the centres of the outermost pixels: it is moved out by half a pixel.
    """
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    points = max(contours, key=len)[:, 0].astype(float)
    points = points[::-1] if cv2.contourArea(points.astype(np.float32), oriented=True) < 0 else points
    closed = np.vstack([points, points[:1]])
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    at = np.linspace(0, along[-1], _OUTLINE_POINTS, endpoint=False)
    even = np.column_stack([np.interp(at, along, closed[:, axis]) for axis in range(2)])
    offsets = np.arange(-6, 7)
    weights = np.exp(-0.5 * (offsets / 2.0) ** 2)
    smooth = sum(
        w * np.roll(even, -int(o), axis=0) for w, o in zip(weights / weights.sum(), offsets, strict=True)
    )
    return smooth + 0.5 * normals(smooth)


def normals(outline: np.ndarray) -> np.ndarray:
    """Unit vectors out of the lesion, (n, 2), for an outline that runs clockwise on screen."""
    tangent = np.roll(outline, -1, axis=0) - np.roll(outline, 1, axis=0)
    length = np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    return np.column_stack([tangent[:, 1], -tangent[:, 0]]) / length


def shape_measures(work: Work, outline: np.ndarray) -> dict[str, float]:
    rows, columns = np.nonzero(work.mask)
    # The pixels' own extent (1/12 each way) keeps a line of pixels from having no width.
    covariance = np.cov(np.stack([columns, rows]), bias=True) + np.eye(2) / 12
    minor, major = np.linalg.eigvalsh(covariance)
    axis = np.linalg.eigh(covariance)[1][:, 1]
    hull = cv2.convexHull(outline.astype(np.float32))[:, 0]
    diameter = float(np.linalg.norm(hull[:, None] - hull[None], axis=2).max()) / work.scale
    perimeter = float(np.linalg.norm(np.roll(outline, -1, axis=0) - outline, axis=1).sum()) / work.scale
    pixels = cv2.convexHull(np.column_stack([columns, rows]).astype(np.int32))
    hull_mask = np.zeros(work.mask.shape, np.uint8)
    cv2.fillConvexPoly(hull_mask, pixels, 1)
    hull_area = int(np.count_nonzero(hull_mask))
    return {
        "angle": math.atan2(axis[1], axis[0]),
        "area_px": float(work.area_px),
        "diameter_px": diameter,
        "perimeter_px": perimeter,
        "circularity": min(1.0, 4 * math.pi * work.area_px / perimeter**2),
        "solidity": len(rows) / max(hull_area, len(rows)),
        "eccentricity": math.sqrt(max(0.0, 1 - minor / major)),
    }
