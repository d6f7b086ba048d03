"""Starting the processes of a run: how many, on which device, with which log and seed."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable

import detectron2
import torch
from detectron2.config import CfgNode
from detectron2.engine import launch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from lesionseg.config import available_device
from lesionseg.errors import LesionsegError

logger = logging.getLogger(__name__)

# Detectron2 logs under the name it was imported by, which for the copy in LabGym is another one.
LOGGERS = tuple(dict.fromkeys(("fvcore", "lesionseg", "detectron2", detectron2.__name__)))


def processes(device: str, num_gpus: int) -> tuple[str, int]:
    """Device and number of processes on this machine for MODEL.DEVICE and `--num-gpus`.

    `--num-gpus 0` means the CPU, and so does 1 (the default) where there is no CUDA. With MODEL.DEVICE cpu the
    number is that of CPU processes, which talk through gloo.

    Raises:
        LesionsegError: more GPUs asked for than there are, or several and a particular one.
    """
    if device == "cpu" or num_gpus == 0:
        return "cpu", max(1, num_gpus)
    if num_gpus > 1 and ":" in device:
        raise LesionsegError(
            f"MODEL.DEVICE {device} names one GPU, --num-gpus {num_gpus} asks for several: leave one of them out, and choose GPUs "
            "with CUDA_VISIBLE_DEVICES"
        )
    found = torch.cuda.device_count()
    if num_gpus > max(1, found):
        raise LesionsegError(
            f"--num-gpus {num_gpus}: this machine has {found} CUDA device(s). Ask for no more than that; to train with "
            f"{num_gpus} processes on the CPU add MODEL.DEVICE cpu"
        )
    return available_device(device), num_gpus


def start(work: Callable[[argparse.Namespace], None], args: argparse.Namespace, cfg: CfgNode) -> None:
    """Run `work(args)` in the processes that `processes` decides on, by Detectron2's `launch`.

    A process that torchrun started is one of them already: it joins the others.

    Raises:
        LesionsegError: the arguments, or what a process found to be a user's mistake.
    """
    under_torchrun = torch.distributed.is_torchelastic_launched()
    if under_torchrun and args.num_gpus:
        args.num_gpus = int(os.environ["LOCAL_WORLD_SIZE"])
    device, count = processes(cfg.MODEL.DEVICE, args.num_gpus)
    args.opts = [*args.opts, "MODEL.DEVICE", device]
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # `launch` takes NCCL wherever a process sees a GPU
    if under_torchrun:
        _join_torchrun(device)
        work(args)
        return
    _check_machines(args)
    try:
        launch(work, count, args.num_machines, args.machine_rank, args.dist_url, args=(args,))
    except torch.multiprocessing.ProcessRaisedException as error:
        # Of an exception in another process only its traceback's text arrives here.
        _, marker, message = str(error).rpartition(f"{LesionsegError.__module__}.{LesionsegError.__name__}: ")
        if not marker:
            raise
        raise LesionsegError(message.strip()) from None


def _check_machines(args: argparse.Namespace) -> None:
    if not 0 <= args.machine_rank < args.num_machines:
        raise LesionsegError(
            f"--machine-rank {args.machine_rank}: with --num-machines {args.num_machines} the machines have the ranks "
            f"0 to {args.num_machines - 1}"
        )
    if args.num_machines > 1 and args.dist_url == "auto":
        raise LesionsegError(
            "--dist-url auto is for one machine; give all of them the same tcp://HOST:PORT, with a HOST of rank 0"
        )


def _join_torchrun(device: str) -> None:
    """What `launch` does in a new process, with the rank and the meeting place that torchrun names."""
    if device == "cpu":
        torch.distributed.init_process_group("gloo", timeout=DEFAULT_TIMEOUT)
    else:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("nccl", timeout=DEFAULT_TIMEOUT)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()


def setup_process(cfg: CfgNode, args: argparse.Namespace) -> None:
    """What Detectron2's `default_setup` does, without touching a run's config.yaml: log, environment, seed."""
    rank = comm.get_rank()
    for name in LOGGERS:
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name=name)
    logger.info(f"process {rank} of {comm.get_world_size()}; arguments: {args}")
    logger.info("environment:\n" + collect_env_info())
    logger.info("configuration:\n" + cfg.dump())
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    seed_process(cfg)


def seed_process(cfg: CfgNode) -> None:
    """Every process draws its own random numbers, the same ones in every run of one cfg.SEED (below 0: new ones)."""
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
