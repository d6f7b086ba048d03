"""A whole run: heads first, then all layers at a lower rate, each resumable; and what a run folder records."""

from __future__ import annotations

import csv
import json
import logging
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultTrainer
from detectron2.utils import comm
from tqdm.contrib.logging import logging_redirect_tqdm

import lesionseg
from lesionseg._detectron2 import origin
from lesionseg.checkpoint import BEST, FINAL, require_weights
from lesionseg.config import setup_cfg
from lesionseg.errors import LesionsegError
from lesionseg.images import atomic_write
from lesionseg.launching import LOGGERS
from lesionseg.metrics import ISIC_METRICS
from lesionseg.register import read_coco, require
from lesionseg.trainer import LesionTrainer

logger = logging.getLogger(__name__)

HEADS_FOLDER = "heads"
LICENSES_FILE = "licenses.json"
# Average precision, also of one class or size, and losses: what Detectron2 names.
_OTHER_METRICS = re.compile(r"(segm|bbox)/AP\S*|loss\w*")
FREEZE_ALL = 5  # MODEL.BACKBONE.FREEZE_AT: stem and all four residual stages


def complete_cfg(cfg: CfgNode, world_size: int | None = None) -> CfgNode:
    """Fill in what depends on the data and on the number of processes (default: of this run); returns a frozen copy.

    - LESION.CLASSES and MODEL.ROI_HEADS.NUM_CLASSES from the first training set;
    - batch, rate, iterations and warm-up for `world_size` processes, see `_scaled`;
    - epochs into iterations, for the number of training images and the batch at hand.

    Raises:
        LesionsegError: unknown data set, classes that differ between data sets, batch not divisible.
    """
    world_size = world_size or comm.get_world_size()
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    require(names, cfg.LESION.DATA_ROOT)
    cfg = _scaled(cfg, world_size)
    classes = {name: tuple(MetadataCatalog.get(name).thing_classes) for name in names}
    if len(set(classes.values())) > 1:
        raise LesionsegError(
            f"the data sets do not have the same classes: {classes}; prepare them with the same --classes"
        )
    cfg.LESION.CLASSES = classes[names[0]]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(cfg.LESION.CLASSES)
    if cfg.SOLVER.IMS_PER_BATCH % world_size:
        raise LesionsegError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be divided among {world_size} processes"
        )
    if cfg.SOLVER.IMS_PER_BATCH < 1:
        raise LesionsegError(f"SOLVER.IMS_PER_BATCH is 1 or more, not {cfg.SOLVER.IMS_PER_BATCH}")
    images = sum(len(DatasetCatalog.get(name)) for name in cfg.DATASETS.TRAIN)
    schedule, per_epoch = cfg.LESION.SCHEDULE, images / cfg.SOLVER.IMS_PER_BATCH
    if schedule.ALL_EPOCHS > 0:
        cfg.SOLVER.MAX_ITER = max(1, round(schedule.ALL_EPOCHS * per_epoch))
    if schedule.HEADS_EPOCHS > 0:
        schedule.HEADS_ITERS = max(1, round(schedule.HEADS_EPOCHS * per_epoch))
    if schedule.EVAL_EPOCHS > 0:
        cfg.TEST.EVAL_PERIOD = max(1, round(schedule.EVAL_EPOCHS * per_epoch))
        cfg.SOLVER.CHECKPOINT_PERIOD = cfg.TEST.EVAL_PERIOD
    # Now in iterations: a complete cfg that is read back from config.yaml must not be converted again.
    schedule.ALL_EPOCHS = schedule.HEADS_EPOCHS = schedule.EVAL_EPOCHS = 0.0
    cfg.freeze()
    return cfg


def _scaled(cfg: CfgNode, world_size: int) -> CfgNode:
    """A copy for another number of processes than SOLVER.REFERENCE_WORLD_SIZE (0: for any), which is `world_size` then.

    Detectron2's rule (Goyal et al. 2017, "Accurate, Large Minibatch SGD") makes batch and rate larger and iterations fewer in
    proportion. Besides: as many iterations of warm-up as before, but at most a third of a stage, since the rate is higher;
    and for AdamW a rate that grows with the root of the batch (Malladi et al. 2022, "On the SDEs and Scaling Rules for
    Adaptive Gradient Algorithms").
    """
    before = cfg.SOLVER.REFERENCE_WORLD_SIZE or world_size
    times = world_size / before
    scaled = DefaultTrainer.auto_scale_workers(cfg, world_size).clone()
    scaled.defrost()
    schedule = scaled.LESION.SCHEDULE
    if schedule.HEADS_ITERS > 0:  # 0 leaves the stage out
        schedule.HEADS_ITERS = max(1, round(schedule.HEADS_ITERS / times))
    if times > 1:
        schedule.WARMUP_SHARE = max(schedule.WARMUP_SHARE, min(1 / 3, schedule.WARMUP_SHARE * times))
    if cfg.LESION.OPTIMIZER == "ADAMW":
        scaled.SOLVER.BASE_LR = cfg.SOLVER.BASE_LR * times**0.5
    return scaled


def _warn_of_test_part(name: str) -> None:
    """That a data set which is to choose the checkpoint is a test part."""
    if read_coco(MetadataCatalog.get(name).json_file)["info"]["split"] == "test":
        logger.warning(
            "%s is the test part of its data set, and model_best.pth is chosen by its scores, which then are no test; "
            "name a validation part in DATASETS.TEST",
            name,
        )


def stage_cfgs(cfg: CfgNode) -> list[tuple[str, CfgNode]]:
    """The stages of a run, in order, as (name, cfg). `cfg` is complete (see `complete_cfg`)."""
    stages = []
    all_layers = cfg.clone()
    all_layers.defrost()
    if cfg.LESION.SCHEDULE.HEADS_ITERS > 0:
        heads = cfg.clone()
        heads.defrost()
        heads.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / HEADS_FOLDER)
        heads.MODEL.BACKBONE.FREEZE_AT = FREEZE_ALL
        heads.SOLVER.MAX_ITER = cfg.LESION.SCHEDULE.HEADS_ITERS
        stages.append((HEADS_FOLDER, heads))
        # Without validation images there is no best one.
        start = BEST if cfg.DATASETS.TEST else FINAL
        all_layers.MODEL.WEIGHTS = str(Path(heads.OUTPUT_DIR) / f"{start}.pth")
        all_layers.SOLVER.BASE_LR = cfg.SOLVER.BASE_LR * cfg.LESION.SCHEDULE.ALL_LR_FACTOR
    stages.append(("all", all_layers))
    for _, stage in stages:
        if stage.LESION.SCHEDULE.WARMUP_SHARE > 0:
            stage.SOLVER.WARMUP_ITERS = round(stage.LESION.SCHEDULE.WARMUP_SHARE * stage.SOLVER.MAX_ITER)
        stage.freeze()
    return stages


def check_output(output_dir: str | Path, resume: bool) -> None:
    """Refuse to train over an existing run.

    Raises:
        LesionsegError: `output_dir` holds a run and `resume` is not set.
    """
    folder = Path(output_dir)
    if resume or not any((folder / part / "last_checkpoint").exists() for part in ("", HEADS_FOLDER)):
        return
    raise LesionsegError(
        f"{folder} already holds a run. Add --resume to continue it, or OUTPUT_DIR other/folder for a new one"
    )


def check_metric(metric: str) -> None:
    """Refuse a LESION.BEST_METRIC that no evaluation gives, before hours of training.

    Raises:
        LesionsegError: an unknown metric.
    """
    isic = [f"isic/{name}" for name in ISIC_METRICS]
    if metric not in isic and not _OTHER_METRICS.fullmatch(metric):
        raise LesionsegError(
            f"LESION.BEST_METRIC is {metric}, which the evaluation does not give; choose one of {', '.join(isic)}, "
            "segm/AP, segm/AP50, bbox/AP, bbox/AP50, loss"
        )


def check_resumed(cfg: CfgNode) -> None:
    """Refuse to go on with another model than the one that cfg.OUTPUT_DIR holds.

    Raises:
        LesionsegError: other classes, or another network.
    """
    path = Path(cfg.OUTPUT_DIR) / "config.yaml"
    if not path.is_file():
        return
    parts = []
    for run in (setup_cfg(path), cfg):
        model = run.MODEL.clone()
        model.defrost()
        model.WEIGHTS = model.DEVICE = ""
        parts.append((list(run.LESION.CLASSES), yaml.safe_load(model.dump())))
    if parts[0] != parts[1]:
        what = "other classes" if parts[0][0] != parts[1][0] else "another network (MODEL.*)"
        raise LesionsegError(
            f"{path}: the run there has {what}; --resume goes on with the same. Add OUTPUT_DIR other/folder for a new run"
        )


def train_stages(cfg: CfgNode, resume: bool) -> dict[str, Any] | None:
    """Train all stages of a complete cfg; a finished stage is not repeated. Returns the last scores.

    The run folder cfg.OUTPUT_DIR ends with config.yaml, versions.json, data/*.csv, metrics.json, TensorBoard
    events, model_best.pth, model_final.pth and inference/; stage 1 has a folder of its own below it, heads/.

    Raises:
        LesionsegError: weights that cannot be had, a loss that is not finite, an unknown metric.
    """
    check_metric(cfg.LESION.BEST_METRIC)
    if resume:
        check_resumed(cfg)
    stages, results = stage_cfgs(cfg), None
    finished = [resume and (Path(stage.OUTPUT_DIR) / f"{FINAL}.pth").exists() for _, stage in stages]
    comm.synchronize()
    if comm.is_main_process() and not all(finished):  # a finished run's config.yaml may have been tuned since
        write_run_record(cfg)
        if cfg.DATASETS.TEST:
            _warn_of_test_part(cfg.DATASETS.TEST[0])
    for (name, stage), done in zip(stages, finished, strict=True):
        if done:
            logger.info(f"stage {name} is finished already")
            continue
        last = Path(stage.OUTPUT_DIR) / "last_checkpoint"
        resumes = resume and last.exists()
        require_weights(str(last.with_name(last.read_text().strip())) if resumes else stage.MODEL.WEIGHTS)
        logger.info(f"stage {name}: {stage.SOLVER.MAX_ITER} iterations at rate {stage.SOLVER.BASE_LR:g}")
        Path(stage.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
        trainer = LesionTrainer(stage, name)
        trainer.resume_or_load(resume)
        # Log lines go above the progress bar instead of through it.
        with logging_redirect_tqdm([logging.getLogger(logger_name) for logger_name in LOGGERS]):
            results = trainer.train()
        comm.synchronize()
    return results


def evaluate_run(cfg: CfgNode, weights: str = "") -> dict[str, Any]:
    """Scores on DATASETS.TEST of `weights`, or of model_best.pth in cfg.OUTPUT_DIR.

    Raises:
        LesionsegError: there are no such weights.
    """
    weights = weights or str(Path(cfg.OUTPUT_DIR) / f"{BEST}.pth")
    require_weights(weights)
    logger.info(f"evaluating {weights}")
    model = LesionTrainer.build_model(cfg)
    DetectionCheckpointer(model).load(weights)
    return LesionTrainer.test(cfg, model)


def write_run_record(cfg: CfgNode) -> None:
    """config.yaml, versions.json, data/<data set>.csv (the rows of split.csv it consists of) and data/licenses.json."""
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    _write_text(folder / "config.yaml", cfg.dump())
    _write_text(folder / "versions.json", json.dumps(versions(), indent=2) + "\n")
    (folder / "data").mkdir(exist_ok=True)
    licenses = {
        name: read_coco(MetadataCatalog.get(name).json_file)["licenses"][0]["name"]
        for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    }
    _write_text(folder / "data" / LICENSES_FILE, json.dumps(licenses, indent=2) + "\n")
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        split_csv = Path(MetadataCatalog.get(name).json_file).parent / "split.csv"
        ids = {record["sample_id"] for record in DatasetCatalog.get(name)}
        with open(split_csv, newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if row["id"] in ids]
        with (
            atomic_write(folder / "data" / f"{name}.csv") as temporary,
            open(temporary, "w", newline="") as file,
        ):
            writer = csv.DictWriter(file, fieldnames=reader.fieldnames or [])
            writer.writeheader()
            writer.writerows(rows)


def versions() -> dict[str, str]:
    """Versions of everything that computes: what a reader needs to rebuild the environment of a run."""
    names = (
        "torch",
        "torchvision",
        "numpy",
        "opencv-python",
        "pycocotools",
        "fvcore",
        "iopath",
        "Pillow",
        "matplotlib",
    )
    found = {"lesionseg": lesionseg.__version__, "python": platform.python_version(), "detectron2": origin()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed under this name"
    found["platform"] = platform.platform()
    found["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return found


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        Path(temporary).write_text(text)
