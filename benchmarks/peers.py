"""One lesion mask an image: LesionPredictor against Detectron2, torchvision, a U-Net and YOLO, all as documented.

python benchmarks/peers.py --images DIR [--device cuda] [--size PX] [--limit N] [--rounds N] [--out FILE.json]

Every model gets the same decoded photographs (uint8, BGR) one at a time, the same size at its input (Detectron2's resizing
to a shorter side of --size) and a GPU or all cores, and has to give the same: a boolean mask in the main memory at the
photograph's own resolution, of its one best instance where it finds instances. Each computes in float32 and, where the
device has it, under bfloat16 autocast. They take turns; medians are reported.

Weights are random, so this is about speed alone. Mask R-CNNs get their normalisation set from a photograph, lest
numbers grow from layer to layer until no box is finite: as in a trained one, the box head gets all the proposals that
its configuration allows.
Ultralytics YOLO is AGPL-3.0: it is measured where somebody installed it, and never installed from here.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from common import HERE, image_files, spread, take_turns, write_result
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from lesionseg import LesionPredictor
from lesionseg.config import setup_cfg
from lesionseg.errors import install_extra, run_tool
from lesionseg.images import read_image
from lesionseg.precision import autocast, has_bf16
from lesionseg.stream import network_size

CONFIG = HERE.parent / "configs/isic_mrcnn.yaml"
OURS = "LesionPredictor"
USUAL = "Detectron2 DefaultPredictor"
YOLO = "yolo11m-seg"  # of Ultralytics' models the one whose size is nearest to R50's
Predict = Callable[[np.ndarray], np.ndarray]


class Peer:
    """A model and the documented way to a mask with it.

    Attributes:
        network: for its parameters.
        precisions: "float32" and "bf16" -> function from image (uint8, (H, W, 3), BGR) to mask (bool, (H, W)).
    """

    def __init__(self, network: nn.Module, predict: Predict, bf16: Predict | None = None) -> None:
        self.network = network

        def under_autocast(image: np.ndarray) -> np.ndarray:
            with autocast(next(network.parameters()).device, "on"):
                return predict(image)

        self.precisions = {"float32": predict, "bf16": bf16 or under_autocast}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--device", default="cpu", help="cpu (default), or cuda")
    parser.add_argument("--size", type=int, default=512, help="shorter side at the network's input, px")
    parser.add_argument(
        "--limit", type=int, default=10, help="so many images, spread over the folder; 0: all"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    images = [read_image(path) for path in spread(image_files(args.images), args.limit)]
    figures = measure(images, args.size, args.rounds, args.device)
    write_result(args.out, {"folder": args.images.name, **figures})
    return 0


def measure(images: list[np.ndarray], size: int, rounds: int, device: str) -> dict[str, Any]:
    """Time all peers on images (uint8, BGR); images/s, ratio to `USUAL`, processor seconds, parameters and GMAC of each."""
    peers, left_out = build_peers(size, images[0], device)
    precisions = ["float32"] + ["bf16"] * has_bf16(device)
    ways = {(name, kind): peer.precisions[kind] for name, peer in peers.items() for kind in precisions}

    def all_images(predict: Predict) -> Callable[[int], None]:
        def turn(number: int) -> None:
            for image in images if number else images[:1]:
                mask = predict(image)
                assert mask.dtype == bool and mask.shape == image.shape[:2], (mask.dtype, mask.shape)

        return turn

    timings = take_turns({key: all_images(predict) for key, predict in ways.items()}, rounds)
    usual = timings[USUAL, "float32"].median()
    return {
        "images": len(images),
        "shorter_side": size,
        "device": device,
        "usual": USUAL,
        "peers": [
            {
                "name": name,
                "precision": kind,
                "images_per_second": round(len(images) / timing.median(), 3),
                "ratio": round(usual / timing.median(), 3),
                "processor_seconds_an_image": round(timing.median_processor() / len(images), 4),
                "seconds": [round(value, 3) for value in timing.seconds],
                "parameters_million": round(
                    sum(p.numel() for p in peers[name].network.parameters()) / 1e6, 2
                ),
            }
            for (name, kind), timing in timings.items()
        ],
        "gmac": {name: round(gmac(peer.precisions["float32"], images[0]), 2) for name, peer in peers.items()},
        "left_out": left_out,
    }


def gmac(predict: Predict, image: np.ndarray) -> float:
    """Billions of multiply-accumulates of one image's prediction: convolutions and matrix products, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        predict(image)
    return counter.get_total_flops() / 2 / 1e9


def build_peers(size: int, image: np.ndarray, device: str) -> tuple[dict[str, Peer], dict[str, str]]:
    """The models that can be measured here by name, and why others cannot."""
    torch.manual_seed(0)
    peers = detectron2_peers(size, image, device) | {
        "torchvision maskrcnn_resnet50_fpn": torchvision_peer(size, image, device)
    }
    left_out = {}
    for name, package, build, hint in (
        ("U-Net ResNet-50 (smp)", "segmentation_models_pytorch", unet_peer, install_extra("bench")),
        (f"Ultralytics {YOLO}", "ultralytics", yolo_peer, "AGPL-3.0: install it yourself if that suits you"),
    ):
        if importlib.util.find_spec(package):
            peers[name] = build(size, device)
        else:
            left_out[name] = f"{package} is not installed ({hint})"
            print(f"{name} is left out: {left_out[name]}", flush=True)
    return peers, left_out


def normalise(model: nn.Module, run: Callable[[], object]) -> None:
    """Set every batch normalisation to the mean and variance, over all channels, of what reaches it in `run`."""

    def take(layer: Any, inputs: tuple[torch.Tensor]) -> None:
        layer.running_mean.fill_(inputs[0].mean())
        layer.running_var.fill_(inputs[0].var())

    layers = [module for module in model.modules() if "BatchNorm2d" in type(module).__name__]
    hooks = [layer.register_forward_pre_hook(take) for layer in layers]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()


def random_predictors(
    size: int, image: np.ndarray, folder: Path, device: str
) -> tuple[Any, dict[str, LesionPredictor]]:
    """Detectron2's DefaultPredictor, and ours by precision, with the same random weights; one instance an image.

    The weights are written to a folder. Detectron2's has the model zoo's configuration, ours its own over that: what they
    differ in is part of the comparison.
    """
    from detectron2.engine import DefaultPredictor
    from detectron2.modeling import build_model

    options = {
        "MODEL.WEIGHTS": "",
        "MODEL.DEVICE": device,
        "MODEL.ROI_HEADS.NUM_CLASSES": 1,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
        "LESION.SCORE_THRESHOLD": 0.0,
        "TEST.DETECTIONS_PER_IMAGE": 1,
        "INPUT.MIN_SIZE_TEST": size,
        "INPUT.MAX_SIZE_TEST": 2 * size,
    }
    pairs = [str(part) for pair in options.items() for part in pair]
    usual = DefaultPredictor(setup_cfg("", pairs))
    normalise(usual.model, lambda: usual(image))
    cfg, ours = setup_cfg(CONFIG, pairs), {}
    weights, has = folder / "random.pth", build_model(cfg).state_dict()
    shared = {key: value for key, value in usual.model.state_dict().items() if key in has}  # ours has no p2
    torch.save({"model": shared}, weights)
    for kind, setting in (("float32", "off"), ("bf16", "on")):
        cfg.LESION.BF16 = setting
        ours[kind] = LesionPredictor(cfg, weights)
    return usual, ours


def detectron2_peers(size: int, image: np.ndarray, device: str) -> dict[str, Peer]:
    """Ours, which decides on autocast itself, and Detectron2's own predictor."""
    with tempfile.TemporaryDirectory() as folder:
        usual, ours = random_predictors(size, image, Path(folder), device)

    def best(found: Any) -> np.ndarray:
        return found.pred_masks[0].cpu().numpy()

    return {
        OURS: Peer(
            ours["float32"]._model,
            lambda image: best(ours["float32"](image)),
            lambda image: best(ours["bf16"](image)),
        ),
        USUAL: Peer(usual.model, lambda image: best(usual(image)["instances"])),
    }


def torchvision_peer(size: int, image: np.ndarray, device: str) -> Peer:
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    model = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=2,  # background and lesion
        min_size=size,
        max_size=2 * size,
        box_score_thresh=0.0,
        box_detections_per_img=1,
    )
    model.eval().to(device)

    @torch.inference_mode()
    def predict(image: np.ndarray) -> np.ndarray:
        (found,) = model([as_tensor(image, device)])
        return (found["masks"][0, 0] > 0.5).cpu().numpy()

    normalise(model, lambda: model([as_tensor(image, device)]))
    return Peer(model, predict)


def as_tensor(image: np.ndarray, device: str) -> torch.Tensor:
    """uint8 (H, W, 3) BGR to float32 (3, H, W) RGB in [0, 1]."""
    pixels = np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1))
    return torch.from_numpy(pixels).to(device).float() / 255


def unet_peer(size: int, device: str) -> Peer:
    import segmentation_models_pytorch as smp

    model = smp.Unet("resnet50", encoder_weights=None, classes=1).eval().to(device)
    mean, std = (
        torch.tensor(values, device=device).view(3, 1, 1)
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )

    @torch.inference_mode()
    def predict(image: np.ndarray) -> np.ndarray:
        height, width = network_size(*image.shape[:2], size, 2 * size)
        pixels = (as_tensor(cv2.resize(image, (width, height)), device) - mean) / std
        padded = functional.pad(pixels, (0, -width % 32, 0, -height % 32))
        logits = model(padded[None])[0, 0, :height, :width].float().cpu().numpy()
        return cv2.resize(logits, image.shape[1::-1]) > 0

    return Peer(model, predict)


def yolo_peer(size: int, device: str) -> Peer:
    os.environ.update(YOLO_AUTOINSTALL="False", YOLO_OFFLINE="True")  # it would fetch what it misses
    from ultralytics import YOLO as UltralyticsModel

    model = UltralyticsModel(f"{YOLO}.yaml")  # describes the layers; its weights would be downloaded as .pt

    def predict(image: np.ndarray) -> np.ndarray:
        padded = [-(-side // 32) * 32 for side in network_size(*image.shape[:2], size, 2 * size)]
        (found,) = model.predict(
            image, imgsz=padded, conf=0.0, max_det=1, retina_masks=True, device=device, verbose=False
        )
        if found.masks is None or not len(
            found.masks.data
        ):  # random weights: it drops masks without a pixel, once made
            return np.zeros(image.shape[:2], bool)
        return found.masks.data[0].cpu().numpy() > 0

    return Peer(model.model, predict)


if __name__ == "__main__":
    run_tool(main)
