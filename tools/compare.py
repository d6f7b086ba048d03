#!/usr/bin/env python
"""Compare runs on the same images with the first one: paired differences, intervals, tests, images that changed most.

python tools/compare.py output/baseline output/longer --dataset isic2018_val --output output/comparison
python tools/compare.py scores/unet scores/ours --output comparison
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from lesionseg.comparison import load_runs, write_comparison
from lesionseg.errors import run_tool


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Research software, no medical device.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "runs",
        type=Path,
        nargs="+",
        help="run folders scored by tools/evaluate.py, or folders with scores.csv",
    )
    add("--dataset", help="data set to compare on, where runs were scored on several")
    add(
        "--output",
        type=Path,
        default=Path("comparison"),
        help="folder for tables and pictures (default: comparison)",
    )
    args = parser.parse_args()
    if len(args.runs) < 2:
        parser.error("give two runs or more: the first is what the others are compared with")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(write_comparison(load_runs(args.runs, args.dataset), args.output))
    print(f"written to {args.output}: comparison.csv, comparison.md, comparison.tex, changed/")


if __name__ == "__main__":
    run_tool(main)
