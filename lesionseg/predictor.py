"""LesionPredictor: images in, instances out; one at a time or as a stream of batches."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from lesionseg.detections import Detections
from lesionseg.errors import LesionsegError
from lesionseg.images import read_image
from lesionseg.loading import class_names, load_weights, prediction_cfg
from lesionseg.precision import autocast, keep_outputs_float32
from lesionseg.reduced_jpeg import read_reduced_jpeg
from lesionseg.tta import TestTimeAugmentation

logger = logging.getLogger(__name__)

Record = str | Path | dict[str, Any]  # an image file, or a dict that names it as "file_name"
# Threads that decode and resize ahead of the network; Pillow lets them run beside Python.
READERS = min(16, os.cpu_count() or 1)


@dataclass(frozen=True)
class FailedImage:
    """What a stream yields in place of a result, for an image that could not be read."""

    file_name: str
    error: LesionsegError

    def __str__(self) -> str:
        return str(self.error)


@dataclass
class _Slot:
    """An image on its way through the stream: waiting for the network while `result` is None."""

    record: Record
    pixels: np.ndarray | None = None  # uint8 (h, w, 3), the network's input
    height: int = 0
    width: int = 0
    result: Detections | FailedImage | None = None


class LesionPredictor:
    """A trained model, ready to use.

    >>> predictor = LesionPredictor("output/isic_mrcnn")
    >>> instances = predictor(cv2.imread("ISIC_0000001.jpg"))
    >>> for record, result in predictor.predict(sorted(Path("imgs").glob("*.jpg")), batch_size=8): ...

    Images are resized and normalised as Detectron2's DefaultPredictor does it (cfg.INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST,
    FORMAT). Instances below cfg.LESION.SCORE_THRESHOLD are left out.

    Attributes:
        cfg: the configuration in use.
        metadata: `metadata.thing_classes` names the classes that `pred_classes` counts from 0.

    Raises:
        LesionsegError: run folder, configuration or weights missing; weights that do not fit the configuration.
    """

    def __init__(
        self,
        cfg_or_run_folder: CfgNode | str | Path,
        weights: str | Path | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        """
        Args:
            cfg_or_run_folder: a configuration, or a run folder (config.yaml and model_best.pth or model_final.pth).
            weights: a checkpoint; by default the run folder's, or cfg.MODEL.WEIGHTS.
            device: "cpu", "cuda" ...; by default cfg.MODEL.DEVICE.
        """
        self.cfg = prediction_cfg(cfg_or_run_folder, weights, device)
        self.device = torch.device(self.cfg.MODEL.DEVICE)
        self.metadata = Metadata(thing_classes=class_names(self.cfg))
        self._model = build_model(self.cfg).eval().to(memory_format=torch.channels_last)
        load_weights(self._model, self.cfg.MODEL.WEIGHTS)
        keep_outputs_float32(self._model)
        if self.cfg.LESION.TTA.ENABLED:
            self._model = TestTimeAugmentation(self._model, self.cfg)

    def __reduce__(self) -> tuple[Any, ...]:
        return LesionPredictor, (self.cfg,)

    def __call__(self, image: np.ndarray) -> Instances:
        """Predict one image.

        Args:
            image: uint8 (H, W, 3), BGR, as `cv2.imread` or `lesionseg.images.read_image` give it.

        Returns:
            Instances on the CPU, by falling score: pred_boxes (XYXY in px), scores float32 in [0, 1], pred_classes
            int64, pred_masks bool (N, H, W) at the image's resolution.

        Raises:
            LesionsegError: an array of another kind, or one too slim to be resized.
        """
        slot = self._prepare(image, "image")
        (found,) = self._run([slot])
        return to_instances(found, self.cfg.LESION.MASK_THRESHOLD)

    def predict(self, records: Iterable[Record], batch_size: int = 1) -> Iterator[tuple[Record, Any]]:
        """Predict image files as a stream, in the order given; memory does not grow with their number.

        Args:
            records: paths, or dicts with "file_name" (Detectron2's dataset dicts, for instance).
            batch_size: images that the network takes at once. No result depends on it.

        Yields:
            (record, Instances), see `__call__`; (record, FailedImage) for an image that could not be read.
        """
        threshold = self.cfg.LESION.MASK_THRESHOLD
        with closing(self.detect(records, batch_size)) as stream:
            for record, result in stream:
                yield record, result if isinstance(result, FailedImage) else to_instances(result, threshold)

    def detect(
        self, records: Iterable[Record], batch_size: int = 1
    ) -> Generator[tuple[Record, Detections | FailedImage]]:
        """Like `predict`, with the masks left at the network's resolution.

        Only images that are padded to one and the same size share a batch, so that an image's result is what it would
        be alone. Others wait, up to four batches of them.
        """
        if batch_size < 1:
            raise LesionsegError(f"the batch size is 1 or more, not {batch_size}")
        waiting: deque[_Slot] = deque()
        batches: dict[tuple[int, int], list[_Slot]] = {}
        with closing(_ahead(self._read, records, READERS, READERS + batch_size)) as slots:
            for slot in slots:
                waiting.append(slot)
                if slot.pixels is not None:
                    size = self._padded_size(slot.pixels)
                    batches.setdefault(size, []).append(slot)
                    if len(batches[size]) == batch_size:
                        self._run(batches.pop(size))
                if len(waiting) > 4 * batch_size and waiting[0].pixels is not None:
                    self._run(batches.pop(self._padded_size(waiting[0].pixels)))
                yield from _finished(waiting)
        for batch in batches.values():
            self._run(batch)
        yield from _finished(waiting)

    def _read(self, record: Record) -> _Slot:
        """Runs in a reader thread: an image file to the network's input."""
        file_name = record["file_name"] if isinstance(record, dict) else record
        try:
            # Twice the network's size keeps all detail that its own resizing would keep.
            reduced = read_reduced_jpeg(file_name, 2 * self.cfg.INPUT.MIN_SIZE_TEST)
            image, size = reduced or (read_image(file_name), None)
            slot = self._prepare(image, file_name, size)
        except LesionsegError as error:
            return _Slot(record, result=FailedImage(str(file_name), error))
        slot.record = record
        return slot

    def _prepare(self, image: np.ndarray, name: str | Path, size: tuple[int, int] | None = None) -> _Slot:
        """uint8 (H, W, 3) BGR to the network's size and channel order; `size` is the full image's, if not (H, W)."""
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
            raise LesionsegError(
                f"{name}: expected a uint8 array (height, width, 3) in BGR order, found {found}"
            )
        if image.size == 0:
            raise LesionsegError(f"{name}: the image is empty: {found}")
        if self.cfg.INPUT.FORMAT == "RGB":
            image = image[:, :, ::-1]
        height, width = size or image.shape[:2]
        shortest, longest = self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST
        target = T.ResizeShortestEdge.get_output_shape(height, width, shortest, longest)
        if min(target) < 1:
            raise LesionsegError(f"{name}: {width}x{height} px is too slim to be resized for the network")
        pixels = T.ResizeTransform(*image.shape[:2], *target).apply_image(image)
        return _Slot(name, pixels, height, width)

    def _padded_size(self, pixels: np.ndarray) -> tuple[int, int]:
        multiple = max(1, self._model.backbone.size_divisibility)
        height, width = (-(-side // multiple) * multiple for side in pixels.shape[:2])
        return height, width

    @torch.inference_mode()
    def _run(self, batch: list[_Slot]) -> list[Detections]:
        """The network on images of one padded size; sets `result` and frees `pixels` of each."""
        images = [slot.pixels for slot in batch if slot.pixels is not None]
        inputs = [{"image": torch.from_numpy(image.transpose(2, 0, 1).copy())} for image in images]
        try:
            with autocast(self.device, self.cfg.LESION.BF16):
                outputs = self._model.inference(inputs, do_postprocess=False)
        except torch.cuda.OutOfMemoryError as error:
            raise LesionsegError(
                f"{len(batch)} images of {inputs[0]['image'].shape[1:]} px do not fit the GPU's memory: use a smaller "
                "--batch-size or INPUT.MIN_SIZE_TEST"
            ) from error
        found = [
            _detections(output, slot.height, slot.width) for slot, output in zip(batch, outputs, strict=True)
        ]
        for slot, result in zip(batch, found, strict=True):
            slot.result, slot.pixels = result, None
        return found


def to_instances(detections: Detections, mask_threshold: float) -> Instances:
    """Detections with their masks brought to the image's resolution, as `LesionPredictor.__call__` returns them."""
    return Instances(
        (detections.height, detections.width),
        pred_boxes=Boxes(torch.from_numpy(detections.boxes)),
        scores=torch.from_numpy(detections.scores),
        pred_classes=torch.from_numpy(detections.classes),
        pred_masks=torch.from_numpy(detections.full_masks(mask_threshold)),
    )


def _detections(output: Instances, height: int, width: int) -> Detections:
    """The network's raw output for one image, scaled to the original image's px."""
    boxes = output.pred_boxes.clone()
    boxes.scale(width / output.image_size[1], height / output.image_size[0])
    boxes.clip((height, width))
    whole = boxes.nonempty()
    order = torch.argsort(output.scores[whole], descending=True, stable=True)

    def as_numpy(values: torch.Tensor) -> np.ndarray:
        return values[whole][order].cpu().numpy()

    masks = output.pred_masks[:, 0].float()
    return Detections(
        as_numpy(boxes.tensor.float()),
        as_numpy(output.scores.float()),
        as_numpy(output.pred_classes),
        as_numpy(masks),
        height,
        width,
    )


def _finished(waiting: deque[_Slot]) -> Iterator[tuple[Record, Detections | FailedImage]]:
    """Take the slots that have a result off the left end."""
    while waiting and waiting[0].result is not None:
        slot = waiting.popleft()
        assert slot.result is not None
        yield slot.record, slot.result


def _ahead(
    function: Callable[[Record], _Slot], items: Iterable[Record], threads: int, limit: int
) -> Generator[_Slot]:
    """`map(function, items)` in order, computed by threads up to `limit` items ahead."""
    pending: deque[Future[_Slot]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read-image")
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= limit:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
