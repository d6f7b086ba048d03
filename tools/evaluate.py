#!/usr/bin/env python
"""Score a run, or any folder of predicted masks, image by image.

python tools/evaluate.py --predictions masks/of/a/team --masks reference/masks --output scores
python tools/evaluate.py --predictions masks/of/a/team --dataset isic2018_val --output scores
python tools/evaluate.py --run output/isic_mrcnn --dataset isic2018_val
python tools/evaluate.py --run output/cross_validation --folds 5
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
    add("--run", type=Path, help="run folder of a trained model")
    add("--predictions", type=Path, help="folder of predicted masks, named by image id")
    add("--dataset", help="prepared data set to score against (default with --run: its first test set)")
    add("--masks", type=Path, help="folder of reference masks to score against")
    add("--output", type=Path, help="folder for the scores (default with --run: <run>/inference/<dataset>)")
    add("--folds", type=int, metavar="K", help="--run holds K folds: score each, and pool them")
    add("--batch-size", type=int, default=1, help="images the network takes at once")
    add("opts", nargs="*", metavar="KEY VALUE", help="configuration for --run, such as MODEL.DEVICE cuda")
    args = parser.parse_args()
    if bool(args.run) == bool(args.predictions):
        parser.error("give either --run or --predictions")
    if args.predictions and (bool(args.masks) == bool(args.dataset) or not args.output):
        parser.error("--predictions needs --output, and either --masks or --dataset")
    if args.run and args.masks:
        parser.error("a run is scored against a prepared data set: give --dataset instead of --masks")
    if args.folds is not None and (not args.run or args.dataset or args.output):
        parser.error("--folds goes with --run alone: each fold is scored on its own part of the data")
    if args.opts and not args.run:
        parser.error(f"not understood: {' '.join(args.opts)}")
    return args


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Imported here: processes that score import this file again and must not load torch.
    from lesionseg.scorecard import score_dataset, score_folders
    from lesionseg.tables import score_text

    if args.folds is not None:
        from lesionseg.folds import score_folds

        summary, output = score_folds(args.run, args.folds, args.batch_size, args.opts)
    elif args.run:
        from lesionseg.run_scores import score_run

        summary, output = score_run(args.run, args.dataset, args.output, args.batch_size, args.opts)
    else:
        output = args.output
        if args.masks:
            summary = score_folders(args.predictions, args.masks, output)
        else:
            summary = score_dataset(args.predictions, args.dataset, output)
    print(score_text(summary, "terminal"))
    print(f"written to {output}: scores.csv, scores.json, scores.md, scores.tex")


if __name__ == "__main__":
    run_tool(main)
