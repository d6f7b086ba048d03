"""Train the classifier's network: two stages, balanced classes, early stopping, a checkpoint an epoch."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import nn
from torch.utils.data import DataLoader

from lesionseg.classifier_data import BalancedSampler, Crop, CropImages
from lesionseg.classifier_network import CropNetwork, load_pretrained
from lesionseg.errors import LesionsegError
from lesionseg.images import atomic_write
from lesionseg.precision import autocast
from lesionseg.workers import cores

BEST, LAST, METRICS = "network_best.pth", "network_last.pth", "metrics.json"
STAGES = ("head", "all")
logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """Where training stands after an epoch; everything that a continued run needs beyond the tensors."""

    stage: str = ""
    epoch: int = 0  # finished epochs of the stage
    best: float = -1.0  # balanced accuracy
    since_best: int = 0  # epochs of stage 2
    history: list[dict[str, Any]] = field(default_factory=list)  # the rows of metrics.json
    done: bool = False


def train_network(
    cfg: CfgNode, train: Sequence[Crop], val: Sequence[Crop], classes: int, folder: Path
) -> None:
    """Train to folder/network_best.pth; a killed run continues after its last finished epoch.

    Args:
        train, val: crops with labels.
        classes: number of classes.

    Raises:
        LesionsegError: architecture or weights, see `classifier_network`; a loss that is not finite.
    """
    trainer = _Trainer(cfg, train, val, classes, folder)
    trainer.run()


class _Trainer:
    def __init__(
        self, cfg: CfgNode, train: Sequence[Crop], val: Sequence[Crop], classes: int, folder: Path
    ) -> None:
        self.cfg, self.node, self.folder = cfg, cfg.CLASSIFIER, folder
        self.train, self.val, self.classes = train, val, classes
        self.device = torch.device(cfg.DEVICE)
        self.labels = torch.tensor([crop.label for crop in train])
        torch.manual_seed(cfg.SEED)
        self.model = CropNetwork(self.node.ARCH, classes).to(memory_format=torch.channels_last)
        self.progress = Progress()
        self.optimizer: torch.optim.Optimizer | None = None
        self.resumed = self._resume()
        if self.resumed is None:
            pretrained = load_pretrained(self.model, self.node.ARCH, self.node.WEIGHTS)
            self.progress.stage = "head" if pretrained and self.node.HEAD_EPOCHS > 0 else "all"
            self.lr_factor = self.node.ALL_LR_FACTOR if pretrained else 1.0
        self.model.to(self.device)
        self.images = CropImages(train, self.node.INPUT_SIZE, cfg, cfg.SEED)
        self.sampler = BalancedSampler(self.labels.tolist(), cfg.SEED)
        self.loader = self._loader()

    def _resume(self) -> dict[str, Any] | None:
        path = self.folder / LAST
        if not path.is_file():
            return None
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.progress = Progress(**state["progress"])
        self.lr_factor = state["lr_factor"]
        logger.info("continuing after epoch %d of stage %s", self.progress.epoch, self.progress.stage)
        return state

    def _loader(self) -> DataLoader:
        """Every epoch tells dataset and sampler its number, so workers start anew with each."""
        return DataLoader(
            self.images,
            self.node.BATCH_SIZE,
            sampler=self.sampler,
            num_workers=_loader_processes(self.cfg),
            # A last batch of one crop has no batch statistics.
            drop_last=len(self.images) % self.node.BATCH_SIZE == 1,
            pin_memory=self.device.type == "cuda",
        )

    def run(self) -> None:
        epochs = {"head": self.node.HEAD_EPOCHS, "all": self.node.EPOCHS}
        for stage in STAGES[STAGES.index(self.progress.stage) :]:
            if self.progress.stage != stage:
                self.progress.stage, self.progress.epoch = stage, 0
            self._start_stage(stage)
            while self.progress.epoch < epochs[stage] and not self.progress.done:
                self._epoch(stage, epochs[stage])
        self.progress.done = True
        self._save()

    def _start_stage(self, stage: str) -> None:
        if stage == "head":
            self.model.train_head_only()
        else:
            self.model.train_all()
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=self.node.LR, weight_decay=self.node.WEIGHT_DECAY)
        if self.resumed is not None and self.progress.epoch:
            self.optimizer.load_state_dict(self.resumed["optimizer"])
        self.resumed = None

    def _epoch(self, stage: str, epochs: int) -> None:
        number, started = len(self.progress.history), time.monotonic()
        self.images.epoch = self.sampler.epoch = number
        torch.manual_seed(self.cfg.SEED + number)  # dropout, so that a continued run equals one in a piece
        if stage == "head":
            self.model.train_head_only()
        else:
            self.model.train()
        losses = []
        for step, (images, indices) in enumerate(self.loader):
            self._set_rate(stage, (self.progress.epoch + step / len(self.loader)), epochs)
            losses.append(self._step(images, indices))
        logits = network_logits(self.model, self.val, self.node.INPUT_SIZE, self.cfg, flips=False)
        truth = np.array([crop.label for crop in self.val])
        row = {
            "stage": stage,
            "epoch": self.progress.epoch + 1,
            "loss": float(np.mean(losses)),
            "val_loss": float(nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(truth))),
            "val_balanced_accuracy": balanced_accuracy(truth, logits.argmax(axis=1)),
            "seconds": round(time.monotonic() - started, 2),
        }
        self._finish_epoch(stage, row)

    def _set_rate(self, stage: str, epoch: float, epochs: int) -> None:
        peak = self.node.LR * (self.lr_factor if stage == "all" else 1.0)
        warmup = min(1.0, 0.2 * epochs)
        rate = peak * min(1.0, (epoch + 0.01) / warmup) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        assert self.optimizer is not None
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _step(self, images: torch.Tensor, indices: torch.Tensor) -> float:
        assert self.optimizer is not None
        images = images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        with autocast(self.device, self.cfg.LESION.BF16):
            logits = self.model(images)
        loss = nn.functional.cross_entropy(logits.float(), self.labels[indices].to(self.device))
        value = loss.item()
        if not math.isfinite(value):
            files = ", ".join(str(self.train[index].file) for index in indices.tolist())
            raise LesionsegError(
                f"the loss is {value}, not a finite number; lower CLASSIFIER.LR. The batch: {files}"
            )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return value

    def _finish_epoch(self, stage: str, row: dict[str, Any]) -> None:
        progress, score = self.progress, row["val_balanced_accuracy"]
        progress.epoch += 1
        progress.history.append(row)
        better = score > progress.best
        progress.since_best = 0 if better else progress.since_best + (stage == "all")
        if better:
            progress.best = score
            with atomic_write(self.folder / BEST) as temporary:
                torch.save(self.model.state_dict(), temporary)
        progress.done = stage == "all" and 0 < self.node.PATIENCE <= progress.since_best
        self._save()
        logger.info(
            "stage %s, epoch %d: loss %.3f, validation loss %.3f, balanced accuracy %.3f%s (%.0f s)",
            *(
                stage,
                row["epoch"],
                row["loss"],
                row["val_loss"],
                score,
                " (best)" if better else "",
                row["seconds"],
            ),
        )

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict() if self.optimizer else {},
            "progress": vars(self.progress),
            "lr_factor": self.lr_factor,
        }
        with atomic_write(self.folder / LAST) as temporary:
            torch.save(state, temporary)
        with atomic_write(self.folder / METRICS) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self.progress.history))


def _loader_processes(cfg: CfgNode) -> int:
    return min(cfg.CLASSIFIER.WORKERS, cores())


def balanced_accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over the classes present in `truth` of the share of their crops that is predicted right, in [0, 1]."""
    return float(np.mean([(predicted[truth == label] == label).mean() for label in np.unique(truth)]))


@torch.inference_mode()
def network_logits(
    model: CropNetwork, crops: Sequence[Crop], size: int, cfg: CfgNode, flips: bool = True
) -> np.ndarray:
    """Logits of crop files, float32 (n, classes), see `image_logits`."""
    loader = DataLoader(
        CropImages(crops, size), cfg.CLASSIFIER.BATCH_SIZE, num_workers=_loader_processes(cfg)
    )
    batches = [image_logits(model, images, cfg, flips) for images, _ in loader]
    return np.concatenate(batches)


@torch.inference_mode()
def image_logits(model: CropNetwork, images: torch.Tensor, cfg: CfgNode, flips: bool = True) -> np.ndarray:
    """Logits of uint8 (n, 3, size, size) RGB crops, float32 (n, classes).

    Args:
        flips: take the mean over the crop and its three mirror images; dermoscopy has no preferred direction.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    images = images.to(device, memory_format=torch.channels_last)
    views = [images]
    if flips:
        views += [images.flip(3), images.flip(2), images.flip((2, 3))]
    with autocast(device, cfg.LESION.BF16):
        logits = torch.stack([model(view).float() for view in views]).mean(dim=0)
    model.train(was_training)
    return logits.cpu().numpy()
