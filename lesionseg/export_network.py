"""A Mask R-CNN as one graph of tensor operations, from uint8 images to boxes, scores, classes and small masks.

Detectron2's own inference loops over the images of a batch and the levels of the pyramid in Python; a traced copy of it
holds one batch size. Here detections of all images travel in one tensor, with the index of their image beside them, so
that a trace serves any number and size of images. Numbers are those of `GeneralizedRCNN.inference(do_postprocess=False)`.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import nn
from torchvision.ops import nms

INPUTS = ("images", "sizes")
OUTPUTS = ("boxes", "scores", "classes", "image_index", "masks")


class ExportNetwork(nn.Module):
    """Wraps a Detectron2 GeneralizedRCNN with RPN and StandardROIHeads, in evaluation mode."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.rpn, self.heads = model.proposal_generator, model.roi_heads

    def forward(self, images: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """
        Args:
            images: uint8 (N, 3, H, W) in cfg.INPUT.FORMAT's channel order, padded at the right and lower side to a multiple
                of the backbone's size_divisibility; what the padding holds does not matter.
            sizes: int64 (N, 2), height and width of each image without padding, in px.

        Returns:
            boxes float32 (D, 4), XYXY in px of the input; scores float32 (D,); classes int64 (D,); image_index int64 (D,);
            masks float32 (D, M, M), probabilities on an even grid over the box.
        """
        inside = (torch.arange(images.shape[2])[None, :, None] < sizes[:, 0, None, None]) & (
            torch.arange(images.shape[3])[None, None, :] < sizes[:, 1, None, None]
        )
        pixels = (images.float() - self.model.pixel_mean) / self.model.pixel_std * inside[:, None].float()
        features = self.model.backbone(pixels)
        boxes, image = self._proposals(features, sizes)
        boxes, scores, classes, image = self._detections(features, boxes, image, sizes)
        # One region more, the whole first image, whose mask is dropped: no runtime normalises an empty tensor in groups.
        none = torch.zeros_like(sizes[:1, 0])
        whole = torch.stack([none, none, sizes[:1, 1], sizes[:1, 0]], dim=1).float()
        regions, owners = torch.cat([boxes, whole]), torch.cat([image, none])
        logits = self.heads.mask_head.layers(self._pool(self.heads.mask_pooler, features, regions, owners))
        if logits.shape[1] > 1:  # a mask for each class
            chosen = torch.cat([classes, none])[:, None, None, None]
            logits = logits.gather(1, chosen.expand(-1, 1, logits.shape[2], logits.shape[3]))
        return boxes, scores, classes, image, logits[:-1, 0].sigmoid()

    def _proposals(
        self, features: dict[str, torch.Tensor], sizes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes (P, 4) that the RPN proposes, and the index of their image (P,)."""
        rpn = self.rpn
        maps = [features[name] for name in rpn.in_features]
        count = maps[0].shape[0]
        logits, deltas = rpn.rpn_head(maps)
        parts = []
        for level, anchors in enumerate(rpn.anchor_generator(maps)):
            height, width = deltas[level].shape[2:]
            score = logits[level].permute(0, 2, 3, 1).flatten(1)
            delta = (
                deltas[level].view(count, -1, 4, height, width).permute(0, 3, 4, 1, 2).reshape(count, -1, 4)
            )
            # Tensors, for a trace must not remember how many anchors its own images had.
            most = torch.minimum(torch.as_tensor(score.shape[1]), torch.as_tensor(rpn.pre_nms_topk[False]))
            score, index = score.topk(most, dim=1)
            delta = delta.gather(1, index[:, :, None].expand(-1, -1, 4)).reshape(-1, 4)
            boxes = rpn.box2box_transform.apply_deltas(delta, anchors.tensor[index.reshape(-1)])
            image = (torch.arange(count)[:, None] + torch.zeros_like(index)).reshape(-1)
            parts.append((boxes, score.reshape(-1), image, torch.full_like(image, level)))
        boxes, scores, image, levels = (torch.cat(part) for part in zip(*parts, strict=True))
        boxes = _clip(boxes, sizes[image])
        whole = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        boxes, scores, image, levels = boxes[whole], scores[whole], image[whole], levels[whole]
        kept = _best(boxes, scores, image, levels, rpn.nms_thresh, rpn.post_nms_topk[False], sizes)
        return boxes[kept], image[kept]

    def _detections(
        self,
        features: dict[str, torch.Tensor],
        proposals: torch.Tensor,
        image: torch.Tensor,
        sizes: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Boxes (D, 4), scores, classes and image indices (D,) after the box head and non-maximum suppression."""
        head = self.heads.box_predictor
        logits, deltas = head(
            self.heads.box_head(self._pool(self.heads.box_pooler, features, proposals, image))
        )
        probabilities = logits.softmax(-1)[:, :-1]
        number = probabilities.shape[1]
        boxes = head.box2box_transform.apply_deltas(deltas, proposals)
        boxes = boxes.view(-1, boxes.shape[1] // 4, 4).expand(
            -1, number, 4
        )  # one for all classes, or one for each
        row, classes = torch.nonzero(probabilities > head.test_score_thresh).unbind(1)
        scores, image = probabilities[row, classes], image[row]
        boxes = _clip(boxes[row, classes], sizes[image])
        most = head.test_topk_per_image
        kept = _best(boxes, scores, image, classes, head.test_nms_thresh, most, sizes)
        return boxes[kept], scores[kept], classes[kept], image[kept]

    def _pool(
        self, pooler: ROIPooler, features: dict[str, torch.Tensor], boxes: torch.Tensor, image: torch.Tensor
    ) -> torch.Tensor:
        """RoIAlign (R, C, S, S) of boxes, each from the level of the pyramid that suits its size."""
        regions = torch.cat([image[:, None].float(), boxes], dim=1)
        maps = [features[name] for name in self.heads.box_in_features]
        if len(maps) == 1:
            return pooler.level_poolers[0](maps[0], regions)
        levels = assign_boxes_to_levels(
            [Boxes(boxes)],
            pooler.min_level,
            pooler.max_level,
            pooler.canonical_box_size,
            pooler.canonical_level,
        )
        members = [torch.nonzero(levels == index)[:, 0] for index in range(len(maps))]
        pooled = [
            align(level, regions[which])
            for align, level, which in zip(pooler.level_poolers, maps, members, strict=True)
        ]
        return torch.cat(pooled)[torch.argsort(torch.cat(members))]


class _ChannelwiseGroupNorm(nn.Module):
    """`nn.GroupNorm` without its reshaping of images (Wu and He 2018, equation 7: the mean and variance of a group).

    OpenVINO lays images out channels first for the reshaping, and computes RoIAlign after it nine times slower than on
    channels-last ones (5.3 instead of 0.6 ms, a quarter of R18-FPN's time at 192 px).
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.groups, self.eps = norm.num_groups, norm.eps
        self.register_buffer("weight", norm.weight.detach()[:, None, None])
        self.register_buffer("bias", norm.bias.detach()[:, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 (N, C, H, W), normalised."""
        # Changes nothing. Without it OpenVINO takes the scales of an int8 convolution before this, one a channel, out of
        # the mean over channels, which is wrong.
        x = torch.maximum(x, torch.full((1, 1, 1, 1), -1e30))
        centred = x - self._group_mean(x)
        spread = torch.sqrt(self._group_mean(centred * centred) + self.eps)
        return centred * (self.weight / spread) + self.bias

    def _group_mean(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, 1, 1): the mean of each channel's group."""
        means = x.mean((2, 3)).reshape(x.shape[0], self.groups, -1)
        return means.mean(2, keepdim=True).expand_as(means).reshape(x.shape[0], -1, 1, 1)


def replace_group_norms(model: nn.Module) -> None:
    """Give every `nn.GroupNorm` of a model the form that suits OpenVINO; in place, results unchanged."""
    for name, module in model.named_children():
        if isinstance(module, nn.GroupNorm):
            setattr(model, name, _ChannelwiseGroupNorm(module))
        else:
            replace_group_norms(module)


def _clip(boxes: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Boxes (D, 4) inside images of sizes (D, 2)."""
    limits = sizes.float().flip(1).repeat(1, 2)
    return torch.minimum(boxes.clamp(min=0), limits)


def _best(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    image: torch.Tensor,
    group: torch.Tensor,
    threshold: float,
    most: int,
    sizes: torch.Tensor,
) -> torch.Tensor:
    """Indices, by falling score, that survive non-maximum suppression among their image and group, `most` an image."""
    # Images side by side and groups one below the other, so far apart that none overlaps another. The sizes tell how far:
    # boxes may be none.
    step = sizes.max() + 1
    apart = torch.stack([image.float() * step, group.float() * step], dim=1).repeat(1, 2)
    kept = nms(boxes + apart, scores, threshold)
    kept = kept[torch.argsort(scores[kept], descending=True)]
    own = (image[kept][:, None] == torch.arange(sizes.shape[0])[None, :]).long()
    rank = (own.cumsum(0) * own).sum(1)
    return kept[rank <= most]
