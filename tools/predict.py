#!/usr/bin/env python
"""Outline lesions in images: overlays, masks, crops, COCO results and a table.

python tools/predict.py --input imgs/
python tools/predict.py --input imgs/ 'more/**/*.png' list.txt --weights output/isic_mrcnn/model_best.pth --save mask,csv
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
    add("--input", nargs="+", required=True, help="folders, image files, globs, or .txt lists of image files")
    add("--output", help="folder for the results (default: predictions/ in the run folder)")
    add("--weights", default="", help="checkpoint or exported model (default: the newest run under output/)")
    add("--config-file", default="", help="configuration (default: config.yaml beside the weights)")
    add("--score-threshold", type=float, help="leave out instances below this score, in [0, 1]")
    add(
        "--device", help="cpu, cuda, cuda:1 ... (default: the configuration's, or cpu where there is no CUDA)"
    )
    add("--batch-size", type=int, help="images the network takes at once (default: 8 on a GPU, 2 on a CPU)")
    add("--workers", type=int, help="processes (default: one a core)")
    add(
        "--save",
        default="",
        help="any of overlay,mask,crop,masked_crop,abcd,json,csv (default: all but abcd)",
    )
    add("--classifier", help="run of tools/train_classifier.py: class probabilities in overlay, JSON and CSV")
    add("--overwrite", action="store_true", help="do finished images again; delete results of another model")
    add("opts", nargs="*", metavar="KEY VALUE", help="configuration, such as LESION.MASK_SELECTION union")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    model = find_model(args.weights, args.config_file)
    print(model, flush=True)  # before the slow imports: the first thing said is which model this is

    from lesionseg.annotations import load_classifier
    from lesionseg.outputs import default_kinds, parse_save
    from lesionseg.predict_run import open_predictor, predict_images

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    save = parse_save(args.save) if args.save else default_kinds()
    opts = list(args.opts)
    if args.score_threshold is not None:
        opts += ["LESION.SCORE_THRESHOLD", args.score_threshold]
    if args.device:
        opts += ["MODEL.DEVICE", args.device]
    predictor = open_predictor(model, opts)
    classifier = load_classifier(args.classifier) if args.classifier else None
    output = args.output or model.weights.parent / "predictions"
    summary = predict_images(
        predictor, args.input, output, save, args.batch_size, args.workers, args.overwrite, classifier
    )
    print(f"{summary.predicted} images predicted, {summary.finished} were finished; results in {output}")
    if summary.without_lesion:
        print(f"{len(summary.without_lesion)} images without a lesion:", *summary.without_lesion, sep="\n  ")
    if summary.failed:
        print(f"{len(summary.failed)} images failed:", *summary.failed, sep="\n  ")
    return 1 if summary.failed else 0


if __name__ == "__main__":
    run_tool(main)
