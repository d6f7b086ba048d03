"""From a folder of photographs to masks on disk: tools/predict.py's way against a plain DefaultPredictor loop.

python benchmarks/predict.py --images DIR [--model output/isic_mrcnn] [--device cuda] [--limit N] [--rounds N] [--out FILE.json]
    [KEY VALUE ...]

Both use the same weights, test size and device or processor cores, and write the same files: a mask PNG an image, COCO
results with RLE, a CSV. On a CPU the same is done with the model exported to OpenVINO, as bfloat16 and int8 (calibrated on
these images). They take turns; medians are reported. `dice_with_default_predictor` compares masks with the loop's; with --masks,
`dice` is each one's mean against the reference masks. Processor seconds are given too: they bear a busy machine better. A
small set is copied to about 1,000 files, so that starting processes counts as little as it does in a real folder.

Without --model, weights are random, and this is about speed alone: configs/isic_mrcnn.yaml against the model zoo's own
configuration, at 512 px (see peers.py, which does the same with one image at a time). Random weights bear no rounding, so
that exported models then are taken without being checked against the original.

What brings torch is imported where it is used: worker processes
of an exported model read this file again, and are to be as light as those of tools/predict.py.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import shutil
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lesionseg.errors import LesionsegError, run_tool
from lesionseg.images import read_mask
from lesionseg.metrics import confusion, dice
from lesionseg.predict_run import open_predictor, predict_images
from lesionseg.runs import Model, find_model
from lesionseg.stream import ImageStream

SAVE = ("mask", "json", "csv")
RANDOM_SIZE = 512  # px, where weights are random
Ways = dict[str, Callable[[Path, Path], None]]


def plain_loop(predictor: ImageStream, model: Any, photographs: Path, out: Path) -> None:
    """What one writes with Detectron2 alone: read, predict, write; one image after the other."""
    from detectron2.data.detection_utils import read_image
    from detectron2.evaluation.coco_evaluation import instances_to_coco_json

    from lesionseg.masks import lesion_mask

    lesion, results, rows = predictor.cfg.LESION, [], []
    for number, path in enumerate(sorted(photographs.rglob("*.*")), start=1):
        instances = model(read_image(str(path), format="BGR"))["instances"].to("cpu")
        mask = lesion_mask(instances, lesion.MASK_SELECTION, lesion.ONE_REGION)
        target = out / "mask" / path.parent.name / f"{path.stem}_segmentation.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), mask.astype(np.uint8) * 255)
        found = instances_to_coco_json(instances, number)
        areas = instances.pred_masks.sum(dim=(1, 2)).tolist()
        results += found
        rows += [[path.name, *r["bbox"], r["score"], area] for r, area in zip(found, areas, strict=True)]
    (out / "predictions.json").write_text(json.dumps(results))
    with open(out / "predictions.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)


def mean_dice(predicted: Path, reference: Path, flat: bool = False) -> float:
    """Of the mask files below a folder against those of the same names, or (flat) of the same file names, in another."""
    files = sorted(predicted.rglob("*.png"))
    pairs = [(f, reference / (f.name if flat else f.relative_to(predicted))) for f in files]
    return statistics.fmean(dice(confusion(read_mask(theirs), read_mask(ours))) for ours, theirs in pairs)


def copy_images(images: list[Path], folder: Path, copies: int) -> Path:
    """Files of their own, so that none is recognised as another."""
    for number in range(copies):
        (folder / f"copy{number}").mkdir(parents=True)
        for image in images:
            shutil.copyfile(image, folder / f"copy{number}" / image.name)
    return folder


def predict_folder(args: argparse.Namespace, predictor: ImageStream, photographs: Path, out: Path) -> None:
    """What tools/predict.py does."""
    predict_images(predictor, [photographs], out, SAVE, args.batch_size, args.workers)


def open_ways(args: argparse.Namespace, images: list[Path], folder: Path) -> tuple[Ways, Any]:
    """Name -> function of the photographs' folder and the output folder; and the original model."""
    usual, original = (
        trained_predictors(args) if args.model else untrained_predictors(args, images[0], folder)
    )
    ways = {
        "default_predictor": partial(plain_loop, original, usual),
        "lesionseg": partial(predict_folder, args, original),
    }
    for name, predictor in exported_predictors(args, original, images, folder).items():
        ways[f"lesionseg_{name}"] = partial(predict_folder, args, predictor)
    return ways, original


def trained_predictors(args: argparse.Namespace) -> tuple[Any, Any]:
    """Detectron2's DefaultPredictor and ours, of --model."""
    from detectron2.engine import DefaultPredictor

    from lesionseg import LesionPredictor
    from lesionseg.config import setup_cfg

    files = find_model(args.weights, Path(args.model) / "config.yaml")
    original = LesionPredictor(setup_cfg(files.config, args.opts), files.weights, args.device)
    return DefaultPredictor(original.cfg), original


def untrained_predictors(args: argparse.Namespace, image: Path, folder: Path) -> tuple[Any, Any]:
    """The same with random weights."""
    from peers import random_predictors

    from lesionseg.images import read_image
    from lesionseg.precision import has_bf16

    device = args.device or "cpu"
    usual, ours = random_predictors(RANDOM_SIZE, read_image(image), folder, device)
    return usual, ours["bf16" if has_bf16(device) else "float32"]


def exported_predictors(
    args: argparse.Namespace, original: Any, images: list[Path], folder: Path
) -> dict[str, ImageStream]:
    """On a CPU, what tools/export_model.py makes of the model for OpenVINO."""
    from lesionseg.agreement import Limits
    from lesionseg.export import export_model

    found: dict[str, ImageStream] = {}
    photographs = [str(path) for path in images]
    unchecked = Limits(score=1.0, box=0.0, mask=0.0, missing=1e9, lesion=0.0, jaccard_drop=1.0)
    limits = None if args.model else unchecked
    for precision in ("bf16", "int8") if original.on_cpu else ():
        out = folder / f"{precision}.xml"
        weights = original.cfg.MODEL.WEIGHTS
        try:
            export_model(
                original.cfg, weights, out, "openvino", precision, photographs, photographs, limits=limits
            )
        except LesionsegError as error:
            print(f"the model exported as {precision} is left out: {error}")
            continue
        found[f"openvino_{precision}"] = open_predictor(Model(out, out, "benchmark"))
    return found


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Time all ways in turn."""
    from common import image_files, take_turns

    from lesionseg.precision import use_bf16

    found = image_files(Path(args.images))[: args.limit or None]
    copies = args.copies or max(1, 1000 // len(found))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ways, predictor = open_ways(args, found, folder)
        few, many = copy_images(found[:2], folder / "few", 1), copy_images(found, folder / "many", copies)

        def turn(way: str, number: int) -> None:
            (folder / f"{way}{number}").mkdir()
            ways[way](many if number else few, folder / f"{way}{number}")

        timings = take_turns({way: partial(turn, way) for way in ways}, args.rounds)
        masks = {way: folder / f"{way}1/mask" for way in ways}
        plain = masks["default_predictor"]
        between = {
            way: round(mean_dice(path / "copy0", plain / "copy0"), 5)
            for way, path in masks.items()
            if args.model
        }
        against = {
            way: round(mean_dice(path / "copy0", Path(args.masks), flat=True), 5)
            for way, path in masks.items()
            if args.masks
        }
    count = copies * len(found)
    rates = {way: count / timing.median() for way, timing in timings.items()}
    cfg = predictor.cfg
    return {
        "images": count,
        "different_images": len(found),
        "folder": Path(args.images).name,
        "test_size": cfg.INPUT.MIN_SIZE_TEST,
        "weights": "trained" if args.model else "random",
        "backbone": f"R{cfg.MODEL.RESNETS.DEPTH}-FPN",
        "device": predictor.device.type,
        "bf16": use_bf16(predictor.device, cfg.LESION.BF16),
        "images_per_second": {way: round(rate, 3) for way, rate in rates.items()},
        "ratio": round(rates["lesionseg"] / rates["default_predictor"], 2),
        "ratios": {way: round(rate / rates["default_predictor"], 2) for way, rate in rates.items()},
        "processor_seconds_an_image": {
            way: round(timing.median_processor() / count, 4) for way, timing in timings.items()
        },
        "dice_with_default_predictor": between,
        "dice": against,
        "seconds": {way: [round(value, 2) for value in timing.seconds] for way, timing in timings.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="run folder (default: random weights, see above)")
    parser.add_argument("--weights", default="", help="checkpoint (default: the run folder's)")
    parser.add_argument("--device", help="cpu or cuda (default: the run's, or cpu for random weights)")
    parser.add_argument("--images", required=True, help="folder of photographs")
    parser.add_argument("--masks", help="folder of reference masks, ISIC_x_segmentation.png")
    parser.add_argument("--limit", type=int, default=0, help="only the first N images")
    parser.add_argument(
        "--copies", type=int, help="take each so many times (default: for about 1,000 images)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    figures = measure(args)
    from common import write_result

    write_result(args.out, figures)
    return 0


if __name__ == "__main__":
    run_tool(main)
