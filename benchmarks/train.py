"""Training: LesionTrainer on a prepared data set against Detectron2's plain DefaultTrainer on the originals.

python benchmarks/train.py --data DIR [--device cuda] [--max-size PX] [--config-file FILE] [--rounds N] [--out FILE.json]
    [KEY VALUE ...]

DIR holds images/ and masks/ at native size. The plain way is what one writes with Detectron2 alone: the files as they are,
registered as COCO with RLE masks, its DatasetMapper with its default augmentations. Ours reads the reduced copies that
`prepare_dataset.py --max-size` makes, and augments more. Both have the same network, input sizes, batch and loader workers,
and take turns. Measured twice: the loader alone, which is what a device faster than the loader sees ("reading"), and the
whole loop on this machine ("loop"), ours in mixed precision on a CPU too, which Detectron2 has for GPUs only.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from common import take_turns, write_result
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.engine import DefaultTrainer
from detectron2.utils.events import EventStorage

from lesionseg.config import setup_cfg
from lesionseg.errors import run_tool
from lesionseg.prepare import prepare
from lesionseg.prepared import PrepareOptions
from lesionseg.stages import complete_cfg
from lesionseg.trainer import LesionTrainer


class PlainTrainer(DefaultTrainer):
    """DefaultTrainer as it is, without the periodic evaluation."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        return build_detection_train_loader(cfg)

    def build_hooks(self) -> list[Any]:
        return []


class OurTrainer(LesionTrainer):
    """LesionTrainer without the periodic evaluation."""

    def build_hooks(self) -> list[Any]:
        return []


def build_cfg(args: argparse.Namespace, root: Path, name: str, max_size: int | None) -> CfgNode:
    """The cfg of a run on the data set `name`, made below `root`; the same four fifths of the images train in each."""
    masks = args.data / "masks"
    prepare(PrepareOptions(args.data / "images", masks, root / name, split="0.8/0.2", max_size=max_size))
    # Detectron2's own mixed precision is for GPUs only.
    amp = ["SOLVER.AMP.ENABLED", "False"] if name != "reduced" and args.device == "cpu" else []
    base = ["DATASETS.TRAIN", f"('{name}_train',)", "DATASETS.TEST", "()", "LESION.DATA_ROOT", str(root)]
    base += ["OUTPUT_DIR", str(root / "run"), "MODEL.WEIGHTS", "", *amp]
    base += ["MODEL.DEVICE", args.device, *args.opts]
    return complete_cfg(setup_cfg(args.config_file, base))


def take(iterator: Any, batches: int, _round: int) -> None:
    for _ in range(batches):
        next(iterator)


def steps(trainer: Any, count: int, _round: int) -> None:
    trainer.model.train()
    for _ in range(count):
        trainer.iter += 1
        trainer.run_step()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Images per second of both ways, reading alone and the whole loop."""
    with tempfile.TemporaryDirectory() as name:
        ours = build_cfg(args, Path(name), "reduced", args.max_size)
        trainers = {
            "default_trainer": PlainTrainer(build_cfg(args, Path(name), "originals", None)),
            "lesionseg": OurTrainer(ours),
        }
        loaders = {way: iter(trainer.build_train_loader(trainer.cfg)) for way, trainer in trainers.items()}
        batch = ours.SOLVER.IMS_PER_BATCH
        reading = take_turns(
            {way: partial(take, loader, args.batches) for way, loader in loaders.items()}, args.rounds
        )
        del loaders
        with EventStorage():
            for trainer in trainers.values():
                trainer.iter = 0
            loop = take_turns(
                {way: partial(steps, trainer, args.steps) for way, trainer in trainers.items()}, args.rounds
            )
        rates = {
            "reading": {way: batch * args.batches / timing.median() for way, timing in reading.items()},
            "loop": {way: batch * args.steps / timing.median() for way, timing in loop.items()},
        }
        return {
            "data": args.data.name,
            "max_size": args.max_size,
            "config": Path(args.config_file).name,
            "input_size": list(ours.INPUT.MIN_SIZE_TRAIN),
            "batch": batch,
            "loader_workers": ours.DATALOADER.NUM_WORKERS,
            "device": ours.MODEL.DEVICE,
            "images_per_second": {
                what: {way: round(rate, 2) for way, rate in found.items()} for what, found in rates.items()
            },
            "ratio": {
                what: round(found["lesionseg"] / found["default_trainer"], 2) for what, found in rates.items()
            },
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with images/ and masks/")
    parser.add_argument("--device", default="cpu", help="cpu (default), or cuda")
    parser.add_argument("--max-size", type=int, default=512, help="long side of the reduced copies in px")
    parser.add_argument("--config-file", default="configs/isic_mrcnn_scratch.yaml")
    parser.add_argument("--batches", type=int, default=24, help="a turn, reading alone (some are read ahead)")
    parser.add_argument("--steps", type=int, default=8, help="a turn, the whole loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    write_result(args.out, measure(args))


if __name__ == "__main__":
    run_tool(main)
