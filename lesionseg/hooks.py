"""Training hooks: best checkpoint, early stopping, validation loss, progress bar."""

from __future__ import annotations

import logging
import math
import sys
import time

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from tqdm import tqdm

from lesionseg.augment import LesionMapper
from lesionseg.checkpoint import read_best
from lesionseg.errors import LesionsegError
from lesionseg.precision import autocast

logger = logging.getLogger(__name__)


def lower_is_better(metric: str) -> bool:
    """Losses fall, scores rise."""
    return metric.split("/")[-1].startswith("loss")


class BestCheckpoint(HookBase):
    """Save model_best.pth when the metric improves, and ask for an early stop when it no longer does.

    The best value lives in model_best.pth itself, so a resumed run cannot overwrite a better model. Early
    stopping counts the evaluations since then.
    """

    def __init__(self, metric: str, patience: int) -> None:
        self.metric, self.patience = metric, patience
        self.best: float | None = None
        self.best_iter = -1
        self.seen_iter = -1

    def before_train(self) -> None:
        if self.trainer.start_iter > 0:
            known = read_best(self.trainer.cfg.OUTPUT_DIR)
            if known.get("metric") == self.metric:
                self.best, self.best_iter = known["value"], known["iteration"]
        self.seen_iter = self.trainer.start_iter - 1

    def after_step(self) -> None:
        self._look()

    def after_train(self) -> None:
        # The evaluation of the last iteration happens in EvalHook.after_train, which runs before this one.
        if self.trainer.iter >= self.trainer.max_iter:
            self._look()

    def _look(self) -> None:
        results = self.trainer.evaluations
        if not results or results[-1][0] <= self.seen_iter:
            return
        self.seen_iter, scores = results[-1]
        stop = False
        if comm.is_main_process():
            value = scores.get(self.metric, math.nan)
            self._check(scores)
            if math.isfinite(value) and self._improves(value):
                self.best, self.best_iter = value, self.seen_iter
                state = {"metric": self.metric, "value": value, "iteration": self.seen_iter}
                self.trainer.checkpointer.save_best(**state)
                logger.info(
                    f"best {self.metric} so far: {value:.4f} (iteration {min(self.seen_iter + 1, self.trainer.max_iter)}), saved"
                )
            since = sum(1 for iteration, _ in results if iteration > self.best_iter)
            stop = 0 < self.patience <= since
        # Only the first process knows the scores; all must stop together.
        if any(comm.all_gather(stop)):
            reason = f"{self.metric} has not improved in {self.patience} evaluations"
            self.trainer.stop_early(reason)

    def _improves(self, value: float) -> bool:
        if self.best is None:
            return True
        return value < self.best if lower_is_better(self.metric) else value > self.best

    def _check(self, scores: dict[str, float]) -> None:
        if self.metric not in scores:
            raise LesionsegError(
                f"LESION.BEST_METRIC is {self.metric}, which the evaluation does not give; choose one of "
                f"{', '.join(sorted(scores))}"
            )


@torch.no_grad()
def validation_loss(cfg: CfgNode, model: torch.nn.Module, dataset_name: str, most: int) -> dict[str, float]:
    """Mean training losses over (at most `most`; -1 all) images of a data set, without augmentation.

    Returns:
        {"loss": total, "loss_mask": ..., ...} over the images of all processes.
    """
    records = DatasetCatalog.get(dataset_name)
    records = records if most < 0 else records[:: max(1, math.ceil(len(records) / most))]
    loader = build_detection_test_loader(
        records,
        mapper=LesionMapper(cfg, augment=False, targets=True),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        batch_size=max(1, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()),
    )
    network = model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model
    was_training = network.training
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()  # validation images must not enter the running statistics
    totals: dict[str, float] = {}
    count = 0
    # RPN and ROI heads draw random samples: a fixed seed makes evaluations comparable, and leaves the
    # training's own random numbers as they were.
    device = next(network.parameters()).device
    devices = [device] if device.type == "cuda" else []
    # A storage of its own keeps the heads' statistics out of the training's.
    storage, precision = EventStorage(), autocast(cfg.MODEL.DEVICE, cfg.LESION.BF16)
    with torch.random.fork_rng(devices=devices), storage, precision:
        torch.manual_seed(0)
        for batch in loader:
            for name, value in network(batch).items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(batch)
            count += len(batch)
    network.train(was_training)
    gathered = comm.all_gather((totals, count))
    images = sum(part[1] for part in gathered)
    names = sorted({name for part in gathered for name in part[0]})
    losses = {name: sum(part[0].get(name, 0.0) for part in gathered) / images for name in names}
    return {"loss": sum(losses.values()), **losses}


class ProgressBar(HookBase):
    """One line in a terminal: stage, iteration, loss, time left, last score. Silent elsewhere."""

    def __init__(self, stage: str, metric: str) -> None:
        self.stage, self.metric = stage, metric
        self.bar: tqdm | None = None
        self.shown = 0.0

    def before_train(self) -> None:
        self.bar = tqdm(
            total=self.trainer.max_iter,
            initial=self.trainer.start_iter,
            desc=f"stage {self.stage}",
            unit="it",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )

    def after_step(self) -> None:
        if self.bar is None or self.bar.disable:
            return
        now = time.monotonic()
        if now - self.shown > 0.5:  # reading the loss's history costs more than drawing
            self.shown = now
            loss = self.trainer.storage.history("total_loss").median(20)
            text = f"loss {loss:.3f}"
            if self.trainer.evaluations:
                text += f", {self.metric} {self.trainer.evaluations[-1][1].get(self.metric, math.nan):.4f}"
            self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()

    def after_train(self) -> None:
        if self.bar is not None:
            self.bar.close()
