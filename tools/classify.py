#!/usr/bin/env python
"""Class probabilities for exported crops, and scores where their diagnosis is known.

python tools/classify.py --run output/classifier --crops crops/isic2017 --output output/classifier/isic2017.csv
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from lesionseg.errors import run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Research software, no medical device.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--run", type=Path, required=True, help="folder that tools/train_classifier.py wrote")
    add("--crops", type=Path, nargs="+", required=True, help="folders that tools/export_crops.py wrote")
    add("--output", type=Path, required=True, help="CSV file; scores go beside it as .json and .md")
    add("--split", choices=("train", "val", "test"), help="crops of this split only (default: all)")
    add("--route", help="one of the run's routes (default: the one it was trained for)")
    add("--device", help="cpu, cuda ... (default: the run's)")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")

    from lesionseg.classifier import CropClassifier
    from lesionseg.classifier_batch import classify_crops

    classifier = CropClassifier(args.run, args.route, args.device)
    print(f"classifier: {args.run}, route {classifier.route}", flush=True)
    summary = classify_crops(classifier, args.crops, args.output, args.split)
    counts = ", ".join(f"{count} {label}" for label, count in summary.labels.items())
    print(f"{sum(summary.labels.values())} crops ({counts}); written to {args.output}")
    if summary.table:
        print(summary.table)
    if summary.failed:
        print(f"{len(summary.failed)} crops failed:", *summary.failed, sep="\n  ")
    return 1 if summary.failed else 0


if __name__ == "__main__":
    run_tool(main)
