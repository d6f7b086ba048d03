"""What a network finds in one image, small enough to queue: numpy only, masks still at the network's resolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Detections:
    """The instances of one image, by falling score.

    Attributes:
        boxes: float32 (N, 4), XYXY in px of the original image, inside it and not empty.
        scores: float32 (N,) in [0, 1].
        classes: int64 (N,), contiguous class indices.
        masks: float32 (N, M, M), probability in [0, 1] on an even grid over the box (Mask R-CNN: M = 28).
        height, width: of the original image in px.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: np.ndarray
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.scores)

    def full_masks(self, threshold: float) -> np.ndarray:
        """bool (N, height, width): probability of `threshold` or more, see `paste_mask`."""
        full = np.zeros((len(self), self.height, self.width), dtype=bool)
        for target, mask, box in zip(full, self.masks, self.boxes, strict=True):
            paste_mask(target, mask, box, threshold)
        return full


def paste_mask(target: np.ndarray, mask: np.ndarray, box: np.ndarray, threshold: float) -> None:
    """Set the pixels of a lesion in `target`, bool (H, W).

    Bilinear interpolation of the grid's cell centres at the pixels' centres, zero beyond the grid: the values of
    Detectron2's `paste_masks_in_image`. Interpolation is separable, so two small matrix products do it, tens of times
    faster than sampling every pixel.

    Args:
        target: bool (H, W), changed in place.
        mask: float32 (M, M), probabilities.
        box: (x0, y0, x1, y1) in px, not empty.
        threshold: in (0, 1]; a pixel belongs to the lesion from this value on.
    """
    (x0, y0, x1, y1), (height, width) = box.tolist(), target.shape
    rows, row_weights = _weights(y0, y1, height, mask.shape[0])
    columns, column_weights = _weights(x0, x1, width, mask.shape[1])
    target[rows, columns] = row_weights @ mask @ column_weights.T >= threshold


def _weights(start: float, stop: float, limit: int, cells: int) -> tuple[slice, np.ndarray]:
    """The pixels that a box side can reach, and float32 (pixels, cells): how much each cell counts for each pixel."""
    first, last = max(0, int(np.floor(start)) - 1), min(limit, int(np.ceil(stop)) + 1)
    centres = (np.arange(first, last) + 0.5 - start) / (stop - start) * cells - 0.5
    weights = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(cells)))
    return slice(first, last), weights.astype(np.float32)
