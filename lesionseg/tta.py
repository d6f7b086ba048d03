"""Test-time augmentation: the network sees an image mirrored, turned and scaled; what it finds is mapped back and averaged.

Dermoscopy has no up or down, so the views are equally good guesses and their mean is steadier than any one of them.
cfg.LESION.TTA turns it on for evaluation and prediction. Time grows with the number of views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import nn
from torch.nn import functional

from lesionseg.errors import LesionsegError

MATCH_IOU = 0.5  # boxes of two views that overlap at least so much show the same lesion


@dataclass(frozen=True)
class View:
    """One way to show an image: scaled, then mirrored left-right, then turned anticlockwise by quarter turns."""

    scale: float = 1.0
    flip: bool = False
    quarters: int = 0

    def image(self, image: torch.Tensor) -> torch.Tensor:
        """The view of an image, (3, h, w) uint8 in and (3, h', w') out, of the same type."""
        if self.scale != 1.0:
            size = [max(1, round(side * self.scale)) for side in image.shape[1:]]
            resized = functional.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
            image = resized.round().clamp(0, 255).to(image.dtype)
        if self.flip:
            image = image.flip(2)
        return image.rot90(self.quarters, (1, 2)).contiguous()

    def restore(self, found: Instances, size: tuple[int, int]) -> Instances:
        """What was found in the view, in px of the image itself.

        Args:
            found: pred_boxes, scores, pred_classes, pred_masks (N, 1, M, M), the masks on an even grid over each box.
            size: (h, w) of the image.
        """
        boxes, masks = found.pred_boxes.tensor.clone(), found.pred_masks
        height, width = found.image_size
        for _ in range(self.quarters):  # a clockwise quarter turn each: (x, y) -> (height - y, x)
            x0, y0, x1, y1 = boxes.unbind(1)
            boxes = torch.stack([height - y1, x0, height - y0, x1], dim=1)
            height, width = width, height
        masks = masks.rot90(-self.quarters, (2, 3))
        if self.flip:
            boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
            masks = masks.flip(3)
        restored = Instances(
            size, pred_boxes=Boxes(boxes), scores=found.scores, pred_classes=found.pred_classes
        )
        restored.pred_boxes.scale(size[1] / width, size[0] / height)
        restored.pred_masks = masks
        return restored


def views(cfg: CfgNode) -> list[View]:
    """All views that cfg.LESION.TTA asks for.

    Raises:
        LesionsegError: a turn that is no quarter turn, a scale that is not positive, or no view at all.
    """
    tta = cfg.LESION.TTA
    if any(turn % 90 for turn in tta.TURNS) or any(scale <= 0 for scale in tta.SCALES):
        raise LesionsegError(
            f"LESION.TTA.TURNS takes multiples of 90 degrees, SCALES positive numbers; found {tta.TURNS} and {tta.SCALES}"
        )
    quarters = sorted({int(turn) // 90 % 4 for turn in tta.TURNS})
    flips = (False, True) if tta.FLIP else (False,)
    chosen = [View(float(scale), flip, turn) for scale, flip, turn in product(tta.SCALES, flips, quarters)]
    if not chosen:
        raise LesionsegError(
            "LESION.TTA.TURNS and SCALES leave no view of an image; give at least one of each"
        )
    return chosen


class TestTimeAugmentation(nn.Module):
    """Wraps a GeneralizedRCNN; `inference` gives in the same form what all views together tell."""

    def __init__(self, model: nn.Module, cfg: CfgNode) -> None:
        super().__init__()
        self.model: Any = model
        self.views = views(cfg)
        self.score_threshold = cfg.LESION.SCORE_THRESHOLD
        self.most = cfg.TEST.DETECTIONS_PER_IMAGE

    @property
    def backbone(self) -> Any:
        return self.model.backbone

    def inference(self, inputs: Sequence[dict[str, Any]], do_postprocess: bool = False) -> list[Instances]:
        """As GeneralizedRCNN.inference without post-processing: boxes in px of the inputs, masks (N, 1, M, M)."""
        assert not do_postprocess
        found: list[list[Instances]] = [[] for _ in inputs]
        for view in self.views:
            shown = [{"image": view.image(item["image"])} for item in inputs]
            for index, instances in enumerate(self.model.inference(shown, do_postprocess=False)):
                height, width = inputs[index]["image"].shape[1:]
                found[index].append(view.restore(instances, (height, width)))
        return [merge(parts, self.score_threshold, self.most) for parts in found]


def merge(parts: Sequence[Instances], score_threshold: float, most: int) -> Instances:
    """One set of instances from those of several views of an image.

    By falling score, each detection gathers from every other view the one of its class that overlaps it most (IoU of
    boxes MATCH_IOU or more). The score of such a set is the mean over all views, 0 for views that miss it; its box the mean
    weighted by score; its mask the mean of the masks, brought to that box.

    Args:
        parts: instances of each view, see `View.restore`.
        score_threshold, most: sets of lower score, and all but so many, are dropped.
    """
    together = Instances.cat(list(parts)) if len(parts) > 1 else parts[0]
    origin = torch.cat([torch.full((len(part),), index) for index, part in enumerate(parts)])
    sets = _sets(together, origin, len(parts))
    scores = (
        torch.stack([together.scores[members].sum() / len(parts) for members in sets])
        if sets
        else together.scores[:0]
    )
    order = [
        index for index in torch.argsort(scores, descending=True).tolist() if scores[index] >= score_threshold
    ][:most]
    merged = Instances(together.image_size)
    boxes, masks = together.pred_boxes.tensor, together.pred_masks
    if not order:
        return together[torch.zeros(len(together), dtype=torch.bool, device=boxes.device)]
    mean_boxes, mean_masks = [], []
    for index in order:
        members = sets[index]
        weights = together.scores[members, None]
        box = (boxes[members] * weights).sum(0) / weights.sum()
        mean_boxes.append(box)
        mean_masks.append(_on_box(masks[members], boxes[members], box).mean(0))
    merged.pred_boxes = Boxes(torch.stack(mean_boxes))
    merged.scores = scores[order]
    merged.pred_classes = torch.stack([together.pred_classes[sets[index][0]] for index in order])
    merged.pred_masks = torch.stack(mean_masks)
    return merged


def _sets(together: Instances, origin: torch.Tensor, count: int) -> list[list[int]]:
    """Indices of the detections that show the same lesion, the one of the highest score first in each set."""
    iou = pairwise_iou(together.pred_boxes, together.pred_boxes).cpu()
    same = together.pred_classes[:, None] == together.pred_classes[None, :]
    iou = torch.where(same.cpu(), iou, torch.zeros(()))
    free = torch.ones(len(together), dtype=torch.bool)
    sets = []
    for leader in torch.argsort(together.scores, descending=True, stable=True).tolist():
        if not free[leader]:
            continue
        members = [leader]
        for view in range(count):
            candidates = torch.where(free & (origin == view), iou[leader], torch.zeros(()))
            if view != int(origin[leader]) and len(candidates) and candidates.max() >= MATCH_IOU:
                members.append(int(candidates.argmax()))
        free[members] = False
        sets.append(members)
    return sets


def _on_box(masks: torch.Tensor, boxes: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    """Masks (N, 1, M, M) on an even grid over `boxes` (N, 4), resampled to the grid over one `box` (4,); 0 beyond their own."""
    side = masks.shape[-1]
    cells = (torch.arange(side, device=masks.device, dtype=torch.float32) + 0.5) / side
    x, y = box[0] + cells * (box[2] - box[0]), box[1] + cells * (box[3] - box[1])
    x0, y0, x1, y1 = (edge[:, None] for edge in boxes.float().unbind(1))
    u, v = 2 * (x - x0) / (x1 - x0) - 1, 2 * (y - y0) / (y1 - y0) - 1
    grid = torch.stack([u[:, None, :].expand(-1, side, -1), v[:, :, None].expand(-1, -1, side)], dim=3)
    return functional.grid_sample(masks.float(), grid, align_corners=False)
