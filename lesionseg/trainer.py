"""Training: DefaultTrainer with dermoscopy data, ISIC and COCO scores, and two stages."""

from __future__ import annotations

import inspect
import logging
import time
import weakref
from collections import OrderedDict
from contextlib import AbstractContextManager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.engine import DefaultTrainer, SimpleTrainer, TrainerBase, hooks
from detectron2.evaluation import DatasetEvaluators, inference_on_dataset, print_csv_format
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from lesionseg.augment import LesionMapper
from lesionseg.checkpoint import FINAL, LesionCheckpointer
from lesionseg.errors import LesionsegError
from lesionseg.evaluation import build_evaluators
from lesionseg.hooks import BestCheckpoint, ProgressBar, validation_loss
from lesionseg.precision import autocast, has_bf16, keep_outputs_float32
from lesionseg.sampling import LeanTrainingSampler

logger = logging.getLogger(__name__)
# Every process keeps BatchNorm statistics of its own, as with Detectron2; newer versions of torch have another name for it.
_DDP_ARGUMENTS = inspect.signature(DistributedDataParallel).parameters
_NEW, _OLD = "forward_sync_buffers", "broadcast_buffers"
_KEEP_BUFFERS: dict[str, Any] = {_NEW if _NEW in _DDP_ARGUMENTS else _OLD: False}


def amp_dtype(device: torch.device) -> torch.dtype:
    """What SOLVER.AMP.ENABLED computes in: bfloat16 where the processor has it, else float16 on a GPU, else float32."""
    if has_bf16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def share_buffers(model: torch.nn.Module) -> None:
    """Give all processes the BatchNorm statistics of the first, which are the ones that are saved: scores must be those of them."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


class LesionStep(SimpleTrainer):
    """One training step: mixed precision where asked for, and a loss that is not finite stops with its images named."""

    def __init__(
        self, model: torch.nn.Module, loader: Any, optimizer: torch.optim.Optimizer, amp: bool
    ) -> None:
        super().__init__(model, loader, optimizer)
        device = next(model.parameters()).device
        self.dtype = amp_dtype(device) if amp else torch.float32
        self.device_type = device.type
        # float16 (GPUs before Ampere) needs its gradients scaled; bfloat16 has float32's range.
        self.grad_scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def run_step(self) -> None:
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        with self._autocast():
            losses = self.model(data)
        total = sum(losses.values())
        if not torch.isfinite(total):
            named = ", ".join(f"{name} {float(value.detach()):.3g}" for name, value in losses.items())
            files = "\n  ".join(item["file_name"] for item in data)
            raise LesionsegError(
                f"the loss is no longer finite at iteration {self.iter} ({named}); the images of this batch:\n  {files}\n"
                "Look at them with tools/visualize_data.py; if they are sound, lower SOLVER.BASE_LR, or turn on "
                "SOLVER.CLIP_GRADIENTS.ENABLED, or turn off SOLVER.AMP.ENABLED. --resume goes on from the last checkpoint"
            )
        self.optimizer.zero_grad()
        self.grad_scaler.scale(total).backward()
        self.after_backward()
        self._write_metrics(losses, data_time)
        # AdamW would divide by the scale itself, after the clipping.
        self.grad_scaler.unscale_(self.optimizer)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if state_dict["grad_scaler"]:  # empty where the run went on in bfloat16 or float32 before
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


class LesionTrainer(DefaultTrainer):
    """DefaultTrainer for lesions. `evaluations` holds (iteration, {metric: value}) of this process's run so far."""

    def __init__(self, cfg: CfgNode, stage: str = "all") -> None:
        # DefaultTrainer.__init__ wraps the model for DistributedDataParallel with a device id, which processes on
        # the CPU must not have, and knows no other step than its own two: hence its few lines in our words.
        TrainerBase.__init__(self)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg, self.stage = cfg, stage
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        if comm.get_world_size() > 1:
            device_ids = [comm.get_local_rank()] if cfg.MODEL.DEVICE.startswith("cuda") else None
            model = DistributedDataParallel(model, device_ids=device_ids, **_KEEP_BUFFERS)
        self._trainer = LesionStep(model, loader, optimizer, amp=cfg.SOLVER.AMP.ENABLED)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = LesionCheckpointer(
            model, cfg.OUTPUT_DIR, save_to_disk=comm.is_main_process(), trainer=weakref.proxy(self)
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.evaluations: list[tuple[int, dict[str, float]]] = []
        self._stop_reason = ""
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """Detectron2's model; channels-last in memory, which convolutions in mixed precision want."""
        model = super().build_model(cfg).to(memory_format=torch.channels_last)
        keep_outputs_float32(model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """Detectron2's SGD, or AdamW (Loshchilov and Hutter 2019) with the same parameter groups and clipping."""
        if cfg.LESION.OPTIMIZER == "SGD":
            return super().build_optimizer(cfg, model)
        if cfg.LESION.OPTIMIZER != "ADAMW":
            raise LesionsegError(f"LESION.OPTIMIZER is SGD or ADAMW, not {cfg.LESION.OPTIMIZER}")
        groups = get_default_optimizer_params(
            model, cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM
        )
        optimizer = torch.optim.AdamW(
            groups, cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY, fused=True
        )
        return maybe_add_gradient_clipping(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        records = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
        lean = cfg.DATALOADER.SAMPLER_TRAIN == "TrainingSampler"
        return build_detection_train_loader(
            cfg,
            mapper=LesionMapper(cfg, augment=True, targets=True),
            dataset=records,
            sampler=LeanTrainingSampler(len(records)) if lean else None,
        )

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        mapper = LesionMapper(cfg, augment=False, targets=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluators:
        return build_evaluators(cfg, dataset_name)

    @classmethod
    def test(cls, cfg: CfgNode, model: torch.nn.Module, evaluators: Any = None) -> OrderedDict[str, Any]:
        """Scores of `model` on all of DATASETS.TEST: {data set: {task: {metric: value}}}.

        Unlike DefaultTrainer.test the data set's name is there also when there is only one. COCO metrics are in
        percent as COCOEvaluator gives them, ISIC metrics in [0, 1].
        """
        results: OrderedDict[str, Any] = OrderedDict()
        for index, name in enumerate(cfg.DATASETS.TEST):
            evaluator = cls.build_evaluator(cfg, name) if evaluators is None else evaluators[index]
            with autocast(torch.device(cfg.MODEL.DEVICE), cfg.LESION.BF16):
                results[name] = inference_on_dataset(model, cls.build_test_loader(cfg, name), evaluator) or {}
            if comm.is_main_process():
                logger.info(f"scores on {name}:")
                print_csv_format(results[name])
        return results

    def _evaluate(self) -> dict[str, Any]:
        """Scores and validation loss, kept in `evaluations` for the hooks that choose by them."""
        share_buffers(self.model)
        results: dict[str, Any] = dict(self.test(self.cfg, self.model))
        first = self.cfg.DATASETS.TEST[0]
        if self.cfg.LESION.VAL_LOSS_IMAGES != 0:
            losses = validation_loss(self.cfg, self.model, first, self.cfg.LESION.VAL_LOSS_IMAGES)
            results[first] = {**results[first], **losses}
        self.evaluations.append((self.iter, flatten_results_dict(results[first])))
        self._last_eval_results = results
        return results

    def build_hooks(self) -> list[hooks.HookBase | None]:
        cfg = self.cfg
        main = comm.is_main_process()
        return [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, max_to_keep=1)
            if main
            else None,
            hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate) if cfg.DATASETS.TEST else None,
            BestCheckpoint(cfg.LESION.BEST_METRIC, cfg.LESION.EARLY_STOP_PATIENCE)
            if cfg.DATASETS.TEST
            else None,
            hooks.PeriodicWriter(self.build_writers(), period=20) if main else None,
            ProgressBar(self.stage, cfg.LESION.BEST_METRIC) if main else None,
        ]

    def resume_or_load(self, resume: bool = True) -> None:
        """As DefaultTrainer's; a resumed run draws other random numbers than its first iterations did."""
        super().resume_or_load(resume)
        if self.start_iter > 0 and self.cfg.SEED >= 0:
            seed_all_rng(self.cfg.SEED + comm.get_rank() + self.start_iter)
            self._trainer.data_loader = self.build_train_loader(self.cfg)

    def stop_early(self, reason: str) -> None:
        """End training after the current iteration."""
        if self.iter + 1 < self.max_iter:
            self._stop_reason = reason

    def train(self) -> dict[str, Any] | None:
        """Run to the end, or to `stop_early`; returns the last scores."""
        with EventStorage(self.start_iter) as self.storage:
            try:
                self.before_train()
                for iteration in range(self.start_iter, self.max_iter):
                    self.iter = iteration
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    if self._stop_reason:
                        logger.info(f"stopped early at iteration {self.iter + 1}: {self._stop_reason}")
                        break
                self.iter += 1
            finally:
                self.after_train()
        if self._stop_reason:
            self.checkpointer.save(FINAL, iteration=self.iter - 1)
        return getattr(self, "_last_eval_results", None)
