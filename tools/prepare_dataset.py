"""Turn a folder of dermoscopy images and one of lesion masks into a COCO-format data set for training."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from lesionseg.errors import run_tool
from lesionseg.prepare import prepare
from lesionseg.prepared import PrepareOptions
from lesionseg.sources import LAYOUTS
from lesionseg.summary import describe

CLASSES = ("lesion", "diagnosis", "benign-malignant")
INSTANCES = ("lesion", "components")


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text}")
    return number


def parse() -> PrepareOptions:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder of images, searched with its subfolders")
    add("--masks", type=Path, help="folder of masks, searched likewise (default: that of --images)")
    add("--out", type=Path, required=True, help="folder to make, such as datasets/isic2018")
    add("--labels", type=Path, nargs="+", default=(), metavar="CSV", help="diagnosis, lesion or patient")
    add(
        "--layout",
        choices=("auto", *LAYOUTS),
        default="auto",
        help="how files are named (default: found out)",
    )
    add("--split", help="shares, such as 0.7/0.1/0.2 (default 0.8/0.2); official folders are kept as given")
    add("--folds", type=positive, metavar="K", help="K folds for cross-validation instead of --split")
    add("--seed", type=int, default=42, help="of the split (default %(default)s)")
    add("--name", help="name in configs, <name>_train and so on (default: last part of --out)")
    add("--classes", choices=CLASSES, default="lesion", help="categories (default %(default)s)")
    add("--instances", choices=INSTANCES, default="lesion", help="of a mask: one, or one a component")
    add(
        "--min-area",
        type=positive,
        default=100,
        metavar="PX",
        help="smallest component (default %(default)s)",
    )
    add("--max-size", type=positive, metavar="PX", help="store copies reduced to this long side")
    add("--on-error", choices=("stop", "skip"), default="stop", help="what to do about files with errors")
    add("--overwrite", action="store_true", help="replace a data set that is already at --out")
    add("--workers", type=positive, help="processes (default: one a processor)")
    arguments = vars(parser.parse_args())
    arguments["masks"] = arguments["masks"] or arguments["images"]
    arguments["labels"] = tuple(arguments["labels"])
    return PrepareOptions(**arguments)


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    options = parse()
    summary = prepare(options)
    print("\n".join(describe(summary, options)))
    return 1 if any(kind.startswith("error") for kind in summary["problems"]) else 0


if __name__ == "__main__":
    run_tool(main)
