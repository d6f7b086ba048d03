"""One image and its mask -> checks, fingerprint, COCO annotations (run-length encoded) and reduced copies.

``convert_sample`` is what every worker process runs: each file is read once, and all that is wanted of it is taken then.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lesionseg.duplicates import Fingerprint, fingerprint
from lesionseg.images import (
    MASK_THRESHOLD,
    ImageError,
    ImageInfo,
    atomic_write,
    image_info,
    read_grey,
    read_image,
    read_mask_values,
    read_reduced,
    write_image,
)
from lesionseg.rle import encode_rle
from lesionseg.sources import Sample
from lesionseg.validate import Problem, check_brightness, check_image, check_pair

_LEAST_SIDE = 128  # px; pictures are decoded no smaller than this to be compared
_COPIED_AS_THEY_ARE = {".jpg", ".jpeg", ".png"}
JPEG_QUALITY = 95


@dataclass(frozen=True)
class ConvertOptions:
    """What is made of each sample."""

    instances: str = "lesion"  # "lesion": all of a mask is one instance; "components": one each
    min_area: int = 1  # px at the stored size; smaller components are left out ("components" only)
    max_size: int | None = None  # px on the long side; None: no copies
    copies: Path | None = None  # folder that images/ and masks/ are written to; with max_size


@dataclass(frozen=True)
class Record:
    """What is known of one sample after its files were read. ``annotations`` is empty where a problem is an error."""

    sample_id: str
    problems: list[Problem]
    height: int = 0  # px as stored, upright
    width: int = 0
    fingerprint: Fingerprint | None = None
    image_copy: str | None = None  # file names in images/ and masks/ of the prepared set
    mask_copy: str | None = None
    area_share: float = 0.0  # of the picture, 0 to 1
    components: int = 0
    touches_border: bool = False
    instances: int = 0
    annotations: list[dict[str, Any]] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        return not any(problem.level == "error" for problem in self.problems)

    def to_json(self) -> str:
        values = dict(vars(self), problems=[vars(problem) for problem in self.problems])
        if self.fingerprint is not None:
            values["fingerprint"] = vars(self.fingerprint)
        return json.dumps(values, separators=(",", ":"), default=bytes.hex)

    @staticmethod
    def from_json(text: str) -> Record:
        values = json.loads(text)
        values["problems"] = [Problem(**problem) for problem in values["problems"]]
        if (print_ := values["fingerprint"]) is not None:
            values["fingerprint"] = Fingerprint(
                print_["sha256"], print_["phash"], bytes.fromhex(print_["thumbnail"])
            )
        return Record(**values)


Window = tuple[slice, slice]  # rows and columns of a mask; it is empty beyond


def _window(box: Sequence[int]) -> Window:
    x, y, width, height = (int(value) for value in box[:4])
    return slice(y, y + height), slice(x, x + width)


def encode(mask: np.ndarray, window: Window) -> dict[str, Any]:
    """COCO annotation fields of a bool (H, W) mask with its tight window: RLE, box [x, y, w, h] px, area px."""
    rows, columns = window
    box = columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start
    return {
        "bbox": [float(value) for value in box],
        "area": cv2.countNonZero(mask[window].view(np.uint8)),
        "iscrowd": 0,  # Detectron2's mapper drops crowd annotations, RLE or not
        "segmentation": encode_rle(mask, window),
    }


def instances_of(
    mask: np.ndarray, instances: str, min_area: int
) -> tuple[list[tuple[np.ndarray, Window]], int]:
    """The masks that become instances, each with its tight window, and the number of components (8-connected) of all.

    "lesion" keeps all components and holes as one instance; "components" gives one each of at least ``min_area`` px,
    ordered from top to bottom.
    """
    if instances == "lesion":
        # Outer outlines are components, holes are on the second level: several times faster than labelling pixels.
        outlines, hierarchy = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        if hierarchy is None:
            return [], 0
        window = _window(cv2.boundingRect(np.concatenate(outlines)))
        return [(mask, window)], int((hierarchy[0, :, 3] < 0).sum())
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    kept = [label for label in range(1, count) if stats[label, cv2.CC_STAT_AREA] >= min_area]
    return [(labels == label, _window(stats[label])) for label in kept], count - 1


def reduced_size(height: int, width: int, max_size: int | None) -> tuple[int, int]:
    """(height, width) with the long side at most ``max_size`` px, aspect ratio kept; never enlarged."""
    scale = min(1.0, (max_size or max(height, width)) / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _copy_image(sample: Sample, info: ImageInfo, options: ConvertOptions) -> tuple[str, np.ndarray]:
    """Store the reduced copy; its file name, and the picture in grey for the fingerprint."""
    assert options.copies is not None
    size = reduced_size(info.height, info.width, options.max_size)
    suffix = sample.image.suffix.lower()
    unchanged = size == (info.height, info.width) and info.plain and info.orientation == 1
    if unchanged and suffix in _COPIED_AS_THEY_ARE:
        grey = read_grey(sample.image, _LEAST_SIDE)
        with atomic_write(options.copies / "images" / f"{sample.id}{suffix}") as temporary:
            shutil.copyfile(sample.image, temporary)
        return f"{sample.id}{suffix}", grey
    pixels = cv2.resize(read_image(sample.image), size[::-1], interpolation=cv2.INTER_AREA)
    write_image(options.copies / "images" / f"{sample.id}.jpg", pixels, quality=JPEG_QUALITY)
    return f"{sample.id}.jpg", cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)


def _reduce_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if mask.shape == size:
        return mask
    area = cv2.resize(mask.astype(np.uint8) * 255, size[::-1], interpolation=cv2.INTER_AREA)
    return area > MASK_THRESHOLD


def _unreadable(error: ImageError, sample: Sample, file: Path) -> Problem:
    found = str(error).split("found: ")[-1].split(". Copy")[0]
    remedy = "Copy or download the file again, or leave the pair out"
    return Problem("error", "unreadable file", str(file), "a readable image", found, remedy, sample.id)


def convert_sample(sample: Sample, options: ConvertOptions) -> Record:
    """Check a sample that has a mask, fingerprint it, encode its instances and store reduced copies if wanted.

    Never raises for what is wrong with the two files: that is in ``problems``, with the sample's id.
    """
    assert sample.mask is not None
    problems: list[Problem] = []
    info, print_, copy = None, None, None
    try:
        if options.max_size is None:
            info, grey = read_reduced(sample.image, _LEAST_SIDE)
        else:
            info = image_info(sample.image)
            copy, grey = _copy_image(sample, info, options)
        problems += check_image(sample.image, info, copied=options.max_size is not None)
        problems += check_brightness(sample.image, grey)
        print_ = fingerprint(sample.image, grey)
    except ImageError as error:
        problems.append(_unreadable(error, sample, sample.image))
    values = None
    try:
        values = read_mask_values(sample.mask)
    except ImageError as error:
        problems.append(_unreadable(error, sample, sample.mask))
    if info is not None and values is not None:
        problems += check_pair(sample.image, info, sample.mask, values)
    problems = [replace(problem, sample_id=sample.id) for problem in problems]
    record = Record(sample.id, problems, fingerprint=print_, image_copy=copy)
    if not record.usable or info is None or values is None:
        return record
    size = reduced_size(info.height, info.width, options.max_size)
    return _with_annotations(record, sample, _reduce_mask(values > MASK_THRESHOLD, size), options)


def _with_annotations(record: Record, sample: Sample, mask: np.ndarray, options: ConvertOptions) -> Record:
    instances, components = instances_of(mask, options.instances, options.min_area)
    if not instances:
        found, remedy = "none", "Lower --min-area, or leave the pair out"
        expected = f"a component of at least {options.min_area} px"
        if not components:
            expected, found = (
                f"a lesion that shows at {options.max_size} px",
                "one that vanishes in the reduced mask",
            )
            remedy = "Raise --max-size, or leave the pair out"
        problem = Problem("error", "lesion too small", str(sample.mask), expected, found, remedy, sample.id)
        return replace(record, problems=[*record.problems, problem])
    mask_copy = None
    if options.copies is not None:
        mask_copy = f"{sample.id}_segmentation.png"
        write_image(options.copies / "masks" / mask_copy, mask)
    return replace(
        record,
        height=mask.shape[0],
        width=mask.shape[1],
        mask_copy=mask_copy,
        area_share=cv2.countNonZero(mask.view(np.uint8)) / mask.size,
        components=components,
        touches_border=bool(mask[[0, -1]].any() or mask[:, [0, -1]].any()),
        instances=len(instances),
        annotations=[encode(*instance) for instance in instances],
    )
