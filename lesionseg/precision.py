"""bfloat16 where the processor has it: the one place that decides, for training and for prediction.

bfloat16 keeps float32's range with 8 bits of mantissa, so it needs no loss scaling. Convolutions and matrix products
gain from it; scores, boxes and mask probabilities do not bear the rounding (near 1, two bfloat16 scores are 1/256
apart, and instances tie), so the layers that produce them stay in float32: `keep_outputs_float32`. Nor do the boxes that
features are pooled from: Detectron2 rounds them to the features' type before torchvision's RoIAlign computes in float32 in any
case, and between 512 and 1024 px bfloat16 knows every fourth pixel only. NMS needs no care.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from detectron2.layers import ROIAlign
from torch import nn

from lesionseg.errors import LesionsegError

SETTINGS = ("auto", "on", "off")
# The last layer before a number that is compared, thresholded or returned (names within Detectron2's Mask R-CNN).
OUTPUT_LAYERS = (
    "proposal_generator.rpn_head.objectness_logits",
    "proposal_generator.rpn_head.anchor_deltas",
    "roi_heads.box_predictor",
    "roi_heads.mask_head.predictor",
)
logger = logging.getLogger(__name__)


def has_bf16(device: str | torch.device) -> bool:
    """Whether the processor computes in bfloat16 itself: CUDA from Ampere on; CPUs with AVX512_BF16 or AMX.

    Other CPUs can emulate bfloat16, but slower than float32.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # Not public in torch; where a torch has no such check, the answer is the safe one.
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, check, lambda: False)() for check in checks)
    return False


def use_bf16(device: str | torch.device, setting: str) -> bool:
    """What `cfg.LESION.BF16` means on a device.

    Args:
        setting: "auto" (where the processor has it), "on" or "off".

    Raises:
        LesionsegError: another setting.
    """
    if setting not in SETTINGS:
        raise LesionsegError(f"LESION.BF16 is one of {', '.join(SETTINGS)}, not {setting!r}")
    if setting == "on" and not has_bf16(device):
        logger.warning("LESION.BF16 is on, but %s has no bfloat16 arithmetic: expect it to be slow", device)
    return setting == "on" or (setting == "auto" and has_bf16(device))


def autocast(device: str | torch.device, setting: str) -> AbstractContextManager[Any]:
    """Context manager under which the network runs: bfloat16 autocast, or one that changes nothing.

    Args:
        device: where the network is.
        setting: `cfg.LESION.BF16`, see `use_bf16`.

    Raises:
        LesionsegError: an unknown setting.
    """
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=use_bf16(device, setting))


def keep_outputs_float32(model: nn.Module) -> None:
    """Make the `OUTPUT_LAYERS` of a Mask R-CNN compute, and its poolers read boxes, in float32 under autocast too; in place.

    Weights are unchanged. The layers are a 1x1 convolution or a small matrix product each: the time does not show.
    """
    modules = dict(model.named_modules())
    for name in OUTPUT_LAYERS:
        if name in modules:
            modules[name].forward = _in_float32(modules[name].forward)
    for module in modules.values():
        if isinstance(module, ROIAlign):
            module.forward = _with_exact_boxes(module.forward)


def store_bf16(model: nn.Module) -> None:
    """Keep the weights of convolutions and matrix products in bfloat16, for prediction under `autocast`; in place.

    The results are the same: autocast rounds these weights in any case, anew for each image, which costs time and memory
    traffic. The `OUTPUT_LAYERS` stay as they are.
    """
    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    for name, module in model.named_modules():
        if isinstance(module, layers) and not name.startswith(OUTPUT_LAYERS):
            # Detectron2's convolutions hold their norm: its parameters stay in float32.
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(torch.bfloat16)


def _with_exact_boxes(forward: Callable[..., Any]) -> Callable[..., Any]:
    def exact_forward(features: torch.Tensor, boxes: torch.Tensor) -> Any:
        return forward(features.float(), boxes).to(features.dtype)

    return exact_forward


def _in_float32(forward: Callable[..., Any]) -> Callable[..., Any]:
    def float32_forward(x: torch.Tensor) -> Any:
        with torch.autocast(x.device.type, enabled=False):
            return forward(x.float())

    return float32_forward
