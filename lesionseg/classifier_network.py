"""The classifier's network: torchvision's classification models, pretrained where weights can be had.

torchvision rather than timm: it is installed with torch anyway, and its pretrained ResNets, EfficientNets and ConvNeXts
are enough for crops.
"""

from __future__ import annotations

import logging
from pathlib import Path
from urllib.error import URLError

import torch
from torch import nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, ResNet

from lesionseg.errors import LesionsegError

# Mean and standard deviation of ImageNet in RGB, which torchvision's weights were trained with, times 255.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
logger = logging.getLogger(__name__)


class CropNetwork(nn.Module):
    """A torchvision network with the crop's normalisation in front and as many outputs as there are classes.

    Input uint8 (n, 3, size, size) RGB; output logits float (n, classes).
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, arch: str, classes: int) -> None:
        super().__init__()
        self.network = _torchvision(arch)
        self.head_name, old = _head(self.network, arch)
        parent, _, name = self.head_name.rpartition(".")
        setattr(self.network.get_submodule(parent), name, nn.Linear(old.in_features, classes))
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network((images - self.mean) / self.std)

    @property
    def head(self) -> nn.Module:
        """The last layer, the one that knows the classes."""
        return self.network.get_submodule(self.head_name)

    def train_head_only(self) -> None:
        """Freeze everything but the last layer, and keep batch statistics as they are."""
        self.eval()
        self.requires_grad_(False)
        self.head.requires_grad_(True).train()

    def train_all(self) -> None:
        self.requires_grad_(True)
        self.train()


def _torchvision(arch: str) -> nn.Module:
    if arch == "resnet10":
        return ResNet(BasicBlock, [1, 1, 1, 1])
    try:
        return models.get_model(arch, weights=None)
    except ValueError:
        raise LesionsegError(
            f"CLASSIFIER.ARCH {arch!r} is unknown: expected resnet10 or a classification model of torchvision, such as "
            "resnet18, resnet50, efficientnet_b0, convnext_tiny"
        ) from None


def _head(network: nn.Module, arch: str) -> tuple[str, nn.Linear]:
    """Name and module of the last layer."""
    name, last = list(network.named_modules())[-1]
    if not isinstance(last, nn.Linear):
        raise LesionsegError(
            f"CLASSIFIER.ARCH {arch!r} does not end in a linear layer; use another, such as resnet50"
        )
    return name, last


def load_pretrained(model: CropNetwork, arch: str, weights: str) -> bool:
    """Fill all layers but the last with pretrained weights, in place.

    Args:
        weights: "imagenet", "" or a file, see CLASSIFIER.WEIGHTS.

    Returns:
        Whether the network is pretrained now; False, after a warning, where "imagenet" cannot be downloaded.

    Raises:
        LesionsegError: the file is missing or does not fit the architecture.
    """
    if not weights:
        return False
    state = _imagenet(arch) if weights == "imagenet" else _read_weights(Path(weights))
    if state is None:
        return False
    state = {key: value for key, value in state.items() if not key.startswith(f"{model.head_name}.")}
    try:
        missing, unexpected = model.network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise LesionsegError(f"the weights {weights} do not fit CLASSIFIER.ARCH {arch}: {error}") from error
    if unexpected or any(not key.startswith(f"{model.head_name}.") for key in missing):
        raise LesionsegError(
            f"the weights {weights} do not fit CLASSIFIER.ARCH {arch}: {len(missing)} missing, {len(unexpected)} unknown"
        )
    return True


def _imagenet(arch: str) -> dict[str, torch.Tensor] | None:
    if arch == "resnet10":
        raise LesionsegError('resnet10 has no ImageNet weights: set CLASSIFIER.WEIGHTS ""')
    chosen = models.get_model_weights(arch).DEFAULT
    try:
        return chosen.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        logger.warning(
            "%s cannot be downloaded (%s): training from scratch, which needs more epochs and gives lower scores. To use "
            "pretrained weights, put the file into %s, or name it in CLASSIFIER.WEIGHTS",
            chosen.url,
            error,
            folder,
        )
        return None


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise LesionsegError(f"CLASSIFIER.WEIGHTS {path} does not exist")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise LesionsegError(
            f"CLASSIFIER.WEIGHTS {path} is not a readable file of weights: {error}"
        ) from error
    # A run's own network_best.pth holds a CropNetwork, torchvision's files the network inside it.
    return {key.removeprefix("network."): value for key, value in state.items()}
