"""Check images and masks before anything is made of them; every problem of a data set is reported at once.

A problem is an ``error`` (the sample cannot be used) or a ``warning`` (it can; look at it).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import cv2
import numpy as np

from lesionseg.images import MASK_THRESHOLD, ImageInfo, atomic_write, two_low_values
from lesionseg.sources import Listing

_RESERVED_ON_WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
_DARK, _BRIGHT = 32, 223  # grey values in between are neither background nor lesion; JPEG noise stays outside


@dataclass(frozen=True)
class Problem:
    """One finding, worded so that the user can act on it without reading code."""

    level: str  # "error" or "warning"
    kind: str  # short name, for counting
    file: str
    expected: str
    found: str
    remedy: str
    sample_id: str = ""

    def __str__(self) -> str:
        return f"{self.file}: expected {self.expected}, found {self.found}. {self.remedy}."


def unsafe_name(name: str) -> str | None:
    """Why a file name would make trouble on another system, in a shell or in a spreadsheet; None when it is safe."""
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        return "a control character"
    if any(0xD800 <= ord(character) <= 0xDFFF for character in name):
        return "bytes that are no UTF-8"
    if found := set(name) & set('<>:"|?*\\'):
        return f"the character {min(found)}"
    if name[0] in "-=+@ ":
        return f"'{name[0]}' at the start"
    if Path(name).stem.endswith((" ", ".")):
        return "a space or dot before the suffix"
    if _RESERVED_ON_WINDOWS.match(name):
        return "a name that Windows reserves"
    if len(name.encode()) > 200:
        return f"{len(name.encode())} bytes"
    return None


def check_listing(listing: Listing) -> list[Problem]:
    """Problems that file names alone show: pairs that are not pairs, ids taken twice, unsafe names."""
    problems = []
    for paths in listing.same_id:
        others = ", ".join(map(str, paths))
        remedy = "Keep one, or rename and pair them under ids of their own"
        image_id = paths[0].stem
        problems.append(
            Problem(
                "error",
                "same id",
                str(paths[0]),
                f"one image and one mask for id {image_id}",
                others,
                remedy,
                image_id,
            )
        )
    for path in listing.orphan_masks:
        remedy = "Add the image, or take the mask out of the folder"
        problems.append(
            Problem("error", "mask without image", str(path), "an image of the same id", "none", remedy)
        )
    for sample in listing.samples:
        if sample.mask is None:
            remedy = "Add the mask, or take the image out of the folder"
            expected = f"a mask for id {sample.id}"
            problems.append(
                Problem("error", "image without mask", str(sample.image), expected, "none", remedy, sample.id)
            )
        for path in filter(None, (sample.image, sample.mask)):
            if reason := unsafe_name(path.name):
                expected, remedy = "a file name that is safe everywhere", "Rename the file"
                problems.append(
                    Problem("error", "unsafe file name", repr(str(path)), expected, reason, remedy, sample.id)
                )
    return problems


def check_image(path: Path, info: ImageInfo, copied: bool) -> list[Problem]:
    """Problems of an image's header: turned by EXIF, or of a kind that Detectron2 would not read as it looks.

    ``copied`` says that a reduced 8-bit, upright copy is going to be stored; then neither matters any more.
    """
    problems = []
    if info.orientation > 1 and not copied:
        problems.append(
            Problem(
                "warning",
                "EXIF-rotated image",
                str(path),
                "EXIF orientation 1",
                f"{info.orientation}",
                "It is read upright here and by Detectron2; check that its mask was drawn on the upright picture",
            )
        )
    if not info.plain and not copied:
        found = f"pixel format {info.mode}{' with transparency' if info.transparent else ''}"
        remedy = "Give --max-size N, which stores 8-bit copies, or convert the file to 8-bit RGB"
        problems.append(
            Problem(
                "error",
                "pixel format",
                str(path),
                "8-bit grey or colour, as Detectron2 reads it",
                found,
                remedy,
            )
        )
    return problems


def check_brightness(path: Path, grey: np.ndarray) -> list[Problem]:
    """A warning where nothing in a picture, uint8 (H, W), is brighter than an eighth of the scale."""
    if grey.max() >= _DARK:
        return []
    remedy = "Look at it; 12-bit values in a 16-bit file have to be scaled up first"
    found = f"nothing brighter than {grey.max()} of 255"
    return [Problem("warning", "almost black image", str(path), "a photograph", found, remedy)]


def check_pair(image: Path, info: ImageInfo, mask: Path, values: np.ndarray) -> list[Problem]:
    """Problems of one mask, uint8 (H, W) as ``read_mask_values`` gives it, beside its image.

    Errors: another size than the upright image, empty, grey values away from the outline (no mask but a
    photograph or a probability map). Warnings: the whole frame is lesion; grey values along the outline.
    """
    name, height, width = str(mask), *values.shape
    if (height, width) != (info.height, info.width):
        expected = f"{info.width}x{info.height} px as in {image.name}"
        remedy = "Take image and mask from the same release, at the same size"
        if info.orientation >= 5 and (width, height) == (info.height, info.width):
            expected += f" (upright: its EXIF orientation is {info.orientation})"
            remedy = "Rotate the mask, or remove the EXIF orientation from the image if the mask was drawn without it"
        return [Problem("error", "sizes differ", name, expected, f"{width}x{height} px", remedy)]
    # Nearly all masks hold nothing but 0 and 255, which takes a fifth of the time of a threshold to see.
    lesion_px = cv2.countNonZero(values)
    binary = cv2.norm(values, cv2.NORM_L1) == 255 * lesion_px
    if not binary:
        lesion_px = cv2.countNonZero((values > MASK_THRESHOLD).view(np.uint8))
    if lesion_px == 0:
        found = f"none (largest value {values.max()})"
        remedy = "Draw the lesion, or leave the pair out"
        if (low := two_low_values(values)) is not None:
            remedy = f"Store the mask with 0 and 255 instead of {low[0]} and {low[1]}"
        return [Problem("error", "empty mask", name, f"pixels above {MASK_THRESHOLD} of 255", found, remedy)]
    if lesion_px == values.size:
        remedy = "Look at it; it is used as it is"
        return [
            Problem("warning", "full-frame mask", name, "some skin around the lesion", "only lesion", remedy)
        ]
    return [] if binary else _check_grey_values(name, values)


def _check_grey_values(name: str, values: np.ndarray) -> list[Problem]:
    between = cv2.inRange(values, _DARK + 1, _BRIGHT - 1)  # 255 where true
    if cv2.countNonZero(between) == 0:
        return []
    radius = max(2, round(0.005 * max(values.shape)))
    kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    lesion = (values > MASK_THRESHOLD).view(np.uint8)
    outline = cv2.morphologyEx(lesion, cv2.MORPH_GRADIENT, kernel) > 0
    stray = float(((between > 0) & ~outline).mean())
    if stray > 0.01:
        found = f"grey values on {stray:.0%} of the picture, away from any outline"
        remedy = "Check that this is the mask and not the photograph; make a probability map binary first"
        return [Problem("error", "not binary", name, "black and white", found, remedy)]
    found = f"grey values on {(between > 0).mean():.2%} of the picture, along the outline"
    remedy = f"It is cut at {MASK_THRESHOLD} of 255"
    return [Problem("warning", "not binary", name, "black and white", found, remedy)]


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Write problems.csv, sorted, one row a problem."""
    rows = sorted(
        (asdict(problem) for problem in problems), key=lambda row: (row["level"], row["kind"], row["file"])
    )
    with (
        atomic_write(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="replace") as file,
    ):
        writer = csv.DictWriter(file, [field.name for field in fields(Problem)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
