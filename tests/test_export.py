"""Exported models against Detectron2 and LesionPredictor, and what cannot be exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import write_pictures
from detectron2.config import CfgNode
from tiny_run import make_run, tiny_cfg

from lesionseg import LesionPredictor, agreement
from lesionseg.agreement import LIMITS, Limits
from lesionseg.config import setup_cfg
from lesionseg.detections import LesionInstances
from lesionseg.errors import LesionsegError
from lesionseg.export import NOT_QUANTISED, example_picture, export_model
from lesionseg.export_network import ExportNetwork, replace_group_norms
from lesionseg.runs import FORMATS
from lesionseg.runtime import PREDICTORS
from lesionseg.stream import FailedImage

ANYTHING = Limits(score=1.0, box=0.0, mask=0.0, missing=9.9, lesion=0.0, jaccard_drop=1.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def cfg(run: Path) -> CfgNode:
    return setup_cfg(run / "config.yaml")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_pictures(folder, [(90, 120), (120, 90), (60, 200), (90, 120), (300, 400)])
    return folder


@pytest.mark.parametrize("opts", [(), ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True")])
def test_network_is_detectron2s_for_any_batch(tmp_path: Path, opts: tuple[str, ...]) -> None:
    run = make_run(tmp_path / "run", *opts)
    model: Any = LesionPredictor(run)._model
    sizes = [(64, 90), (96, 96), (50, 70)]
    rng = torch.Generator().manual_seed(0)
    pictures = [torch.randint(0, 255, (3, *size), generator=rng, dtype=torch.uint8) for size in sizes]
    batch = torch.full((3, 3, 96, 96), 77, dtype=torch.uint8)  # what the padding holds must not matter
    for target, picture in zip(batch, pictures, strict=True):
        target[:, : picture.shape[1], : picture.shape[2]] = picture
    with torch.no_grad():
        boxes, scores, classes, index, masks = ExportNetwork(model).eval()(batch, torch.tensor(sizes))
        expected = model.inference([{"image": picture} for picture in pictures], do_postprocess=False)
    assert len(scores) == sum(len(found) for found in expected) == 15
    for number, found in enumerate(expected):
        own = index == number
        torch.testing.assert_close(boxes[own], found.pred_boxes.tensor, atol=1e-3, rtol=0)
        torch.testing.assert_close(scores[own], found.scores, atol=1e-5, rtol=0)
        assert classes[own].tolist() == found.pred_classes.tolist()
        torch.testing.assert_close(masks[own], found.pred_masks[:, 0], atol=1e-3, rtol=0)


@pytest.fixture(scope="module", params=FORMATS)
def model(request: pytest.FixtureRequest, run: Path, cfg: CfgNode, images: Path) -> Path:
    out = run / f"model{FORMATS[request.param]}"
    export_model(cfg, run / "model_best.pth", out, request.param, images=[images])
    return out


def test_exported_model_finds_what_the_original_finds(model: Path, run: Path, images: Path) -> None:
    original, exported = LesionPredictor(run), PREDICTORS[model.suffix](model)
    assert exported.metadata.thing_classes == ["nevus", "melanoma"]
    files: list[Any] = [*sorted(images.iterdir()), "nowhere.png"]
    for batch_size in (1, 3):
        results = list(exported.predict(files, batch_size))
        assert [record for record, _ in results] == files
        assert isinstance(results[-1][1], FailedImage)
        for (_, found), (_, expected) in zip(results[:-1], original.predict(files[:-1]), strict=True):
            assert isinstance(found, LesionInstances) and len(found) == 5
            assert found.image_size == expected.image_size
            assert found.scores == pytest.approx(expected.scores.numpy(), abs=1e-4)
            assert found.pred_boxes == pytest.approx(expected.pred_boxes.tensor.numpy(), abs=0.05)
            assert found.pred_classes.tolist() == expected.pred_classes.tolist()
            assert (found.pred_masks != expected.pred_masks.numpy()).mean() < 1e-3
    blank = exported(np.zeros((40, 50, 3), np.uint8))
    assert blank.image_size == (40, 50)


def test_exported_model_describes_itself(model: Path, images: Path) -> None:
    told = PREDICTORS[model.suffix](model).description
    assert told["classes"] == ["nevus", "melanoma"] and told["precision"] == "float32"
    assert told["thresholds"]["score"] == 0.0 and told["thresholds"]["instances_an_image"] == 5
    assert told["preprocessing"]["shorter_side_px"] == 64 and told["preprocessing"]["channels"] == "BGR"
    assert told["check"]["images"] == 5 and told["check"]["instances"] == 25
    assert told["check"]["missing"] == 0 and told["check"]["mask_iou"] > 0.99
    assert "no medical device" in told["notice"]
    assert not list(model.parent.glob(".export-*"))


def test_thresholds_of_an_exported_model(run: Path, cfg: CfgNode, images: Path, tmp_path: Path) -> None:
    cfg = cfg.clone()
    cfg.LESION.SCORE_THRESHOLD = 0.2
    out = tmp_path / "model.torchscript"
    export_model(cfg, run / "model_best.pth", out, "torchscript", images=[images])
    image = cv2.imread(str(images / "0.png"))
    scores = PREDICTORS[".torchscript"](out)(image).scores
    middle = float(scores[1:3].mean())
    higher = PREDICTORS[".torchscript"](out, ["LESION.SCORE_THRESHOLD", str(middle)])
    assert higher(image).scores.tolist() == scores[:2].tolist()
    for opts, message in (
        (["LESION.SCORE_THRESHOLD", "0.1"], r"is in \[0.2, 1\]"),
        (["MODEL.ROI_HEADS.NMS_THRESH_TEST", "0.1"], "cannot be changed in an exported model"),
        (["LESION.TTA.ENABLED", "True"], "cannot be changed in an exported model"),
        (["MODEL.DEVICE", "cuda"], "runs on the CPU"),
        (["LESION.NO_KEY", "1"], "NO_KEY"),
    ):
        with pytest.raises(LesionsegError, match=message):
            PREDICTORS[".torchscript"](out, opts)


@pytest.mark.parametrize("form", FORMATS)
def test_images_without_a_lesion(form: str, images: Path, tmp_path: Path) -> None:
    """Of five images one holds an instance; the others, and the picture that a model is traced with, hold none."""
    run = make_run(tmp_path / "run", "MODEL.ROI_MASK_HEAD.NORM", "GN", "MODEL.ROI_MASK_HEAD.CONV_DIM", "32")
    original, files = LesionPredictor(run), sorted(images.iterdir())
    scores = [float(found.scores[0]) for _, found in original.predict(files)]
    second, best = sorted(scores)[-2:]
    traced_with = float(original(example_picture(original)).scores[0])
    threshold = (max(second, traced_with) + best) / 2
    assert max(second, traced_with) < threshold < best
    cfg = setup_cfg(run / "config.yaml", ["LESION.SCORE_THRESHOLD", str(threshold)])
    out = run / f"model{FORMATS[form]}"
    result = export_model(cfg, run / "model_best.pth", out, form, images=[images])
    assert (result.instances, result.missing) == (1, 0)
    exported = PREDICTORS[out.suffix](out)
    expected = [int(score == best) for score in scores]
    for batch_size in (1, 2):
        assert [len(found) for _, found in exported.predict(files, batch_size)] == expected
    alone = exported(cv2.imread(str(files[expected.index(0)])))
    assert alone.pred_masks.shape == (0, *alone.image_size)


def test_group_norms_are_replaced_by_their_equals() -> None:
    model = torch.nn.Sequential(
        torch.nn.Sequential(torch.nn.GroupNorm(2, 6)), torch.nn.GroupNorm(6, 6, eps=0.1)
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    x = 3 * torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(0)) + 10
    expected = model(x)
    replace_group_norms(model)
    assert not any(isinstance(module, torch.nn.GroupNorm) for module in model.modules())
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


def test_network_with_group_norms(images: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "MODEL.FPN.NORM", "GN", "MODEL.FPN.OUT_CHANNELS", "32")
    cfg = setup_cfg(run / "config.yaml")
    result = export_model(cfg, run / "model_best.pth", tmp_path / "model.xml", "openvino", images=[images])
    assert result.instances == 25 and result.mask_iou > 0.999


@pytest.mark.slow
def test_quantised_convolution_before_group_norm() -> None:
    """Channels of very different scales within a group, which OpenVINO must not mix up."""
    nncf, openvino = pytest.importorskip("nncf"), pytest.importorskip("openvino")
    torch.manual_seed(0)
    layers = {
        "conv": torch.nn.Conv2d(3, 8, 3, bias=False),
        "norm": torch.nn.GroupNorm(2, 8),
        "next": torch.nn.Conv2d(8, 8, 1),
    }
    network = torch.nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    with torch.no_grad():
        layers["conv"].weight *= torch.logspace(-0.3, 0.3, 8)[:, None, None, None]
    pictures = [torch.randn(1, 3, 12, 12) for _ in range(16)]
    with torch.no_grad():
        expected = network(pictures[0]).numpy()
        replace_group_norms(network)
        model = openvino.convert_model(network.eval(), example_input=pictures[0])
    scope = nncf.IgnoredScope(patterns=[*NOT_QUANTISED, ".*norm.*"], validate=False)
    quantised = nncf.quantize(model, nncf.Dataset([p.numpy() for p in pictures]), ignored_scope=scope)
    assert "FakeQuantize" in {operation.get_type_name() for operation in quantised.get_ops()}
    compiled = openvino.Core().compile_model(quantised, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(pictures[0].numpy())[0]
    assert np.abs(found - expected).mean() < 0.05 * np.abs(expected).mean()  # mixed up: 0.07


@pytest.mark.slow
@pytest.mark.parametrize("precision, share", [("bf16", 1.0), ("int8", 0.4)])
def test_smaller_precisions(
    run: Path, images: Path, lesion_root: Path, tmp_path: Path, precision: str, share: float
) -> None:
    cfg = setup_cfg(
        run / "config.yaml", ["LESION.DATA_ROOT", str(lesion_root), "DATASETS.TRAIN", "('tiny_train',)"]
    )
    out = tmp_path / "model.xml"
    # random weights bear no rounding
    export_model(
        cfg,
        run / "model_best.pth",
        out,
        "openvino",
        precision,
        [images],
        calibration_images=8,
        limits=ANYTHING,
    )
    predictor = PREDICTORS[".xml"](out)
    assert len(predictor(cv2.imread(str(images / "0.png")))) == 5
    assert predictor.cfg.LESION.BF16 == ("on" if precision == "bf16" else "off")
    assert predictor.description["training_data"] == {
        "tiny_train": {"images": None, "license": "not recorded by the run"}
    }
    floats = (run / "model_best.pth").stat().st_size
    assert out.with_suffix(".bin").stat().st_size < share * floats + 1e5


def test_a_model_that_differs_is_not_written(run: Path, cfg: CfgNode, images: Path, tmp_path: Path) -> None:
    out, more_than_all_there_is = tmp_path / "model.torchscript", Limits(0.01, 0.99, 0.99, 0.0, 1.1, 0.001)
    with pytest.raises(
        LesionsegError, match=r"differs from .* was not written: mean Jaccard index of lesion masks"
    ):
        export_model(
            *(cfg, run / "model_best.pth", out, "torchscript"), images=[images], limits=more_than_all_there_is
        )
    assert not list(tmp_path.iterdir())


def test_another_models_results_do_not_agree(run: Path, images: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", seed=1)
    records = [{"file_name": str(path)} for path in sorted(images.iterdir())]
    same = agreement.agreement(LesionPredictor(run), LesionPredictor(run), records, 0.01)
    assert (same.instances, same.missing, same.score_difference, same.mask_iou) == (25, 0, 0.0, 1.0)
    assert same.problems(LIMITS["float32"]) == []
    differs = agreement.agreement(LesionPredictor(run), LesionPredictor(other), records, 0.01)
    assert differs.missing > 0 and len(differs.problems(LIMITS["int8"])) >= 2


def test_agreement_by_hand() -> None:
    """Two images of 10x10: one lesion found alike but for a column of ten, and one that only the original finds."""
    limits = Limits(score=0.1, box=0.9, mask=0.9, missing=0.1, lesion=0.9, jaccard_drop=0.01)
    mask = np.zeros((1, 10, 10), bool)
    mask[0, :5, :5] = True
    wider = mask.copy()
    wider[0, :5, 5] = True
    box, wide = np.array([[0, 0, 5, 5]], np.float32), np.array([[0, 0, 6, 5]], np.float32)
    first = LesionInstances((10, 10), box, np.array([0.9]), np.array([0]), mask)
    second = LesionInstances((10, 10), wide, np.array([0.8]), np.array([0]), wider)
    assert agreement._pairs(first, second) == [(0, 0)]
    assert (
        agreement._pairs(first, LesionInstances((10, 10), wide, np.array([0.8]), np.array([1]), wider)) == []
    )
    found = agreement.Agreement(2, 2, 1, 0.1, 25 / 30, 25 / 30, 25 / 30, (25 / 30 + 0) / 2, 0.9, 0.85)
    assert [text.split(" ")[0] for text in found.problems(limits)] == ["1", "mean", "mean", "mean", "mean"]


def test_what_cannot_be_exported(run: Path, cfg: CfgNode, images: Path, tmp_path: Path) -> None:
    weights, out = run / "model_best.pth", tmp_path / "model.onnx"
    for arguments, message in (
        ((out, "onnx", "int8"), "int8 is for --format openvino only"),
        ((tmp_path / "model.xml", "onnx"), r"ends in \.onnx"),
        ((out, "tflite"), "expected a format of onnx, openvino, torchscript"),
    ):
        with pytest.raises(LesionsegError, match=message):
            export_model(cfg, weights, *arguments, images=[images])
    with pytest.raises(LesionsegError, match="no images to try the model on"):
        export_model(cfg, weights, out)
    views = tiny_cfg("LESION.TTA.ENABLED", "True")
    with pytest.raises(LesionsegError, match=r"LESION\.TTA\.ENABLED False"):
        export_model(views, weights, out, images=[images])
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_exported_models(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    with pytest.raises(LesionsegError, match="does not exist"):
        PREDICTORS[".onnx"](tmp_path / "model.onnx")
    for suffix in FORMATS.values():
        (tmp_path / f"text{suffix}").write_text("hello")
        with pytest.raises(LesionsegError, match=r"is not a readable model file: [^\n]+Copy it again[^\n]+$"):
            PREDICTORS[suffix](tmp_path / f"text{suffix}")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([node], "g", [value], [other])
    foreign = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(LesionsegError, match=r"expected a model that tools/export_model\.py wrote"):
        PREDICTORS[".onnx"](tmp_path / "foreign.onnx")
    onnx.helper.set_model_props(foreign, {"lesionseg": json.dumps({"format_version": 99})})
    onnx.save(foreign, tmp_path / "later.onnx")
    with pytest.raises(LesionsegError, match="format version 99"):
        PREDICTORS[".onnx"](tmp_path / "later.onnx")
