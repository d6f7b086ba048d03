"""A trained run as one model file for lesionseg.runtime: ONNX, OpenVINO or TorchScript, checked against the original.

The file describes itself (`describe`): configuration, classes, preprocessing, thresholds, training data and its licence,
and how well the check went. A model that differs from the original is not written.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

import lesionseg
from lesionseg.agreement import LIMITS, Agreement, Limits, agreement
from lesionseg.errors import LesionsegError, install_extra
from lesionseg.export_network import INPUTS, OUTPUTS, ExportNetwork, replace_group_norms
from lesionseg.inputs import find_images
from lesionseg.loading import class_names
from lesionseg.predictor import LesionPredictor
from lesionseg.register import require
from lesionseg.runs import FORMATS
from lesionseg.runtime import DESCRIPTION, FORMAT_VERSION, PREDICTORS
from lesionseg.stages import LICENSES_FILE
from lesionseg.stream import Slot

PRECISIONS = tuple(LIMITS)
# Names of operations that int8 leaves in float32: normalisation, and all that ExportNetwork itself does (pixels to
# network inputs, boxes); layers have their module's name before their own.
NOT_QUANTISED = (r".*/norm/.*", r"^/[A-Za-z]+(_\d+)?$")
OPSET = 17  # 16 brought RoiAlign with half-pixel coordinates, which is Detectron2's aligned RoIAlign
logger = logging.getLogger(__name__)


def export_model(
    cfg: CfgNode,
    weights: str | Path,
    out: str | Path,
    form: str = "onnx",
    precision: str = "float32",
    images: Sequence[str | Path] = (),
    calibration: Sequence[str | Path] = (),
    check_images: int = 32,
    calibration_images: int = 128,
    limits: Limits | None = None,
) -> Agreement:
    """Export a trained model, check it on real images, and write it if it agrees with the original.

    Args:
        cfg: the run's configuration; its score threshold, test size and limits of instances go into the model.
        weights: the run's checkpoint.
        out: the file to write; the suffix belongs to the format (`runs.FORMATS`). OpenVINO's .bin comes beside it.
        form: a key of FORMATS.
        precision: "float32"; with OpenVINO also "bf16" (where the processor has it) and "int8" (post-training
            quantisation by NNCF).
        images: to check on, as `lesionseg.inputs.find_images` takes them; by default from the run's test set, and then
            with reference masks.
        calibration: images whose activations set the scale of int8; by default from the run's training set.
        check_images, calibration_images: at most so many, evenly spread.
        limits: what the written model may differ from the original; by default the precision's of `agreement.LIMITS`.

    Returns:
        How well the written model agrees with the original in float32.

    Raises:
        LesionsegError: no images, a package that is missing, settings that cannot be exported, or a model that differs.
    """
    _refuse(cfg, out, form, precision)
    limits = limits or LIMITS[precision]
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE, cfg.LESION.BF16 = "cpu", "off"
    original = LesionPredictor(cfg, weights)
    records = _spread(_records(cfg, images, cfg.DATASETS.TEST), check_images)
    examples = _records(cfg, calibration, cfg.DATASETS.TRAIN) if precision == "int8" else []
    examples = _spread(examples, calibration_images)
    description = describe(original, precision)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
        draft = Path(folder, out.name)
        write = _writer(original, form, examples)
        write(draft, description)
        exported = PREDICTORS[FORMATS[form]](draft)
        logger.info("checking on %d images", len(records))
        result = agreement(original, exported, records, limits.score)
        problems = result.problems(limits)
        if problems:
            raise LesionsegError(
                f"the exported model differs from {weights} and was not written: {'; '.join(problems)} "
                f"(on {result.images} images, such as {records[0]['file_name']})"
            )
        description["check"] = {"limits": vars(limits), **result.rounded()}
        write(draft, description)
        # The file that is opened comes last: with it the model is complete.
        for part in sorted(Path(folder).iterdir(), key=lambda part: part.name == out.name):
            shutil.move(part, out.parent / part.name)
    return result


def _refuse(cfg: CfgNode, out: str | Path, form: str, precision: str) -> None:
    if form not in FORMATS or precision not in PRECISIONS:
        raise LesionsegError(
            f"expected a format of {', '.join(FORMATS)} and a precision of {', '.join(PRECISIONS)}, found {form}, {precision}"
        )
    if precision != "float32" and form != "openvino":
        raise LesionsegError(f"{precision} is for --format openvino only; {form} models are float32")
    if Path(out).suffix != FORMATS[form]:
        raise LesionsegError(f"{out}: a model of format {form} is a file that ends in {FORMATS[form]}")
    if cfg.LESION.TTA.ENABLED:
        raise LesionsegError("test-time augmentation is not exported: add LESION.TTA.ENABLED False")


def _records(cfg: CfgNode, images: Sequence[str | Path], datasets: Sequence[str]) -> list[dict[str, Any]]:
    if images:
        return [{"file_name": str(item.path)} for item in find_images(images)]
    try:
        require(tuple(datasets), cfg.LESION.DATA_ROOT)
        records = [record for name in datasets for record in DatasetCatalog.get(name)]
    except LesionsegError as error:
        raise LesionsegError(
            f"no images to try the model on: {error}; or give some with --images (for int8 also --calibration)"
        ) from error
    if not records:
        raise LesionsegError(
            "no images to try the model on: the configuration names no data set; give some with --images"
        )
    return records


def _spread(items: list[Any], most: int) -> list[Any]:
    places = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[place] for place in places]


def describe(predictor: LesionPredictor, precision: str) -> dict[str, Any]:
    """What a model file says of itself; all that is needed to use it, and to know where it comes from."""
    cfg = predictor.cfg
    weights = Path(cfg.MODEL.WEIGHTS)
    return {
        "format_version": FORMAT_VERSION,
        "made_by": f"lesionseg {lesionseg.__version__}",
        "date": date.today().isoformat(),
        "notice": "Research software, no medical device.",
        "architecture": cfg.MODEL.META_ARCHITECTURE,
        "precision": precision,
        "classes": class_names(cfg),
        "preprocessing": {
            "channels": cfg.INPUT.FORMAT,
            "shorter_side_px": cfg.INPUT.MIN_SIZE_TEST,
            "longer_side_at_most_px": cfg.INPUT.MAX_SIZE_TEST,
            "interpolation": "bilinear with antialiasing (Pillow)",
            "padded_to_multiple_of": predictor.multiple,
            "normalisation": "inside the model: images are uint8",
        },
        "thresholds": {
            "score": cfg.LESION.SCORE_THRESHOLD,
            "mask": cfg.LESION.MASK_THRESHOLD,
            "nms_iou": cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            "instances_an_image": cfg.TEST.DETECTIONS_PER_IMAGE,
        },
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "training_data": _training_data(cfg, weights.parent),
        "config": cfg.dump(),
    }


def _training_data(cfg: CfgNode, run: Path) -> dict[str, Any]:
    """Data set -> number of images and licence, as the run folder tells."""
    licenses = run / "data" / LICENSES_FILE
    known = json.loads(licenses.read_text()) if licenses.is_file() else {}
    data = {}
    for name in cfg.DATASETS.TRAIN:
        table = run / "data" / f"{name}.csv"
        images = None
        if table.is_file():
            with open(table, newline="", encoding="utf-8") as file:
                images = sum(1 for _ in csv.DictReader(file))
        data[name] = {"images": images, "license": known.get(name, "not recorded by the run")}
    return data


Write = Callable[[Path, dict[str, Any]], None]


def _writer(original: LesionPredictor, form: str, calibration: list[dict[str, Any]]) -> Write:
    """A function that writes the model file with a description; tracing and quantising are done once."""
    network = ExportNetwork(original._model).eval()
    example = _inputs(original, original._prepare(example_picture(original), "example"))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # tracing warns of every shape that it takes for a constant; the check decides
        if form == "torchscript":
            traced = torch.jit.trace(network, example, check_trace=False)
            return lambda path, description: torch.jit.save(
                traced, path, _extra_files={DESCRIPTION: json.dumps(description)}
            )
        try:
            return (
                _onnx_writer(network, example)
                if form == "onnx"
                else _openvino_writer(example, original, calibration)
            )
        except ImportError as error:
            raise LesionsegError(f"{error}: {install_extra('export')}") from error


def example_picture(predictor: LesionPredictor) -> np.ndarray:
    """uint8 (S, S, 3), noise of the test size: what the network is traced with, whether it finds something there or not."""
    side = predictor.cfg.INPUT.MIN_SIZE_TEST
    return np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)


def _inputs(predictor: LesionPredictor, slot: Slot) -> tuple[torch.Tensor, torch.Tensor]:
    """The network's inputs for one image, padded."""
    assert slot.pixels is not None
    height, width = predictor._padded_size(slot.pixels)
    images = np.zeros((1, 3, height, width), dtype=np.uint8)
    images[0, :, : slot.pixels.shape[0], : slot.pixels.shape[1]] = slot.pixels.transpose(2, 0, 1)
    return torch.from_numpy(images), torch.tensor([slot.pixels.shape[:2]])


def _to_onnx(network: ExportNetwork, example: tuple[torch.Tensor, ...], path: Path) -> None:
    axes = {"images": {0: "images", 2: "height", 3: "width"}, "sizes": {0: "images"}}
    axes |= {name: {0: "detections"} for name in OUTPUTS}
    torch.onnx.export(
        network,
        example,
        str(path),
        dynamo=False,  # its successor cannot follow shapes that depend on the number of detections
        opset_version=OPSET,
        input_names=list(INPUTS),
        output_names=list(OUTPUTS),
        dynamic_axes=axes,
    )


def _onnx_writer(network: ExportNetwork, example: tuple[torch.Tensor, ...]) -> Write:
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        _to_onnx(network, example, Path(folder, "model.onnx"))
        model = onnx.load(Path(folder, "model.onnx"))

    def write(path: Path, description: dict[str, Any]) -> None:
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, {DESCRIPTION: json.dumps(description)})
        onnx.save(model, path)

    return write


def _openvino_writer(
    example: tuple[torch.Tensor, ...],
    predictor: LesionPredictor,
    calibration: list[dict[str, Any]],
) -> Write:
    import openvino

    network = ExportNetwork(
        LesionPredictor(predictor.cfg)._model
    ).eval()  # a copy: the original is compared with
    replace_group_norms(network)
    with tempfile.TemporaryDirectory() as folder:
        _to_onnx(network, example, Path(folder, "model.onnx"))
        model = openvino.convert_model(Path(folder, "model.onnx"))
    if calibration:
        import nncf

        inputs = nncf.Dataset(list(_calibration_inputs(predictor, calibration)))
        model = nncf.quantize(
            model,
            inputs,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(patterns=list(NOT_QUANTISED), validate=False),
        )

    def write(path: Path, description: dict[str, Any]) -> None:
        model.set_rt_info(json.dumps(description), DESCRIPTION)
        openvino.save_model(model, path, compress_to_fp16=False)

    return write


def _calibration_inputs(
    predictor: LesionPredictor, records: list[dict[str, Any]]
) -> Iterator[dict[str, np.ndarray]]:
    for record in records:
        slot = predictor._read(record)
        if slot.pixels is None:
            raise LesionsegError(str(slot.result))
        images, sizes = _inputs(predictor, slot)
        yield {"images": images.numpy(), "sizes": sizes.numpy()}
