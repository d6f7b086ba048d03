"""A Mask R-CNN that learns to outline drawn ellipses in seconds, for tests of training."""

from __future__ import annotations

from pathlib import Path

from conftest import ROOT
from detectron2.config import CfgNode

from lesionseg.config import setup_cfg
from lesionseg.stages import complete_cfg

OPTS = """
MODEL.DEVICE cpu
MODEL.FPN.OUT_CHANNELS 64
MODEL.ANCHOR_GENERATOR.SIZES [[16],[24],[32],[48]]
MODEL.ROI_BOX_HEAD.FC_DIM 64
MODEL.ROI_MASK_HEAD.CONV_DIM 32
MODEL.ROI_MASK_HEAD.NUM_CONV 1
MODEL.RPN.POST_NMS_TOPK_TEST 10
INPUT.MIN_SIZE_TRAIN (64,)
INPUT.MIN_SIZE_TEST 64
DATASETS.TRAIN ('tiny_train',)
DATASETS.TEST ('tiny_val',)
DATALOADER.NUM_WORKERS 0
SOLVER.IMS_PER_BATCH 4
SOLVER.BASE_LR 0.002
SOLVER.AMP.ENABLED False
LESION.BF16 off
LESION.SCHEDULE.ALL_EPOCHS 0.0
LESION.SCHEDULE.EVAL_EPOCHS 0.0
LESION.AUG.AFFINE 0.0
LESION.AUG.CROP 0.0
LESION.AUG.HAIR 0.0
LESION.AUG.DARK_CORNERS 0.0
"""


def training_opts(lesion_root: Path, output: Path, *opts: str) -> list[str]:
    """KEY VALUE pairs over configs/isic_mrcnn_scratch.yaml."""
    words = [word for line in OPTS.strip().splitlines() for word in line.split(" ", 1)]
    return [*words, "LESION.DATA_ROOT", str(lesion_root), "OUTPUT_DIR", str(output), *opts]


def training_cfg(lesion_root: Path, output: Path, *opts: str, world_size: int = 1) -> CfgNode:
    """The complete cfg of a tiny run."""
    return complete_cfg(
        setup_cfg(ROOT / "configs/isic_mrcnn_scratch.yaml", training_opts(lesion_root, output, *opts)),
        world_size,
    )
