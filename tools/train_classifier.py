#!/usr/bin/env python
"""Train a classifier on lesion crops and their ABCD features, and score it. A killed run continues when started again.

python tools/train_classifier.py --config-file configs/classifier.yaml CLASSIFIER.CROPS '("crops/ham10000",)'
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import cv2

from lesionseg.classifier_config import classifier_cfg
from lesionseg.classifier_results import MAJORITY, summary_table
from lesionseg.classifier_training import TABLE, train_classifier
from lesionseg.config import available_device, setup_cfg
from lesionseg.errors import run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Research software, no medical device.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", default="configs/classifier.yaml", help="(default: %(default)s)")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="see lesionseg/classifier_config.py")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = setup_cfg(args.config_file, args.opts, classifier_cfg())
    cfg.DEVICE = available_device(cfg.DEVICE)
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    handlers = [logging.StreamHandler(), logging.FileHandler(folder / "log.txt", encoding="utf-8")]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=handlers)
    cv2.setNumThreads(1)  # augmentation runs in processes of its own
    scores = train_classifier(cfg)
    for split, routes in scores.items():
        print(summary_table(split, routes, list(routes[MAJORITY]["classes"])), end="\n\n")
    print(f"more in {folder / TABLE}")


if __name__ == "__main__":
    run_tool(main)
