#!/usr/bin/env python
"""Export a trained run to one model file that needs neither Detectron2 nor (ONNX, OpenVINO) torch.

python tools/export_model.py --run output/isic_mrcnn --format onnx
python tools/export_model.py --run output/isic_mrcnn --format openvino --precision int8
python tools/predict.py --weights output/isic_mrcnn/model.onnx --input imgs/

The file is checked against the original on real images, and written only if both find the same.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from lesionseg.errors import run_tool
from lesionseg.runs import CONFIG, FORMATS, find_model


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Research software, no medical device.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--run", required=True, help="run folder of tools/train_net.py")
    add("--weights", default="", help="checkpoint (default: the run's)")
    add("--format", choices=FORMATS, default="onnx")
    add(
        "--precision",
        choices=("float32", "bf16", "int8"),
        default="float32",
        help="bf16 and int8: OpenVINO only",
    )
    add("--out", help="file to write (default: model, or model_<precision>, in the run folder)")
    add("--images", nargs="+", default=[], help="images to check on (default: from the run's test set)")
    add(
        "--calibration",
        nargs="+",
        default=[],
        help="images to calibrate int8 on (default: the run's training set)",
    )
    add("opts", nargs="*", metavar="KEY VALUE", help="configuration, such as LESION.SCORE_THRESHOLD 0.05")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    model = find_model(args.weights, Path(args.run) / CONFIG)
    print(model, flush=True)

    from lesionseg.config import setup_cfg
    from lesionseg.export import export_model

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    name = "model" if args.precision == "float32" else f"model_{args.precision}"
    out = Path(args.out or Path(args.run) / f"{name}{FORMATS[args.format]}")
    cfg = setup_cfg(model.config, args.opts)
    result = export_model(cfg, model.weights, out, args.format, args.precision, args.images, args.calibration)
    print(f"{out} agrees with the original on {result.images} images, {result.instances} instances:")
    for key, value in result.rounded().items():
        print(f"  {key.replace('_', ' ')}: {value}")


if __name__ == "__main__":
    run_tool(main)
