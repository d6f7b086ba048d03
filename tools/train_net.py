#!/usr/bin/env python
"""Train Mask R-CNN on prepared lesion data, or evaluate a trained one.

python tools/train_net.py --config-file configs/isic_mrcnn.yaml --num-gpus 2
python tools/train_net.py --config-file output/isic_mrcnn/config.yaml --eval-only
python tools/train_net.py --config-file configs/isic_mrcnn.yaml --folds 5
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from lesionseg.config import argument_parser, setup_cfg
from lesionseg.errors import LesionsegError, run_tool
from lesionseg.folds import fold_commands
from lesionseg.launching import setup_process, start
from lesionseg.stages import check_output, complete_cfg, evaluate_run, train_stages


def work(args: argparse.Namespace) -> None:
    """What each process does."""
    cfg = complete_cfg(setup_cfg(args.config_file, args.opts))
    setup_process(cfg, args)
    if args.eval_only:
        weights = dict(zip(args.opts[::2], args.opts[1::2], strict=True)).get("MODEL.WEIGHTS", "")
        evaluate_run(cfg, weights)
    else:
        train_stages(cfg, args.resume)


def main() -> int:
    parser = argument_parser(__doc__ or "")
    parser.add_argument(
        "--folds",
        type=int,
        metavar="K",
        help="train once for each of K folds, see prepare_dataset.py --folds",
    )
    args = parser.parse_args()
    if not args.config_file:
        raise LesionsegError("give --config-file, such as configs/isic_mrcnn.yaml")
    cfg = setup_cfg(args.config_file, args.opts)
    if args.folds is not None:  # each in a process of its own: logs, seeds and memory start afresh
        for command in fold_commands([sys.executable, *sys.argv], cfg, args.folds):
            if code := subprocess.run(command, check=False).returncode:
                return code
        return 0
    if not args.eval_only:
        check_output(cfg.OUTPUT_DIR, args.resume)
    start(work, args, cfg)
    return 0


if __name__ == "__main__":
    run_tool(main)
