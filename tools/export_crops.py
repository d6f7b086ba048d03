#!/usr/bin/env python
"""Cut every lesion of a prepared data set out of its image, with labels and ABCD features, for the classifier.

python tools/export_crops.py --dataset datasets/ham10000 --out crops/ham10000
python tools/export_crops.py --dataset datasets/isic2018 --out crops/predicted \\
    --predictions output/isic_mrcnn/inference/isic2018_val/coco_instances_results.json
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from lesionseg.crop_export import CropSettings, export_crops
from lesionseg.crops import BACKGROUNDS
from lesionseg.errors import run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Research software, no medical device.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--dataset", type=Path, required=True, help="folder that tools/prepare_dataset.py wrote")
    add("--out", type=Path, required=True, help="folder for crops, crops.csv and crops.json")
    add(
        "--predictions",
        type=Path,
        nargs="+",
        default=[],
        metavar="JSON",
        help="COCO results with masks: crop what was predicted, not the reference",
    )
    add("--score-threshold", type=float, default=0.3, help="leave out detections below (default %(default)s)")
    add(
        "--margin",
        type=float,
        default=0.1,
        help="around the box, as a share of its longer side (default %(default)s)",
    )
    add("--size", type=int, default=256, help="of the square crops in px (default %(default)s)")
    add(
        "--background",
        choices=BACKGROUNDS,
        default="keep",
        help="what is outside the mask (default %(default)s)",
    )
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    settings = CropSettings(args.margin, args.size, args.background)
    summary = export_crops(
        args.dataset, args.out, settings, args.predictions, args.score_threshold, args.workers
    )
    counts = ", ".join(f"{count} {split}" for split, count in summary.crops.items())
    print(f"{sum(summary.crops.values())} crops ({counts}) in {args.out}")
    if summary.without_lesion:
        print(
            f"{len(summary.without_lesion)} images without a detection:", *summary.without_lesion, sep="\n  "
        )
    if summary.failed:
        print(f"{len(summary.failed)} images failed:", *summary.failed, sep="\n  ")
    return 1 if summary.failed else 0


if __name__ == "__main__":
    run_tool(main)
