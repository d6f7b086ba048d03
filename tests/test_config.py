"""Configuration: what the YAML files amount to, and what a user is told who mistypes one."""

from __future__ import annotations

import pytest
import yaml
from conftest import ROOT
from detectron2 import model_zoo
from detectron2.modeling import build_model

from lesionseg.config import BASELINE, argument_parser, setup_cfg
from lesionseg.errors import LesionsegError

CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*mrcnn*.yaml"))


def test_main_config_extends_the_model_zoo_baseline():
    cfg, baseline = setup_cfg(ROOT / "configs/isic_mrcnn.yaml"), model_zoo.get_config(BASELINE)
    assert cfg.MODEL.RESNETS.DEPTH == baseline.MODEL.RESNETS.DEPTH == 50
    assert cfg.MODEL.BACKBONE.NAME == "build_resnet_fpn_backbone"
    assert (
        model_zoo.get_checkpoint_url(BASELINE).replace(
            "https://dl.fbaipublicfiles.com/detectron2/", "detectron2://"
        )
        == cfg.MODEL.WEIGHTS
    )
    assert cfg.INPUT.MASK_FORMAT == "bitmask"


def test_r101_weights_are_the_model_zoos():
    url = model_zoo.get_checkpoint_url("COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x.yaml")
    assert setup_cfg(ROOT / "configs/isic_mrcnn_R101.yaml").MODEL.WEIGHTS.split("://")[1] in url


def leaves(node: dict, prefix: str = "") -> dict:
    found = {}
    for key, value in node.items():
        found.update(leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_lists_only_what_differs(name):
    own = yaml.safe_load((ROOT / "configs" / name).read_text())
    base = own.pop("_BASE_", None)
    own.pop("VERSION")
    before = setup_cfg(ROOT / "configs" / base if base else "")
    after = setup_cfg(ROOT / "configs" / name)

    def value(cfg, key):
        for part in key.split("."):
            cfg = cfg[part]
        return cfg

    same = [key for key in leaves(own) if value(before, key) == value(after, key)]
    assert not same, f"{name} repeats what its base has already: {same}"


def test_command_line_wins():
    cfg = setup_cfg(ROOT / "configs/isic_mrcnn.yaml", ["SOLVER.BASE_LR", "0.5", "LESION.AUG.HFLIP", "0.0"])
    assert cfg.SOLVER.BASE_LR == 0.5 and cfg.LESION.AUG.HFLIP == 0.0


def test_a_dumped_config_reads_back_the_same(tmp_path):
    cfg = setup_cfg(ROOT / "configs/isic_mrcnn_scratch.yaml", ["LESION.CLASSES", "('a','b')"])
    (tmp_path / "config.yaml").write_text(cfg.dump())
    # As YAML text: a tuple comes back as a list, which Detectron2 treats alike.
    assert yaml.safe_load(setup_cfg(tmp_path / "config.yaml").dump()) == yaml.safe_load(cfg.dump())


@pytest.mark.parametrize(
    ("opts", "expected"),
    [
        (["SOLVER.BASE_RATE", "1"], "BASE_RATE"),
        (["SOLVER.MAX_ITER", "many"], "many"),
        (["SOLVER.MAX_ITER"], "command line"),
    ],
)
def test_mistakes_on_the_command_line_are_named(opts, expected):
    with pytest.raises(LesionsegError, match=expected):
        setup_cfg("", opts)


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(LesionsegError, match=r"nowhere\.yaml"):
        setup_cfg(tmp_path / "nowhere.yaml")
    (tmp_path / "broken.yaml").write_text("SOLVER: [1")
    with pytest.raises(LesionsegError, match=r"broken\.yaml"):
        setup_cfg(tmp_path / "broken.yaml")


def test_an_abbreviated_option_is_refused():
    """--fold for --folds would be handed on to the command of each fold, which would start all folds again."""
    with pytest.raises(SystemExit):
        argument_parser("").parse_args(["--resum"])


def test_coco_weights_fit_the_default_model():
    """By name and shape, but for the last layers, which depend on the number of classes."""
    ours, coco = (
        {name: value.shape for name, value in build_model(cfg).state_dict().items()}
        for cfg in (
            setup_cfg(ROOT / "configs/isic_mrcnn.yaml", ["MODEL.DEVICE", "cpu"]),
            setup_cfg(opts=["MODEL.DEVICE", "cpu"]),
        )
    )
    new = {name.rsplit(".", 1)[0] for name, shape in ours.items() if coco.get(name) != shape}
    assert new == {
        f"roi_heads.{layer}"
        for layer in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_head.predictor")
    }
