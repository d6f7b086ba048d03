"""Image files to what a network finds in them, as a stream: decoding ahead in threads, batches, failed images passed on.

Neither torch nor Detectron2 is needed here: every predictor (`predictor.LesionPredictor`, those of `runtime`) is an
`ImageStream` with a network of its own kind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits

from lesionseg.detections import Detections
from lesionseg.errors import LesionsegError
from lesionseg.images import read_image
from lesionseg.reduced_jpeg import read_reduced_jpeg
from lesionseg.workers import cores

Record = str | Path | dict[str, Any]  # an image file, or a dict that names it as "file_name"
# Threads that decode and resize ahead of the network; Pillow lets them run beside Python.
READERS = min(16, cores())


@dataclass(frozen=True)
class FailedImage:
    """What a stream yields in place of a result, for an image that could not be read."""

    file_name: str
    error: LesionsegError

    def __str__(self) -> str:
        return str(self.error)


@dataclass
class Slot:
    """An image on its way through the stream: waiting for the network while `result` is None.

    Attributes:
        pixels: uint8 (h, w, 3), the network's input, in its channel order.
        height, width: of the image itself, in px.
    """

    record: Record
    pixels: np.ndarray | None = None
    height: int = 0
    width: int = 0
    result: Detections | FailedImage | None = None


def network_size(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """The (height, width) in px to which Detectron2's ResizeShortestEdge brings an image.

    Args:
        shortest: length of the shorter side.
        longest: limit of the longer side, which goes first.
    """
    scale = shortest / min(height, width)
    sides = [float(shortest), scale * width] if height < width else [scale * height, float(shortest)]
    if max(sides) > longest:
        shrink = longest / max(sides)
        sides = [side * shrink for side in sides]
    return int(sides[0] + 0.5), int(sides[1] + 0.5)


class ImageStream(ABC):
    """Base of all predictors.

    Attributes:
        cfg: configuration; `cfg.INPUT` and `cfg.LESION` are used.
        metadata: `metadata.thing_classes` names the classes that `pred_classes` counts from 0.
        on_cpu: whether the network computes on the processor's cores.
        forkable: whether a forked copy of the process can use the network.
        multiple: px; images are padded to a multiple of it, at their right and lower side.
        readers: threads that decode and resize ahead of the network; 0 does it in between.
    """

    cfg: Any
    metadata: Any
    on_cpu: bool = True
    forkable: bool = False
    multiple: int = 1
    readers: int = READERS

    @abstractmethod
    def to_instances(self, detections: Detections) -> Any:
        """What `__call__` and `predict` return for an image, with masks at its resolution."""

    @abstractmethod
    def network(self, batch: Sequence[Slot]) -> list[Detections]:
        """What the network finds in images of one padded size."""

    def use_threads(self, count: int) -> None:
        """Compute with so many threads from now on: threads that wait for a core of their own cost many times their work."""
        threadpool_limits(count)
        self.readers = READERS if count > 1 else 0

    def __call__(self, image: np.ndarray) -> Any:
        """Predict one image.

        Args:
            image: uint8 (H, W, 3), BGR, as `cv2.imread` or `lesionseg.images.read_image` give it.

        Returns:
            Instances by falling score: pred_boxes (XYXY in px), scores float32 in [0, 1], pred_classes int64, pred_masks
            bool (N, H, W) at the image's resolution.

        Raises:
            LesionsegError: an array of another kind, or one too slim to be resized.
        """
        slot = self._prepare(image, "image")
        (found,) = self._run([slot])
        return self.to_instances(found)

    def predict(self, records: Iterable[Record], batch_size: int = 1) -> Iterator[tuple[Record, Any]]:
        """Predict image files as a stream, in the order given; memory does not grow with their number.

        Args:
            records: paths, or dicts with "file_name" (Detectron2's dataset dicts, for instance).
            batch_size: images that the network takes at once. No result depends on it.

        Yields:
            (record, instances), see `__call__`; (record, FailedImage) for an image that could not be read.
        """
        with closing(self.detect(records, batch_size)) as stream:
            for record, result in stream:
                yield record, result if isinstance(result, FailedImage) else self.to_instances(result)

    def detect(
        self, records: Iterable[Record], batch_size: int = 1
    ) -> Generator[tuple[Record, Detections | FailedImage]]:
        """Like `predict`, with the masks left at the network's resolution.

        Only images that are padded to one and the same size share a batch, so that an image's result is what it would
        be alone. Others wait, up to four batches of them.
        """
        if batch_size < 1:
            raise LesionsegError(f"the batch size is 1 or more, not {batch_size}")
        waiting: deque[Slot] = deque()
        batches: dict[tuple[int, int], list[Slot]] = {}
        with closing(_ahead(self._read, records, self.readers, self.readers + batch_size)) as slots:
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

    def _read(self, record: Record) -> Slot:
        """Runs in a reader thread: an image file to the network's input."""
        file_name = record["file_name"] if isinstance(record, dict) else record
        try:
            # Twice the network's size keeps all detail that its own resizing would keep.
            reduced = read_reduced_jpeg(file_name, 2 * self.cfg.INPUT.MIN_SIZE_TEST)
            if reduced is None:
                slot = self._prepare(read_image(file_name), file_name)
            else:
                picture, (height, width) = reduced
                slot = self._resized(picture, self.cfg.INPUT.FORMAT == "BGR", height, width, file_name)
        except LesionsegError as error:
            return Slot(record, result=FailedImage(str(file_name), error))
        slot.record = record
        return slot

    def _prepare(self, image: np.ndarray, name: str | Path) -> Slot:
        """uint8 (H, W, 3) BGR to the network's size and channel order."""
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
            raise LesionsegError(
                f"{name}: expected a uint8 array (height, width, 3) in BGR order, found {found}"
            )
        if image.size == 0:
            raise LesionsegError(f"{name}: the image is empty: {found}")
        height, width = image.shape[:2]
        return self._resized(Image.fromarray(image), self.cfg.INPUT.FORMAT == "RGB", height, width, name)

    def _resized(self, picture: Image.Image, turned: bool, height: int, width: int, name: str | Path) -> Slot:
        """A picture of an image of (height, width) px at the network's size, its channels turned round if need be."""
        shortest, longest = self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST
        target = network_size(height, width, shortest, longest)
        if min(target) < 1:
            raise LesionsegError(f"{name}: {width}x{height} px is too slim to be resized for the network")
        pixels = np.asarray(picture.resize(target[::-1], Image.Resampling.BILINEAR))
        if turned:
            pixels = np.ascontiguousarray(pixels[:, :, ::-1])
        return Slot(name, pixels, height, width)

    def _padded_size(self, pixels: np.ndarray) -> tuple[int, int]:
        height, width = (-(-side // self.multiple) * self.multiple for side in pixels.shape[:2])
        return height, width

    def _run(self, batch: list[Slot]) -> list[Detections]:
        """The network on images of one padded size; sets `result` and frees `pixels` of each."""
        found = self.network(batch)
        for slot, result in zip(batch, found, strict=True):
            slot.result, slot.pixels = result, None
        return found


def _finished(waiting: deque[Slot]) -> Iterator[tuple[Record, Detections | FailedImage]]:
    """Take the slots that have a result off the left end."""
    while waiting and waiting[0].result is not None:
        slot = waiting.popleft()
        assert slot.result is not None
        yield slot.record, slot.result


def _ahead(
    function: Callable[[Record], Slot], items: Iterable[Record], threads: int, limit: int
) -> Generator[Slot]:
    """`map(function, items)` in order, computed by threads up to `limit` items ahead."""
    if not threads:  # a thread for each image, with memory of its own, costs a tenth of the image's time
        yield from map(function, items)
        return
    pending: deque[Future[Slot]] = deque()
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
