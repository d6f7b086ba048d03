"""What a network finds in one image, in numpy only: small enough to queue, or with masks at full resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Window = tuple[slice, slice]  # rows and columns of an image


@dataclass
class LesionInstances:
    """The instances of one image, by falling score: the fields of Detectron2's Instances, as arrays.

    Attributes:
        image_size: (height, width) in px.
        pred_boxes: float32 (N, 4), XYXY in px.
        scores: float32 (N,) in [0, 1].
        pred_classes: int64 (N,), contiguous class indices.
        pred_masks: bool (N, height, width).
        extent: the part of the image beyond which all masks are known to be empty; None where nothing is known.
    """

    image_size: tuple[int, int]
    pred_boxes: np.ndarray
    scores: np.ndarray
    pred_classes: np.ndarray
    pred_masks: np.ndarray
    extent: Window | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Any) -> LesionInstances:
        """Some of the instances, by a slice or an array of indices or bools."""
        boxes, scores, classes = (part[index] for part in (self.pred_boxes, self.scores, self.pred_classes))
        return LesionInstances(self.image_size, boxes, scores, classes, self.pred_masks[index], self.extent)

    @property
    def window(self) -> Window:
        """`extent`, or the whole image."""
        return self.extent or (slice(0, self.image_size[0]), slice(0, self.image_size[1]))

    def within(self, window: Window) -> LesionInstances:
        """The instances in a part of the image; boxes stay in px of the whole."""
        masks = self.pred_masks[:, window[0], window[1]]
        size = (masks.shape[1], masks.shape[2])
        return LesionInstances(size, self.pred_boxes, self.scores, self.pred_classes, masks)


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

    def best_class_only(self, iou_threshold: float) -> Detections:
        """Without the other names of one lesion: non-maximum suppression between classes.

        Mask R-CNN suppresses overlapping boxes within each class, so a run with several classes reports a lesion of
        which it is in doubt once for each class.

        Args:
            iou_threshold: in [0, 1]; a detection goes when its box has a greater IoU with a kept one of higher score and
                another class.
        """
        if len(np.unique(self.classes)) < 2:
            return self
        overlap = box_iou(self.boxes, self.boxes) > iou_threshold
        kept: list[int] = []
        for k in range(len(self)):
            if not any(overlap[k, other] and self.classes[k] != self.classes[other] for other in kept):
                kept.append(k)
        parts = (self.boxes[kept], self.scores[kept], self.classes[kept], self.masks[kept])
        return Detections(*parts, self.height, self.width)

    def full_masks(self, threshold: float) -> np.ndarray:
        """bool (N, height, width): probability of `threshold` or more, see `paste_mask`."""
        full = np.zeros((len(self), self.height, self.width), dtype=bool)
        for target, mask, box in zip(full, self.masks, self.boxes, strict=True):
            paste_mask(target, mask, box, threshold)
        return full

    def extent(self) -> Window:
        """The rows and columns that `full_masks` can reach."""
        if not len(self):
            return slice(0, 0), slice(0, 0)
        (x0, y0), (x1, y1) = self.boxes[:, :2].min(axis=0), self.boxes[:, 2:].max(axis=0)
        return _reach(y0, y1, self.height), _reach(x0, x1, self.width)

    def instances(self, threshold: float) -> LesionInstances:
        """Everything at the image's resolution; `threshold` as in `full_masks`."""
        size, masks = (self.height, self.width), self.full_masks(threshold)
        return LesionInstances(size, self.boxes, self.scores, self.classes, masks, self.extent())


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes, XYXY (N, 4) and (M, 4) and none empty: float (N, M) in [0, 1]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b)]
    return common / (areas[0][:, None] + areas[1][None, :] - common)


def _reach(start: float, stop: float, limit: int) -> slice:
    """The pixels that a mask may cover along a box side: as far as Detectron2's `paste_masks_in_image` looks."""
    return slice(max(0, int(np.floor(start)) - 1), min(limit, int(np.ceil(stop)) + 1))


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
    """The pixels along a box side, see `_reach`, and float32 (pixels, cells): how much each cell counts for each."""
    reach = _reach(start, stop, limit)
    centres = (np.arange(reach.start, reach.stop) + 0.5 - start) / (stop - start) * cells - 0.5
    weights = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(cells)))
    return reach, weights.astype(np.float32)
