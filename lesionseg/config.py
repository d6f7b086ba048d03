"""Configuration: every key that lesionseg adds to Detectron2's, and how a tool gets its cfg."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg

from lesionseg.errors import LesionsegError

logger = logging.getLogger(__name__)

# What every configuration here extends: the model zoo's Mask R-CNN R50-FPN, 3x schedule.
BASELINE = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"


def add_lesion_config(cfg: CfgNode) -> None:
    """Add lesionseg's keys, all under cfg.LESION, with their defaults."""
    cfg.LESION = CfgNode()
    lesion = cfg.LESION

    # ---- data ----
    # Folder of prepared data sets; "" means the environment variable DETECTRON2_DATASETS, or ./datasets.
    lesion.DATA_ROOT = ""
    # Category names, in the order of the class indices; () takes them (and MODEL.ROI_HEADS.NUM_CLASSES) from
    # the training data. Filled in config.yaml of a run, so that prediction needs no data set.
    lesion.CLASSES = ()

    # ---- the lesion mask of an image (what is scored and written as mask PNG) ----
    # Instances of a lower score are not reported by predict and do not enter the lesion mask. COCO AP is
    # computed from all instances above MODEL.ROI_HEADS.SCORE_THRESH_TEST.
    lesion.SCORE_THRESHOLD = 0.3
    # Probability above which a pixel belongs to an instance.
    lesion.MASK_THRESHOLD = 0.5
    # "top": the instance of the highest score; "union": all instances above SCORE_THRESHOLD together.
    lesion.MASK_SELECTION = "top"
    # Reduce the lesion mask to its largest connected region without holes, as ISIC submissions must be.
    lesion.ONE_REGION = True
    # Margin around an instance's box when it is cropped, as a share of the box's longer side.
    lesion.CROP_MARGIN = 0.1

    # ---- numerics ----
    # bfloat16 autocast in evaluation and prediction: "auto" where the processor computes in it (AVX512-BF16
    # or AMX; CUDA from Ampere on), "on", "off". Training follows SOLVER.AMP.ENABLED.
    lesion.BF16 = "auto"

    # ---- test-time augmentation, in evaluation and prediction ----
    tta = lesion.TTA = CfgNode()
    # Average what the network finds in several views of an image; time grows with their number (8 with the settings below).
    tta.ENABLED = False
    # Each view also mirrored.
    tta.FLIP = True
    # Each view turned by so many degrees, multiples of 90.
    tta.TURNS = (0, 90, 180, 270)
    # Each view at so many times the size of INPUT.MIN_SIZE_TEST.
    tta.SCALES = (1.0,)

    # ---- schedule ----
    schedule = lesion.SCHEDULE = CfgNode()
    # Stage 1 trains FPN, RPN and heads with the ResNet frozen, at SOLVER.BASE_LR. Length in epochs, or, when
    # that is 0, in iterations; both 0 leave the stage out (right for training from scratch).
    schedule.HEADS_EPOCHS = 0.0
    schedule.HEADS_ITERS = 0
    # Stage 2 trains everything that MODEL.BACKBONE.FREEZE_AT leaves. Length in epochs, or, when that is 0,
    # SOLVER.MAX_ITER iterations.
    schedule.ALL_EPOCHS = 0.0
    # Stage 2's learning rate as a multiple of SOLVER.BASE_LR, when stage 1 ran before it.
    schedule.ALL_LR_FACTOR = 0.1
    # Evaluate every so many epochs; 0 means every TEST.EVAL_PERIOD iterations.
    schedule.EVAL_EPOCHS = 0.0
    # Warm-up as a share of the stage; 0 means SOLVER.WARMUP_ITERS iterations.
    schedule.WARMUP_SHARE = 0.0

    # ---- optimiser ----
    # "SGD" (Detectron2's own) or "ADAMW" (trains networks without pretrained weights far faster).
    lesion.OPTIMIZER = "SGD"

    # ---- model selection ----
    # The metric, of the first data set in DATASETS.TEST, by which model_best.pth is chosen: "isic/jaccard",
    # "isic/threshold_jaccard", "isic/dice", "segm/AP", "bbox/AP50", "loss" (validation loss) ...
    lesion.BEST_METRIC = "isic/threshold_jaccard"
    # Stop after so many evaluations without a better BEST_METRIC; 0 never stops early.
    lesion.EARLY_STOP_PATIENCE = 0
    # Validation loss on at most so many images of the first test set; 0 leaves it out, -1 takes all.
    lesion.VAL_LOSS_IMAGES = -1

    # ---- augmentation (training only); each can be turned off ----
    aug = lesion.AUG = CfgNode()
    # Probability of a mirror image, left-right and up-down: dermoscopy has no preferred direction.
    aug.HFLIP = 0.5
    aug.VFLIP = 0.5
    # Probability of a random rotation and scaling, done in one interpolation.
    aug.AFFINE = 0.5
    # Rotation by any angle up to so many degrees either way; 0 turns it off.
    aug.ROTATION = 180.0
    # Range of the scale factor; (1.0, 1.0) turns it off.
    aug.SCALE = (0.8, 1.25)
    # Probability of a random crop. It always contains every lesion whole.
    aug.CROP = 0.3
    # The crop's sides as a share of the image's, at the least.
    aug.CROP_MIN = 0.6
    # Largest relative change of brightness, contrast and saturation (0.2 = 80% to 120%); 0 turns it off.
    aug.BRIGHTNESS = 0.2
    aug.CONTRAST = 0.2
    aug.SATURATION = 0.2
    # Largest hue shift in degrees of the colour circle either way; 0 turns it off.
    aug.HUE = 8.0
    # Probability of drawn hairs, and how many at the most.
    aug.HAIR = 0.2
    aug.HAIR_MAX = 12
    # Probability of a dark circular frame, as dermatoscopes leave it in the corners.
    aug.DARK_CORNERS = 0.1


def setup_cfg(
    config_file: str | Path = "",
    opts: Sequence[str] = (),
    base: CfgNode | None = None,
) -> CfgNode:
    """The cfg of a run: baseline, then the YAML file, then KEY VALUE pairs; not frozen.

    Args:
        config_file: YAML of deltas over the baseline, or a run's complete config.yaml; "" for none.
        opts: KEY VALUE KEY VALUE ..., as on the command line.
        base: start from this cfg instead of the baseline.

    Raises:
        LesionsegError: file not found or not YAML, unknown key, value of the wrong type.
    """
    if base is None:
        cfg = get_cfg()
        add_lesion_config(cfg)
        cfg.merge_from_file(model_zoo.get_config_file(BASELINE))
    else:
        cfg = base.clone()
        cfg.defrost()
    try:
        if config_file:
            if not Path(config_file).is_file():
                raise LesionsegError(f"config file {config_file} does not exist; see the folder configs/")
            cfg.merge_from_file(str(config_file))
        cfg.merge_from_list(list(opts))
    except (
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        AssertionError,
        OSError,
        yaml.YAMLError,
    ) as error:
        where = f"{config_file} and command line" if config_file else "command line"
        message = error.args[0] if error.args else error
        raise LesionsegError(
            f"configuration ({where}): {message}. Keys are declared in lesionseg/config.py and in Detectron2's "
            "config/defaults.py; on the command line they come as KEY VALUE pairs after all options"
        ) from error
    return cfg


def available_device(device: str) -> str:
    """`device`, or "cpu" with a warning where it is a CUDA device and there is none."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("no CUDA device found: computing on the CPU")
        return "cpu"
    return device


def argument_parser(description: str) -> argparse.ArgumentParser:
    """Detectron2's usual training arguments under a description of ours."""
    from detectron2.engine import default_argument_parser

    parser = default_argument_parser(epilog="Research software, no medical device.")
    parser.description = description
    parser.allow_abbrev = False  # --fold would be taken for --folds, and handed on to each fold
    return parser
