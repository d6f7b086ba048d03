"""Does the faster training loop learn as well? Jaccard index of both ways of benchmarks/train.py, over several seeds.

python benchmarks/train_score.py --data DIR [--images N] [--seeds S ...] [--epochs E] [--processes P] [--out FILE.json]

Trains on N images of DIR (images/, masks/), four fifths of them training data: DefaultTrainer on the files as they are,
LesionTrainer on copies reduced by `prepare_dataset.py --max-size` with DefaultTrainer's augmentation (what differs is what makes
it fast), and LesionTrainer with its own; same network, schedule and seeds. All are scored alike, on the other fifth at its own
size. Not part of `make bench`: it takes some minutes for each seed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import multiprocessing
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import image_files, spread, write_result
from detectron2.config import CfgNode
from detectron2.engine import hooks
from detectron2.utils.env import seed_all_rng
from train import OurTrainer, PlainTrainer

from lesionseg.config import setup_cfg
from lesionseg.errors import run_tool
from lesionseg.prepare import prepare
from lesionseg.prepared import PrepareOptions
from lesionseg.stages import complete_cfg, stage_cfgs
from lesionseg.trainer import LesionTrainer

WAYS = ("default_trainer", "lesionseg_same_augmentation", "lesionseg")
# DefaultTrainer's augmentation is a left-right flip.
SAME_AUGMENTATION = "VFLIP 0.0 AFFINE 0.0 CROP 0.0 BRIGHTNESS 0.0 CONTRAST 0.0 SATURATION 0.0 HUE 0.0 HAIR 0.0 DARK_CORNERS 0.0"


class Ours(OurTrainer):
    """With the learning rate's schedule, which `train.py`, measuring speed, leaves out."""

    def build_hooks(self) -> list[Any]:
        return [hooks.LRScheduler()]


class Plain(PlainTrainer):
    """The same, with the optimiser of the configuration: DefaultTrainer knows SGD only."""

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        return LesionTrainer.build_optimizer(cfg, model)

    def build_hooks(self) -> list[Any]:
        return [hooks.LRScheduler()]


def make_data(data: Path, root: Path, count: int, max_size: int) -> None:
    """Data sets `originals` and `reduced` below `root`, with the same split."""
    for image in spread(image_files(data / "images"), count):
        mask = data / "masks" / f"{image.stem}_segmentation.png"
        for folder, file in (("images", image), ("masks", mask)):
            (root / "files" / folder).mkdir(parents=True, exist_ok=True)
            (root / "files" / folder / file.name).symlink_to(file.resolve())
    for name, size in (("originals", None), ("reduced", max_size)):
        files = root / "files"
        prepare(
            PrepareOptions(files / "images", files / "masks", root / name, split="0.8/0.2", max_size=size)
        )


def train(job: tuple[str, int], root: Path, epochs: float, opts: list[str]) -> dict[str, Any]:
    """Train one way with one seed; its scores on the validation images at their own size."""
    way, seed = job
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    plain = way == "default_trainer"
    words = ["DATASETS.TRAIN", "('originals_train',)" if plain else "('reduced_train',)"]
    words += ["DATASETS.TEST", "('originals_val',)", "LESION.DATA_ROOT", str(root), "SEED", str(seed)]
    words += ["OUTPUT_DIR", str(root / f"{way}_{seed}"), "DATALOADER.NUM_WORKERS", "0", "LESION.BF16", "off"]
    words += ["MODEL.DEVICE", "cuda" if torch.cuda.is_available() else "cpu"]
    words += ["LESION.SCHEDULE.ALL_EPOCHS", str(epochs), "LESION.SCHEDULE.EVAL_EPOCHS", "0.0", *opts]
    if plain:  # Detectron2's own mixed precision is for GPUs only, and clips gradients before their scale is taken out
        words += ["SOLVER.AMP.ENABLED", "False"]
    if way == "lesionseg_same_augmentation":
        pairs = SAME_AUGMENTATION.split()
        words += [f"LESION.AUG.{word}" if word.isupper() else word for word in pairs]
    stages = stage_cfgs(complete_cfg(setup_cfg("configs/isic_mrcnn_scratch.yaml", words)))
    cfg = stages[-1][1]  # with its warm-up
    seed_all_rng(seed)
    with contextlib.redirect_stdout(io.StringIO()):  # COCO's tables
        trainer: Any = Plain(cfg) if plain else Ours(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
        scores = LesionTrainer.test(cfg, trainer.model.eval())["originals_val"]
    return {
        "way": way,
        "seed": seed,
        "jaccard": scores["isic"]["jaccard"],
        "segm_AP50": scores["segm"]["AP50"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with images/ and masks/")
    parser.add_argument("--images", type=int, default=500, help="take so many, evenly spread")
    parser.add_argument("--max-size", type=int, default=256, help="long side of the reduced copies in px")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--epochs", type=float, default=10.0)
    parser.add_argument("--processes", type=int, default=1, help="runs at a time, each on one core")
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        make_data(args.data, Path(name), args.images, args.max_size)
        work = partial(train, root=Path(name), epochs=args.epochs, opts=args.opts)
        jobs = [(way, seed) for seed in args.seeds for way in args.ways]
        runs = []
        with multiprocessing.get_context("spawn").Pool(args.processes, maxtasksperchild=1) as pool:
            for run in pool.imap_unordered(work, jobs, chunksize=1):
                print(run, flush=True)
                runs.append(run)
    means = {way: statistics.fmean(run["jaccard"] for run in runs if run["way"] == way) for way in args.ways}
    spreads = {
        way: statistics.stdev(run["jaccard"] for run in runs if run["way"] == way)
        for way in args.ways
        if len(args.seeds) > 1
    }
    write_result(
        args.out,
        {"data": args.data.name, "images": args.images, "epochs": args.epochs, "max_size": args.max_size,
         "runs": runs, "mean_jaccard": means, "deviation_over_seeds": spreads},
    )  # fmt: skip


if __name__ == "__main__":
    run_tool(main)
