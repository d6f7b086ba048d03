#!/usr/bin/env python
"""Draw a synthetic dermoscopy data set: images, masks and benign/malignant labels.

python tools/make_synthetic.py --count 200 --size 256 --out synthetic --seed 0
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from lesionseg.errors import run_tool
from lesionseg.synthetic import make_synthetic


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200, help="number of images (default %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="side in px (default %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same images (default %(default)s)")
    parser.add_argument("--workers", type=int, help="processes (default: one a processor)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    malignant = make_synthetic(args.out, args.count, args.size, args.seed, args.workers)
    print(f"{args.count} images, {malignant} of them malignant by the drawing's rule, in {args.out}")
    print(
        f"next: python tools/prepare_dataset.py --images {args.out}/images --masks {args.out}/masks "
        f"--labels {args.out}/labels.csv --out datasets/synthetic"
    )


if __name__ == "__main__":
    run_tool(main)
