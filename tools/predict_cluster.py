#!/usr/bin/env python
"""Outline lesions in an archive of images on a Ray cluster: mask PNGs, and Parquet with the columns of predictions.csv.

ray start --head                                     # on one machine
ray start --address HEAD:6379                        # on each of the others
python tools/predict_cluster.py --address auto --input s3://isic/images --output s3://isic/outlines

A second start does what is missing. More in docs/clusters.md.
"""

from __future__ import annotations

import argparse
import logging

from lesionseg.errors import run_tool
from lesionseg.runs import find_model


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Research software, no medical device.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--input", required=True, help="folder that all machines share, or URI: s3://, gs://, abfs:// ...")
    add("--output", required=True, help="the same, for the results mask/, predictions/ and failures/")
    add("--weights", default="", help="checkpoint or exported model, on all machines (default: newest run)")
    add("--config-file", default="", help="configuration (default: config.yaml beside the weights)")
    add("--score-threshold", type=float, help="leave out instances below this score, in [0, 1]")
    add("--device", choices=("cpu", "cuda"), help="default: cuda where the cluster has GPUs")
    add("--batch-size", type=int, help="images the network takes at once (default: 8 on a GPU, 2 on a CPU)")
    add("--workers", type=int, help="processes of the whole cluster (default: one a GPU, or one a core)")
    add(
        "--address",
        help="auto or HOST:PORT of the Ray cluster (default: $RAY_ADDRESS, else this machine alone)",
    )
    add("opts", nargs="*", metavar="KEY VALUE", help="configuration, such as LESION.MASK_SELECTION union")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    model = find_model(args.weights, args.config_file)
    print(model, flush=True)  # before the slow imports: the first thing said is which model this is

    from lesionseg.predict_cluster import ClusterJob, predict_cluster

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    opts = list(args.opts)
    if args.score_threshold is not None:
        opts += ["LESION.SCORE_THRESHOLD", args.score_threshold]
    job = ClusterJob(model, args.input, args.output, tuple(opts), args.device, args.batch_size)
    summary = predict_cluster(job, args.workers, address=args.address)
    print(f"{summary.predicted} images predicted, {summary.finished} were finished")
    print(f"{summary.without_lesion} of those predicted now are without a lesion")
    if summary.failed:
        print(f"{len(summary.failed)} images failed:", *summary.failed, sep="\n  ")
    return 1 if summary.failed else 0


if __name__ == "__main__":
    run_tool(main)
