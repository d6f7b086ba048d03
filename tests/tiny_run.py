"""A run folder with a tiny, randomly initialised Mask R-CNN, for tests of what comes after training."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from lesionseg.config import setup_cfg

# GroupNorm keeps random features in range. A small mask head of random weights gives masks of every shape.
TINY = """
MODEL.DEVICE cpu
MODEL.WEIGHTS ''
MODEL.RESNETS.DEPTH 18
MODEL.RESNETS.RES2_OUT_CHANNELS 64
MODEL.RESNETS.NORM GN
MODEL.RESNETS.STRIDE_IN_1X1 False
MODEL.FPN.OUT_CHANNELS 32
MODEL.ROI_BOX_HEAD.FC_DIM 32
MODEL.ROI_MASK_HEAD.CONV_DIM 16
MODEL.ROI_MASK_HEAD.NUM_CONV 1
MODEL.ROI_HEADS.NUM_CLASSES 2
MODEL.RPN.POST_NMS_TOPK_TEST 40
MODEL.ROI_HEADS.NMS_THRESH_TEST 0.3
TEST.DETECTIONS_PER_IMAGE 5
INPUT.MIN_SIZE_TEST 64
INPUT.MAX_SIZE_TEST 128
DATASETS.TRAIN ()
DATASETS.TEST ()
LESION.CLASSES ('nevus','melanoma')
LESION.SCORE_THRESHOLD 0.0
LESION.BF16 off
"""


def tiny_cfg(*opts: str) -> CfgNode:
    """The configuration of the tiny model; `opts` are further KEY VALUE pairs."""
    words = [word for line in TINY.strip().splitlines() for word in line.split(" ", 1)]
    return setup_cfg(opts=[*words, *opts])


def make_run(folder: Path, *opts: str, seed: int = 0) -> Path:
    """Write config.yaml and model_best.pth of the tiny model; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg = tiny_cfg("OUTPUT_DIR", str(folder), *opts)
    torch.manual_seed(seed)
    model = build_model(cfg)
    # Spread the scores and the mask probabilities: at initialisation they all lie close to one half.
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.weight.mul_(5)
        model.roi_heads.box_predictor.bbox_pred.weight.mul_(100)
        model.roi_heads.mask_head.predictor.weight.mul_(1000)
    torch.save({"model": model.state_dict()}, folder / "model_best.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder
