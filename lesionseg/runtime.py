"""Predictors for exported models: what LesionPredictor does, without Detectron2; ONNX and OpenVINO without torch, too.

>>> predictor = OpenVINOPredictor("output/isic_mrcnn/model.xml")
>>> instances = predictor(cv2.imread("ISIC_0000001.jpg"))

The extra `runtime` (setup.py) brings what they need. They return `LesionInstances`: the fields of Detectron2's
Instances, as arrays.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from yacs.config import CfgNode

from lesionseg.detections import Detections, LesionInstances
from lesionseg.errors import LesionsegError, install_extra
from lesionseg.runs import FORMATS
from lesionseg.stream import ImageStream, Slot

DESCRIPTION = "lesionseg"  # under which a model file keeps what it says of itself, as JSON
FORMAT_VERSION = 1
Arrays = Sequence[np.ndarray]
# What an exported network does not hold fixed.
FREE_KEYS = ("LESION.", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "OUTPUT_DIR")


class ExportedPredictor(ImageStream):
    """Base: a model file that describes itself, and how its arrays become detections.

    Attributes:
        description: what the file says of itself: config, classes, precision, training data, check ... (see
            lesionseg/export.py, which writes it).
    """

    package = ""  # that runs the model
    installation = install_extra("runtime")

    def __init__(
        self, path: str | Path, opts: Sequence[Any] = (), description: dict[str, Any] | None = None
    ) -> None:
        """
        Args:
            path: the model file.
            opts: KEY VALUE KEY VALUE ... over the exported configuration: keys of LESION and the test size.
            description: the file's, where it was read already.

        Raises:
            LesionsegError: no such file, not one that tools/export_model.py wrote, a key that is fixed in the model, or
                the package that runs it is missing.
        """
        self.path, self.opts = Path(path), list(opts)
        if not self.path.is_file():
            raise LesionsegError(f"model {path} does not exist")
        self.description = description or self._described()
        self.cfg = self._configure()
        self.metadata = SimpleNamespace(thing_classes=list(self.description["classes"]))
        self.multiple = int(self.description["preprocessing"]["padded_to_multiple_of"])
        self._threads = 0  # as many as there are cores
        self._session: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.opts, self.description)

    @abstractmethod
    def read_description(self) -> str | None:
        """The text under DESCRIPTION in the model file, or None."""

    @abstractmethod
    def load(self, threads: int) -> Any:
        """The model, ready to run on so many threads (0: all cores)."""

    @abstractmethod
    def infer(self, session: Any, images: np.ndarray, sizes: np.ndarray) -> Arrays:
        """Boxes, scores, classes, image indices and masks; see `export_network.ExportNetwork.forward`."""

    @property
    def weights_file(self) -> Path:
        """The file that holds the weights."""
        return self.path

    def _described(self) -> dict[str, Any]:
        try:
            text = self.read_description()
        except ImportError as error:
            raise LesionsegError(
                f"{self.path} needs the Python package {self.package} ({error}): {self.installation}"
            ) from error
        except Exception as error:
            # OpenVINO tells where in its sources it stopped first, then what was wrong.
            reason = (str(error).strip() or repr(error)).splitlines()[-1]
            both = "" if self.weights_file == self.path else f", with {self.weights_file.name} beside it"
            raise LesionsegError(
                f"{self.path} is not a readable model file: {reason}. Copy it again{both}, or export it again "
                "with tools/export_model.py"
            ) from error
        if not text:
            raise LesionsegError(
                f"{self.path} does not say how it is to be used: expected a model that tools/export_model.py wrote"
            )
        described = json.loads(text)
        if described.get("format_version") != FORMAT_VERSION:
            raise LesionsegError(
                f"{self.path} is of format version {described.get('format_version')}, this lesionseg reads "
                f"{FORMAT_VERSION}: export it again with tools/export_model.py"
            )
        return described

    def _configure(self) -> CfgNode:
        """The exported configuration with `opts` over it."""
        cfg = CfgNode.load_cfg(self.description["config"])
        exported = cfg.LESION.SCORE_THRESHOLD
        keys = [str(key) for key in self.opts[::2]]
        device = dict(zip(keys, self.opts[1::2], strict=False)).get("MODEL.DEVICE", "cpu")
        if device != "cpu":
            raise LesionsegError(
                f"{self.path} runs on the CPU, not on {device}; use the run's own weights on a GPU"
            )
        fixed = [
            k
            for k in keys
            if (k != "MODEL.DEVICE" and not k.startswith(FREE_KEYS)) or k.startswith("LESION.TTA")
        ]
        if fixed:
            raise LesionsegError(
                f"{', '.join(fixed)} cannot be changed in an exported model: export it anew with it"
            )
        try:
            cfg.merge_from_list(self.opts)
        except (KeyError, ValueError, AssertionError) as error:
            raise LesionsegError(
                f"configuration (command line): {error.args[0] if error.args else error}"
            ) from error
        if not exported <= cfg.LESION.SCORE_THRESHOLD <= 1:
            raise LesionsegError(
                f"LESION.SCORE_THRESHOLD is in [{exported}, 1] with {self.path}, not {cfg.LESION.SCORE_THRESHOLD}: lower "
                "scores were left out when it was exported"
            )
        cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = str(self.weights_file), "cpu"
        cfg.LESION.BF16 = "on" if self.description["precision"] == "bf16" else "off"
        cfg.freeze()
        return cfg

    def use_threads(self, count: int) -> None:
        """As ImageStream's; the model is loaded anew if it was loaded for another number."""
        super().use_threads(count)
        if self._threads != count:
            self._threads, self._session = count, None

    def to_instances(self, detections: Detections) -> LesionInstances:
        """Everything at the image's resolution."""
        return detections.instances(self.cfg.LESION.MASK_THRESHOLD)

    def network(self, batch: Sequence[Slot]) -> list[Detections]:
        """The exported network on images of one padded size."""
        if self._session is None:
            self._session = self.load(self._threads)
        pixels = [slot.pixels for slot in batch if slot.pixels is not None]
        height, width = self._padded_size(pixels[0])
        images = np.zeros((len(pixels), 3, height, width), dtype=np.uint8)
        for target, image in zip(images, pixels, strict=True):
            target[:, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
        sizes = np.array([image.shape[:2] for image in pixels], dtype=np.int64)
        boxes, scores, classes, index, masks = self.infer(self._session, images, sizes)
        found = []
        for number, (slot, size) in enumerate(zip(batch, sizes, strict=True)):
            own = (index == number) & (scores > self.cfg.LESION.SCORE_THRESHOLD)
            found.append(_detections(boxes[own], scores[own], classes[own], masks[own], slot, size))
        return found


def _detections(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    masks: np.ndarray,
    slot: Slot,
    size: np.ndarray,
) -> Detections:
    """The network's output for one image, scaled to the original image's px."""
    limits = np.array([slot.width, slot.height] * 2, dtype=np.float32)
    scale = np.array([slot.width / size[1], slot.height / size[0]] * 2, dtype=np.float32)
    boxes = np.clip(boxes.astype(np.float32) * scale, 0, limits)
    whole = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    order = whole[np.argsort(-scores[whole], kind="stable")]
    return Detections(
        boxes[order],
        scores[order].astype(np.float32),
        classes[order].astype(np.int64),
        masks[order].astype(np.float32),
        slot.height,
        slot.width,
    )


class OnnxPredictor(ExportedPredictor):
    """model.onnx, run by ONNX Runtime."""

    package = "onnxruntime"

    def read_description(self) -> str | None:
        return self.load(1).get_modelmeta().custom_metadata_map.get(DESCRIPTION)

    def load(self, threads: int) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only
        return onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])

    def infer(self, session: Any, images: np.ndarray, sizes: np.ndarray) -> Arrays:
        return session.run(None, {"images": images, "sizes": sizes})


class OpenVINOPredictor(ExportedPredictor):
    """model.xml with model.bin beside it, run by OpenVINO."""

    package = "openvino"

    @property
    def weights_file(self) -> Path:
        return self.path.with_suffix(".bin")

    def read_description(self) -> str | None:
        import openvino

        model = openvino.Core().read_model(self.path)
        return model.get_rt_info(DESCRIPTION).astype(str) if model.has_rt_info(DESCRIPTION) else None

    def load(self, threads: int) -> Any:
        import openvino

        # OpenVINO would take bfloat16 by itself where the processor has it: a float32 model is to give float32's results.
        precision = "bf16" if self.description["precision"] == "bf16" else "f32"
        # Pinned threads would put every worker process onto the same core.
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "ENABLE_CPU_PINNING": False}
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        return openvino.Core().compile_model(str(self.path), "CPU", options)

    def infer(self, session: Any, images: np.ndarray, sizes: np.ndarray) -> Arrays:
        results = session({"images": images, "sizes": sizes})
        return [results[number] for number in range(len(session.outputs))]


class TorchScriptPredictor(ExportedPredictor):
    """model.torchscript, run by torch and torchvision."""

    package = "torch"
    installation = "pip install torch torchvision"

    def read_description(self) -> str | None:
        return self._open()[1]

    def _open(self) -> tuple[Any, str]:
        import torch
        import torchvision  # noqa: F401 - brings RoIAlign and NMS

        extra = {DESCRIPTION: ""}
        model = torch.jit.load(self.path, map_location="cpu", _extra_files=extra)
        text: Any = extra[DESCRIPTION]
        return model, text.decode() if isinstance(text, bytes) else text

    def load(self, threads: int) -> Any:
        import torch

        if threads:
            torch.set_num_threads(threads)
        return self._open()[0]

    def infer(self, session: Any, images: np.ndarray, sizes: np.ndarray) -> Arrays:
        import torch

        with torch.inference_mode():
            outputs = session(torch.from_numpy(images), torch.from_numpy(sizes))
        return [output.numpy() for output in outputs]


PREDICTORS: dict[str, type[ExportedPredictor]] = {
    FORMATS["onnx"]: OnnxPredictor,
    FORMATS["openvino"]: OpenVINOPredictor,
    FORMATS["torchscript"]: TorchScriptPredictor,
}
