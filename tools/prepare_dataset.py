"""Turn a folder of dermoscopy images and one of lesion masks into a COCO-format data set for training."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from lesionseg.errors import run_tool
from lesionseg.prepare import prepare
from lesionseg.prepared import DEFAULT_SPLIT, PrepareOptions
from lesionseg.sources import LAYOUTS


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text}")
    return number


def parse() -> PrepareOptions:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder of images, searched with its subfolders")
    add(
        "--masks",
        type=Path,
        help="folder of masks, searched with its subfolders (default: the same as --images)",
    )
    add("--out", type=Path, required=True, help="folder to make, such as datasets/isic2018")
    add(
        "--labels",
        type=Path,
        nargs="+",
        default=[],
        metavar="CSV",
        help="label files: diagnosis, lesion or patient",
    )
    add(
        "--layout",
        choices=("auto", *LAYOUTS),
        default="auto",
        help="how files are named (default: found out)",
    )
    add(
        "--split",
        help=f"train/val or train/val/test shares (default {DEFAULT_SPLIT}); official folders are kept as given",
    )
    add("--seed", type=int, default=42, help="of the split (default %(default)s)")
    add("--name", help="name in configs, <name>_train and so on (default: last part of --out)")
    add("--classes", choices=("lesion", "diagnosis", "benign-malignant"), default="lesion", help="categories")
    add(
        "--instances",
        choices=("lesion", "components"),
        default="lesion",
        help="a mask is one instance, or several",
    )
    add(
        "--min-area",
        type=positive,
        default=1,
        metavar="PX",
        help="smallest component, with --instances components",
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
    for part, counts in summary["splits"].items():
        classes = ", ".join(f"{count} {name}" for name, count in counts["classes"].items())
        print(
            f"{summary['name']}_{part}: {counts['images']} images, {counts['instances']} instances ({classes})"
        )
    duplicates = summary["duplicates"]
    print(
        f"duplicates: {duplicates['images']} images in {duplicates['groups']} groups, each kept on one side of the split"
    )
    for kind, count in summary["problems"].items():
        print(f"{kind}: {count}")
    if options.labels:
        print(f"labels without an image: {summary['labels_without_image']}")
    print(f"written to {options.out}")
    names = [f"{summary['name']}_{part}" for part in summary["splits"]]
    tests = [name for name in names if not name.endswith("_train")][:1]
    print("next: python tools/train_net.py --config-file configs/isic_mrcnn.yaml \\")
    print(f"""    DATASETS.TRAIN '("{names[0]}",)' DATASETS.TEST '("{tests[0]}",)'""")
    return 1 if summary["skipped_images"] else 0


if __name__ == "__main__":
    run_tool(main)
