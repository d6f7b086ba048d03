"""What a prediction leaves on disk: one sink a kind of output, each a context manager, every file written atomically.

An image's own files (overlay, mask, crops) come from a `Prediction`; the run's tables (COCO json, CSV) from the rows
that `describe` makes of predictions and that the journal keeps.
"""

from __future__ import annotations

import csv
import importlib.util
import json
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TextIO

import numpy as np

from lesionseg.annotations import Annotation, Annotator, csv_cells
from lesionseg.crops import crop
from lesionseg.detections import LesionInstances
from lesionseg.errors import LesionsegError
from lesionseg.features_drawing import draw_abcd
from lesionseg.images import atomic_write, read_image, write_image
from lesionseg.inputs import Item
from lesionseg.masks import configured_lesion_mask
from lesionseg.prediction_journal import identity
from lesionseg.rle import encode_rle

CSV_COLUMNS = (
    *(
        "file",
        "instance",
        "class",
        "score",
        "x",
        "y",
        "width",
        "height",
    ),  # box in px, from the top left corner
    *("area_px", "area_share"),  # of the mask; the share is of the image, in [0, 1]
)


@dataclass
class Prediction:
    """The instances found in an image, and the image, which is read when a sink first asks for it."""

    item: Item
    instances: LesionInstances
    cfg: Any
    class_names: Sequence[str]
    annotator: Annotator = field(default_factory=Annotator)

    @cached_property
    def image(self) -> np.ndarray:
        """uint8 (H, W, 3) BGR."""
        return read_image(self.item.path)

    @cached_property
    def annotations(self) -> list[Annotation]:
        """One an instance."""
        if not self.annotator.keys:
            return [Annotation()] * len(self.instances)
        return self.annotator(self.image, self.instances.pred_masks)


class PictureSink(AbstractContextManager["PictureSink"]):
    """Writes an image's own files. Nothing is open between images, so that several processes may share one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def write(self, prediction: Prediction) -> list[str]:
        """Write the files of one image; returns their paths relative to the output folder."""

    def __exit__(self, *_: object) -> None:
        return None


class OverlaySink(PictureSink):
    """overlay/<name>.jpg: the photograph with box, class, score and mask of every instance.

    Raises:
        LesionsegError: Detectron2, whose Visualizer draws it, is not installed.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        if not can_draw():
            raise LesionsegError(
                "overlays are drawn by Detectron2's Visualizer, which is not installed here: leave overlay out of --save, "
                "or set up the whole of lesionseg (README: make setup)"
            )

    def write(self, prediction: Prediction) -> list[str]:
        relative = f"overlay/{prediction.item.name}.jpg"
        notes = [annotation.text for annotation in prediction.annotations]
        from lesionseg.overlay import draw_overlay

        overlay = draw_overlay(prediction.image, prediction.instances, prediction.class_names, notes)
        write_image(self.folder / relative, overlay)
        return [relative]


class MaskSink(PictureSink):
    """mask/<name>_segmentation.png: the lesion mask as ISIC submissions hold it, 8 bit, 0 or 255, original size."""

    def write(self, prediction: Prediction) -> list[str]:
        relative = f"mask/{prediction.item.name}_segmentation.png"
        instances = prediction.instances
        mask = np.zeros(instances.image_size, dtype=bool)
        # Looking for regions takes its time on millions of pixels of skin: look only where instances can be.
        mask[instances.window] = configured_lesion_mask(prediction.cfg, instances.within(instances.window))
        write_image(self.folder / relative, mask)
        return [relative]


class CropSink(PictureSink):
    """crop/<name>_<k>.png: instance k (from 1, by falling score) in a square window with margin."""

    kind: ClassVar[str] = "crop"
    background: ClassVar[str] = "keep"

    def write(self, prediction: Prediction) -> list[str]:
        written = []
        instances = prediction.instances
        pairs = zip(instances.pred_boxes, instances.pred_masks, strict=True)
        for number, (box, mask) in enumerate(pairs, start=1):
            relative = f"{self.kind}/{prediction.item.name}_{number}.png"
            margin = prediction.cfg.LESION.CROP_MARGIN
            write_image(
                self.folder / relative, crop(prediction.image, mask, box, margin, background=self.background)
            )
            written.append(relative)
        return written


class MaskedCropSink(CropSink):
    """masked_crop/<name>_<k>.png: the same window, black outside the instance."""

    kind = "masked_crop"
    background = "black"


class AbcdSink(PictureSink):
    """abcd/<name>_<k>.jpg: the photograph with axes, border segments, colours and scores of instance k."""

    def write(self, prediction: Prediction) -> list[str]:
        written = []
        for number, annotation in enumerate(prediction.annotations, start=1):
            if annotation.abcd is not None:
                relative = f"abcd/{prediction.item.name}_{number}.jpg"
                write_image(self.folder / relative, draw_abcd(prediction.image, annotation.abcd))
                written.append(relative)
        return written


class TableSink(AbstractContextManager["TableSink"]):
    """A file that grows image by image under a temporary name and appears when the last one is written."""

    file_name: ClassVar[str]

    def __init__(self, folder: Path, annotator: Annotator | None = None) -> None:
        self.path = folder / self.file_name
        self.annotator = annotator or Annotator()
        self._stack = ExitStack()

    @abstractmethod
    def write(self, row: dict[str, Any]) -> None:
        """Add an image by its journal row, see `describe`."""

    def _open(self) -> TextIO:
        temporary = self._stack.enter_context(atomic_write(self.path))
        return self._stack.enter_context(open(temporary, "w", newline="", encoding="utf-8"))

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


class CocoSink(TableSink):
    """predictions.json: a list of COCO results (RLE, box XYWH in px), each with its "file_name".

    "image_id" counts the images of the run from 1 in their order, those without a lesion too; "category_id" counts
    the classes from 1, as in the data sets that tools/prepare_dataset.py writes.
    """

    file_name = "predictions.json"

    def __enter__(self) -> CocoSink:
        self._file = self._open()
        self._images = 0
        self._separator = "[\n"
        return self

    def write(self, row: dict[str, Any]) -> None:
        self._images += 1
        for found in row["instances"]:
            result = {
                "image_id": self._images,
                "file_name": row["file"],
                "category_id": found["class_index"] + 1,
                "bbox": found["box"],
                "score": found["score"],
                "segmentation": {"size": [row["height"], row["width"]], "counts": found["counts"]},
                **{key: found[key] for key in self.annotator.keys},
            }
            self._file.write(self._separator + json.dumps(result))
            self._separator = ",\n"

    def __exit__(self, *error: Any) -> None:
        self._file.write("[]\n" if self._separator == "[\n" else "\n]\n")
        super().__exit__(*error)


class CsvSink(TableSink):
    """predictions.csv: one row an instance, see CSV_COLUMNS; one row with an empty instance for an image without.

    Behind them come the columns of what was asked for beyond outlines, see `Annotator.columns`.
    """

    file_name = "predictions.csv"

    def __enter__(self) -> CsvSink:
        self._writer = csv.DictWriter(self._open(), fieldnames=(*CSV_COLUMNS, *self.annotator.columns))
        self._writer.writeheader()
        return self

    def write(self, row: dict[str, Any]) -> None:
        self._writer.writerows(csv_rows(row, self.annotator.keys))


PICTURES: dict[str, type[PictureSink]] = {
    "overlay": OverlaySink,
    "mask": MaskSink,
    "crop": CropSink,
    "masked_crop": MaskedCropSink,
    "abcd": AbcdSink,
}
TABLES: dict[str, type[TableSink]] = {"json": CocoSink, "csv": CsvSink}
KINDS = (*PICTURES, *TABLES)


def can_draw() -> bool:
    """Whether overlays can be drawn: an exported model runs where Detectron2 is not installed."""
    return importlib.util.find_spec("detectron2") is not None


def default_kinds() -> tuple[str, ...]:
    """All that can be written, but for abcd: measuring takes longer than all the others."""
    return tuple(kind for kind in KINDS if kind != "abcd" and (kind != "overlay" or can_draw()))


def parse_save(text: str) -> tuple[str, ...]:
    """`--save` to kinds of output: "overlay,mask" -> ("overlay", "mask").

    Raises:
        LesionsegError: an unknown kind, or none at all.
    """
    kinds = tuple(dict.fromkeys(kind.strip() for kind in text.split(",") if kind.strip()))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        found = f"unknown: {', '.join(unknown)}" if unknown else "found none"
        raise LesionsegError(f"--save takes {', '.join(KINDS)}, with commas between; {found}")
    return kinds


def describe(prediction: Prediction, files: dict[str, list[str]]) -> dict[str, Any]:
    """The journal's row of an image: all that the tables need, and how to tell that the image is done.

    Args:
        files: kind of output -> what was written, relative to the output folder.
    """
    item, instances = prediction.item, prediction.instances
    size, modified = identity(item.path)
    height, width = instances.image_size
    return {
        "name": item.name,
        "file": item.file,
        "source": str(item.path.absolute()),
        "bytes": size,
        "modified": modified,
        "height": height,
        "width": width,
        "files": files,
        "instances": [
            _describe_instance(instances, k, prediction.class_names) | prediction.annotator.row(annotation)
            for k, annotation in enumerate(prediction.annotations)
        ],
    }


def _describe_instance(instances: LesionInstances, k: int, class_names: Sequence[str]) -> dict[str, Any]:
    x0, y0, x1, y1 = instances.pred_boxes[k].tolist()
    mask = instances.pred_masks[k]
    class_index = int(instances.pred_classes[k])
    return {
        "class_index": class_index,
        "class": class_names[class_index],
        "score": round(float(instances.scores[k]), 6),
        "box": [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)],
        "area": int(np.count_nonzero(mask[instances.window])),
        "counts": encode_rle(mask, instances.window)["counts"],
    }


def csv_rows(row: dict[str, Any], annotations: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of predictions.csv for an image's journal row, with the keys CSV_COLUMNS and those of `annotations`."""
    rows = []
    for number, found in enumerate(row["instances"], start=1):
        values = (row["file"], number, found["class"], found["score"], *found["box"], found["area"])
        share = round(found["area"] / (row["height"] * row["width"]), 6)
        cells = csv_cells({key: found[key] for key in annotations})
        rows.append(dict(zip(CSV_COLUMNS, (*values, share), strict=True)) | cells)
    return rows or [{"file": row["file"]}]
