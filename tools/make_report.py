#!/usr/bin/env python
"""Make report.html of a run: one page with training, scores, failures and images, to be opened in any browser.

python tools/make_report.py --run output/isic_mrcnn
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from lesionseg.errors import run_tool
from lesionseg.report import make_report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Research software, no medical device.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, required=True, help="run folder, scored by tools/evaluate.py")
    parser.add_argument("--output", type=Path, help="file to write (default: report.html in the run folder)")
    parser.add_argument(
        "--classifier", type=Path, help="run of tools/train_classifier.py, reported and compared too"
    )
    parser.add_argument(
        "--classified",
        type=Path,
        metavar="CSV",
        help="table of tools/classify.py on crops by this run's masks: the classifier as it is used, compared too",
    )
    args = parser.parse_args()
    if args.classified and not args.classifier:
        parser.error("--classified goes with --classifier, the run that made it")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    path = make_report(args.run, args.output, args.classifier, args.classified)
    print(f"written to {path} ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    run_tool(main)
