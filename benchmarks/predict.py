"""From a folder of photographs to masks on disk: tools/predict.py's way against a plain DefaultPredictor loop.

python benchmarks/predict.py --model output/isic_mrcnn --images DIR [--limit N] [--rounds N] [--out FILE.json] [KEY VALUE ...]

Both use the same weights, test size and processor cores, and write the same files: a mask PNG an image, COCO results
with RLE, a CSV. They take turns; medians are reported. `dice_between` compares the masks of the two; with --masks, `dice` is
each one's mean against the reference masks. Processor seconds are given too: they bear a busy machine better.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import resource
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from common import image_files, take_turns, write_result

from lesionseg import LesionPredictor
from lesionseg.config import setup_cfg
from lesionseg.errors import run_tool
from lesionseg.images import read_mask
from lesionseg.masks import lesion_mask
from lesionseg.metrics import confusion, dice
from lesionseg.precision import use_bf16
from lesionseg.predict_run import predict_images
from lesionseg.runs import find_model


def plain_loop(predictor: LesionPredictor, model: Any, images: list[Path], out: Path) -> None:
    """What one writes with Detectron2 alone: read, predict, write; one image after the other."""
    from detectron2.data.detection_utils import read_image
    from detectron2.evaluation.coco_evaluation import instances_to_coco_json

    lesion, results, rows = predictor.cfg.LESION, [], []
    (out / "mask").mkdir(parents=True)
    for number, path in enumerate(images, start=1):
        instances = model(read_image(str(path), format="BGR"))["instances"].to("cpu")
        mask = lesion_mask(instances, lesion.MASK_SELECTION, lesion.ONE_REGION)
        cv2.imwrite(str(out / "mask" / f"{path.stem}_segmentation.png"), mask.astype(np.uint8) * 255)
        found = instances_to_coco_json(instances, number)
        areas = instances.pred_masks.sum(dim=(1, 2)).tolist()
        results += found
        rows += [[path.name, *r["bbox"], r["score"], area] for r, area in zip(found, areas, strict=True)]
    (out / "predictions.json").write_text(json.dumps(results))
    with open(out / "predictions.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)


def mean_dice(predicted: Path, reference: Path) -> float:
    """Of the mask files of a folder against those of the same names in another."""
    files = sorted(predicted.glob("*.png"))
    return statistics.fmean(dice(confusion(read_mask(reference / f.name), read_mask(f))) for f in files)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Time both ways in turn."""
    from detectron2.engine import DefaultPredictor

    files = find_model(args.weights, Path(args.model) / "config.yaml")
    predictor = LesionPredictor(setup_cfg(files.config, args.opts), files.weights)
    model = DefaultPredictor(predictor.cfg)
    images = image_files(Path(args.images))[: args.limit or None]
    save = ("mask", "json", "csv")
    ways: dict[str, Callable[[list[Path], Path], object]] = {
        "default_predictor": lambda some, out: plain_loop(predictor, model, some, out),
        "lesionseg": lambda some, out: predict_images(
            predictor, some, out, save, args.batch_size, args.workers
        ),
    }
    with tempfile.TemporaryDirectory() as folder:

        def turn(name: str, number: int) -> None:
            ways[name](images if number else images[:2], Path(folder, f"{name}{number}"))

        timings = take_turns({name: partial(turn, name) for name in ways}, args.rounds)
        masks = {name: Path(folder, f"{name}1/mask") for name in ways}
        between = mean_dice(masks["lesionseg"], masks["default_predictor"])
        against = {
            name: round(mean_dice(path, Path(args.masks)), 5) for name, path in masks.items() if args.masks
        }
    rates = {name: len(images) / timing.median() for name, timing in timings.items()}
    cfg = predictor.cfg
    return {
        "images": len(images),
        "folder": Path(args.images).name,
        "test_size": cfg.INPUT.MIN_SIZE_TEST,
        "backbone": f"R{cfg.MODEL.RESNETS.DEPTH}-FPN",
        "device": predictor.device.type,
        "bf16": use_bf16(predictor.device, cfg.LESION.BF16),
        "images_per_second": {name: round(rate, 3) for name, rate in rates.items()},
        "ratio": round(rates["lesionseg"] / rates["default_predictor"], 2),
        "processor_seconds_an_image": {
            name: round(timing.median_processor() / len(images), 4) for name, timing in timings.items()
        },
        "dice_between": round(between, 5),
        "dice": against,
        "seconds": {name: [round(value, 2) for value in timing.seconds] for name, timing in timings.items()},
        "peak_memory_of_a_worker_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="run folder")
    parser.add_argument("--weights", default="", help="checkpoint (default: the run folder's)")
    parser.add_argument("--images", required=True, help="folder of photographs")
    parser.add_argument("--masks", help="folder of reference masks, ISIC_x_segmentation.png")
    parser.add_argument("--limit", type=int, default=0, help="only the first N images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    write_result(args.out, measure(args))
    return 0


if __name__ == "__main__":
    run_tool(main)
