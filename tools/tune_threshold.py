#!/usr/bin/env python
"""Choose a run's score threshold and mask threshold on its validation set and write them into its config.yaml.

python tools/tune_threshold.py --run output/isic_mrcnn
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from lesionseg.errors import run_tool
from lesionseg.metrics import ISIC_METRICS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Research software, no medical device.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--run", type=Path, required=True, help="run folder of a trained model")
    add("--dataset", help="validation set (default: the run's first test set); a test part is refused")
    add(
        "--metric",
        choices=list(ISIC_METRICS),
        default="threshold_jaccard",
        help="what to maximise (default: %(default)s)",
    )
    add("--batch-size", type=int, default=1, help="images the network takes at once")
    add(
        "opts",
        nargs="*",
        metavar="KEY VALUE",
        help="configuration for the computation, such as MODEL.DEVICE cuda",
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from lesionseg.tuning import tune_run  # after the arguments are checked: it imports torch

    result = tune_run(args.run, args.dataset, args.metric, args.batch_size, args.opts)
    for when in ("before", "after"):
        found = result[when]
        value = "not on the grid" if found["value"] is None else f"{found['value']:.4f}"
        print(
            f"{when:6}  score threshold {found['score_threshold']:.2f}, mask threshold {found['mask_threshold']:.2f}: "
            f"{args.metric} {value}"
        )
    print(
        f"written to {args.run}/config.yaml; the gain on {result['dataset']} ({result['images']} images) is optimistic, "
        "since the thresholds were chosen on it: report the scores of a test set"
    )


if __name__ == "__main__":
    run_tool(main)
