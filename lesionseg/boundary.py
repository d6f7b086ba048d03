"""Boundary metrics of one image: how far two outlines are apart, and how well the rims of two masks agree.

Outlines are the line elements of Nikolov et al., "Deep learning to achieve clinically applicable segmentation of head and
neck anatomy for radiotherapy" (arXiv:1809.04430, 2018): one element at every pixel corner whose four pixels are not all
alike, as long as the piece of outline that marching squares draws there. So an outline has its true length whatever its
direction, and does not depend on which side is called lesion. What lies outside the image counts as skin: where a
lesion is cut by the frame, the frame is part of its outline. Choice of metrics: Maier-Hein et al., "Metrics reloaded",
Nature Methods 21 (2024), who ask for a boundary metric beside every overlap metric.

Where exactly one of the masks is empty there is no distance; the image then gets the worst one possible, its diagonal
(their recommendation for missing predictions), and 0 for the boundary scores. Two empty masks agree: distance 0, scores 1.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from scipy.spatial import cKDTree

HAUSDORFF_PERCENTILE = 95.0
TOLERANCE_PX, TOLERANCE_PCT = 3.0, 1.0  # of the normalised surface Dice; a share of the image diagonal
RIM_PX, RIM_PCT = 5.0, 2.0  # width of the boundary IoU's rim; 2 % of the diagonal is its authors' choice

# Length in px of the outline within a 2x2 neighbourhood, by the number of lesion pixels in it. Two that only
# touch at the corner are the one exception: two corners are cut off there.
_LENGTH_BY_COUNT = np.array([0.0, math.sqrt(0.5), 1.0, math.sqrt(0.5), 0.0])
_LENGTH_DIAGONAL = math.sqrt(2.0)


def image_diagonal(shape: tuple[int, int]) -> float:
    """Diagonal in px of an image of shape (H, W)."""
    return math.hypot(*shape)


def outline(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The line elements of a mask's outline.

    Args:
        mask: bool (H, W).

    Returns:
        (points, lengths): float (N, 2), pixel corners as (row, column), corner (0, 0) being the image's; float (N,) in
        px. N is 0 for an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.zeros((0, 2)), np.zeros(0)
    part = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1).astype(np.int8)
    count = part[:-1, :-1] + part[:-1, 1:] + part[1:, :-1] + part[1:, 1:]
    diagonal = (count == 2) & (part[:-1, :-1] == part[1:, 1:])
    length = np.where(diagonal, _LENGTH_DIAGONAL, _LENGTH_BY_COUNT[count])
    points = np.argwhere(length > 0)
    return points + (float(rows[0]), float(columns[0])), length[length > 0]


def _percentile(distances: np.ndarray, lengths: np.ndarray, percentile: float) -> float:
    """The smallest distance that at least `percentile` per cent of the outline's length does not exceed."""
    order = np.argsort(distances)
    share = np.cumsum(lengths[order]) / lengths.sum()
    index = np.searchsorted(share, percentile / 100.0)
    return float(distances[order][min(int(index), len(order) - 1)])


def surface_scores(reference: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Distances between the two outlines, weighted by length (Nikolov et al. 2018).

    With d(a) the distance of an element of one outline to the nearest of the other, in px:
    - hd95: the larger of the two directed 95th percentiles of d;
    - assd, average symmetric surface distance: mean of d over both outlines together, (sum d) / (L_ref + L_pred);
    - surface_dice, normalised surface Dice: share of both outlines together with d <= tolerance.

    Args:
        reference, predicted: bool (H, W).

    Returns:
        hd95_px, assd_px in px; hd95_pct, assd_pct in % of the image diagonal; surface_dice_3px and surface_dice_1pct
        (tolerances of 3 px and of 1 % of the diagonal) in [0, 1]. See the module for empty masks.
    """
    diagonal = image_diagonal(reference.shape)
    (points_ref, length_ref), (points_pred, length_pred) = outline(reference), outline(predicted)
    if not len(points_ref) or not len(points_pred):
        agree = len(points_ref) == len(points_pred)
        hd95 = assd = 0.0 if agree else diagonal
        within = {tolerance: float(agree) for tolerance in ("3px", "1pct")}
    else:
        from_ref = cKDTree(points_pred).query(points_ref)[0]
        from_pred = cKDTree(points_ref).query(points_pred)[0]
        distances, lengths = np.concatenate([from_ref, from_pred]), np.concatenate([length_ref, length_pred])
        hd95 = max(
            _percentile(from_ref, length_ref, HAUSDORFF_PERCENTILE),
            _percentile(from_pred, length_pred, HAUSDORFF_PERCENTILE),
        )
        assd = float((distances * lengths).sum() / lengths.sum())
        within = {
            name: float(lengths[distances <= tolerance].sum() / lengths.sum())
            for name, tolerance in (("3px", TOLERANCE_PX), ("1pct", diagonal * TOLERANCE_PCT / 100))
        }
    return {
        "hd95_px": hd95,
        "hd95_pct": 100 * hd95 / diagonal,
        "assd_px": assd,
        "assd_pct": 100 * assd / diagonal,
        "surface_dice_3px": within["3px"],
        "surface_dice_1pct": within["1pct"],
    }


def rim(mask: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a mask that are less than `width` + 1 px (chessboard distance) from a pixel outside it.

    Args:
        mask: bool (H, W); outside the image there is no lesion.
        width: in px, at least 1.

    Returns:
        bool (H, W): mask without its erosion by `width` steps of a 3x3 square.
    """
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return mask & (eroded == 0)


def boundary_iou(reference: np.ndarray, predicted: np.ndarray, width: int) -> float:
    """Boundary IoU of Cheng et al., "Boundary IoU: improving object-centric image segmentation evaluation", CVPR 2021.

    The Jaccard index of the two masks' rims, G_d and P_d the pixels of each mask within d px of its outline:
    |G_d & P_d| / |G_d | P_d|, in [0, 1]; the distance is counted in 3x3 erosions, as in the authors' code.

    Args:
        reference, predicted: bool (H, W).
        width: d in px, at least 1.
    """
    rows, columns = np.nonzero(reference | predicted)
    if not len(rows):
        return 1.0
    window = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    rim_ref, rim_pred = rim(reference[window], width), rim(predicted[window], width)
    return np.count_nonzero(rim_ref & rim_pred) / np.count_nonzero(rim_ref | rim_pred)


def rim_width(shape: tuple[int, int], percent: float = RIM_PCT) -> int:
    """A share of the image diagonal as whole px, at least 1, as in the authors' code."""
    return max(1, round(image_diagonal(shape) * percent / 100))


def boundary_scores(reference: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """`surface_scores`, and `boundary_iou` for rims of 5 px and of 2 % of the diagonal.

    Args:
        reference, predicted: bool (H, W), the same shape.

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != predicted.shape:
        raise ValueError(f"reference mask is {reference.shape}, predicted mask is {predicted.shape}")
    return {
        **surface_scores(reference, predicted),
        "boundary_iou_5px": boundary_iou(reference, predicted, round(RIM_PX)),
        "boundary_iou_2pct": boundary_iou(reference, predicted, rim_width(reference.shape)),
    }
