#!/usr/bin/env python
"""Draw what a prepared data set holds, or with --augmented what the network is shown in training.

python tools/visualize_data.py --dataset isic2018 --split train --augmented
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from lesionseg.config import setup_cfg
from lesionseg.errors import run_tool
from lesionseg.launching import seed_process
from lesionseg.visualize import find_dataset, visualize_dataset

CONFIG = Path(__file__).resolve().parent.parent / "configs/isic_mrcnn.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", required=True, help="name of the data set (isic2018) or of one split (isic2018_train)")
    add("--split", default="train", help="default %(default)s")
    add("--augmented", action="store_true", help="through resizing and augmentation, as in training")
    add("--count", type=int, default=16, help="images (default %(default)s)")
    add("--output", type=Path, help="default output/visualize/<data set>[_augmented]")
    add("--config-file", default=CONFIG, help="augmentation and size come from here (default %(default)s)")
    add("opts", nargs="*", metavar="KEY VALUE", help="configuration, such as LESION.AUG.HAIR 1.0")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    cfg = setup_cfg(args.config_file, args.opts)
    seed_process(cfg)
    dataset = find_dataset(args.dataset, args.split, cfg.LESION.DATA_ROOT)
    output = args.output or Path("output/visualize") / (dataset + "_augmented" * args.augmented)
    print("all on one sheet:", visualize_dataset(cfg, dataset, args.count, args.augmented, output))


if __name__ == "__main__":
    run_tool(main)
