"""The same network by Detectron2 and as exported models: images per second on one core and on all, and Dice.

python benchmarks/runtimes.py --model output/isic_mrcnn --images DIR [--masks DIR] [--limit N] [--rounds N] [--out FILE.json]

Exports the run into a temporary folder first (int8 is calibrated on the images themselves). All take turns with the same
images, decoded and resized beforehand, one at a time: what is timed is the network with its post-processing, from uint8
pixels to boxes and small masks. With --masks, each one's mean Dice against the reference masks.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from common import cores, image_files, spread, take_turns, write_result

from lesionseg.config import setup_cfg
from lesionseg.errors import LesionsegError, run_tool
from lesionseg.export import export_model
from lesionseg.images import read_image, read_mask
from lesionseg.masks import configured_lesion_mask
from lesionseg.metrics import confusion, dice
from lesionseg.predict_run import open_predictor
from lesionseg.runs import FORMATS, Model, find_model
from lesionseg.stream import ImageStream, Slot

EXPORTS = (
    ("torchscript", "float32"),
    ("onnx", "float32"),
    ("openvino", "float32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)


def open_all(model: Model, images: list[Path], folder: Path, opts: list[str]) -> dict[str, ImageStream]:
    """The run in float32 and bfloat16, and each of its exports."""
    opts = [*opts, "MODEL.DEVICE", "cpu"]  # where exported models run
    predictors: dict[str, ImageStream] = {
        "detectron2 float32": open_predictor(model, [*opts, "LESION.BF16", "off"]),
        "detectron2 bf16": open_predictor(model, [*opts, "LESION.BF16", "on"]),
    }
    for form, precision in EXPORTS:
        out = folder / f"{form}_{precision}{FORMATS[form]}"
        files = [str(path) for path in images]
        try:
            export_model(setup_cfg(model.config, opts), model.weights, out, form, precision, files, files)
        except LesionsegError as error:  # differs too much from the original, or a package is missing
            print(f"{form} {precision} is left out: {error}")
            continue
        predictors[f"{form} {precision}"] = open_predictor(Model(out, out, "benchmark"))
    return predictors


def run_network(predictor: ImageStream, images: list[Path], _round: int) -> None:
    """All images through the network, one at a time."""
    for path in images:
        predictor.network([prepared(predictor, path)])


_SLOTS: dict[Path, Slot] = {}


def prepared(predictor: ImageStream, path: Path) -> Slot:
    """An image at the network's size; the same for all predictors."""
    if path not in _SLOTS:
        _SLOTS[path] = predictor._read(path)
    return _SLOTS[path]


def mean_dice(predictor: ImageStream, images: list[Path], masks: Path) -> float:
    """Of the lesion masks against ISIC's files of reference masks."""
    scores = []
    for path in images:
        found = configured_lesion_mask(predictor.cfg, predictor(read_image(path)))
        scores.append(dice(confusion(read_mask(masks / f"{path.stem}_segmentation.png"), found)))
    return round(statistics.fmean(scores), 4)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    model = find_model("", Path(args.model) / "config.yaml")
    images = spread(image_files(Path(args.images)), args.limit)
    result: dict[str, Any] = {"images": len(images), "all_cores": cores(), "rates": {}, "dice": {}}
    with tempfile.TemporaryDirectory() as name:
        predictors = open_all(model, images, Path(name), args.opts)
        cfg = next(iter(predictors.values())).cfg
        result |= {"test_size": cfg.INPUT.MIN_SIZE_TEST, "backbone": f"R{cfg.MODEL.RESNETS.DEPTH}-FPN"}
        if args.masks:
            result["dice"] = {way: mean_dice(p, images, Path(args.masks)) for way, p in predictors.items()}
        for threads in sorted({1, cores()}):
            for predictor in predictors.values():
                predictor.use_threads(threads)
            ways: dict[str, Callable[[int], object]] = {
                way: partial(run_network, predictor, images) for way, predictor in predictors.items()
            }
            timings = take_turns(ways, args.rounds)
            result["rates"][f"{threads} cores"] = {
                way: round(len(images) / timing.median(), 2) for way, timing in timings.items()
            }
    for rates in result["rates"].values():
        rates["ratio_of_best_to_detectron2_float32"] = round(
            max(rates.values()) / rates["detectron2 float32"], 2
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="run folder")
    parser.add_argument("--images", required=True, help="folder of photographs")
    parser.add_argument("--masks", help="folder of reference masks, ISIC_x_segmentation.png")
    parser.add_argument("--limit", type=int, default=24, help="at most N images, evenly spread")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    write_result(args.out, measure(args))


if __name__ == "__main__":
    run_tool(main)
