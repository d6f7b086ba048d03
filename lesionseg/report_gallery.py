"""The report's pictures: which images are shown, and each with reference and predicted outline drawn over it."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from lesionseg.errors import LesionsegError
from lesionseg.images import read_image, read_mask

Row = dict[str, Any]

LONG_SIDE = 448  # px of a picture; a hundred of them are about 4 MB
_QUALITY = 78
_TOLERANCE = 0.4  # px that a drawn outline may deviate
# Pictures of each kind, where one data set is shown; several share them.
COUNTS = {"missed": 24, "worst": 40, "median": 20, "best": 20}


@dataclass(frozen=True)
class Picture:
    """One image of the gallery; outlines are SVG path data in px of `width` x `height`."""

    id: str
    kind: str
    jaccard: float
    score: float | None
    area_pct: float
    hd95_px: float
    diagnosis: str
    width: int
    height: int
    jpeg: str  # data URI
    reference: str
    predicted: str


def choose(rows: Sequence[Row], share: int = 1) -> list[tuple[str, Row]]:
    """(kind, row) of the images to show, each once; worst first within a kind.

    Missed are those whose prediction meets no lesion pixel; worst, median and best go by the Jaccard index among the rest.

    Args:
        share: number of data sets that the gallery's size is divided among.
    """
    counts = {kind: max(1, count // share) for kind, count in COUNTS.items()}
    ordered = sorted(rows, key=lambda row: (row["jaccard"], row["id"]))
    missed = [row for row in ordered if row["jaccard"] == 0]
    rest = [row for row in ordered if row["jaccard"] > 0]
    best_from = max(0, len(rest) - counts["best"])
    best, rest = rest[best_from:], rest[:best_from]
    middle = max(0, (len(missed) + len(rest) + len(best)) // 2 - len(missed) - counts["median"] // 2)
    worst = rest[: min(counts["worst"], middle)]
    median = rest[max(middle, len(worst)) :][: counts["median"]]
    kinds = {"missed": missed[: counts["missed"]], "worst": worst, "median": median, "best": best}
    return [(kind, row) for kind, chosen in kinds.items() for row in chosen]


def outline_path(mask: np.ndarray, width: int, height: int) -> str:
    """A mask's outlines, those of its holes too, as SVG path data for a picture of another size.

    Args:
        mask: bool (H, W).
        width, height: of the picture in px.
    """
    small = cv2.resize(
        mask.astype(np.uint8),
        (width, height),
        interpolation=cv2.INTER_AREA if mask.size > width * height else cv2.INTER_NEAREST,
    )
    contours, _ = cv2.findContours(small, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    parts = []
    for contour in contours:
        points = cv2.approxPolyDP(contour, _TOLERANCE, closed=True)[:, 0]
        parts.append("M" + "L".join(f"{x + 0.5:g} {y + 0.5:g}" for x, y in points) + "Z")
    return "".join(parts)


def picture(kind: str, row: Row) -> Picture:
    """Read an image and its masks and make a gallery entry of them.

    Raises:
        LesionsegError: a file cannot be read.
    """
    image, reference = read_image(row["image"]), read_mask(row["reference"])
    predicted = read_mask(row["predicted"]) if row["predicted"] else np.zeros_like(reference)
    scale = min(1.0, LONG_SIDE / max(image.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
    return Picture(
        id=row["id"],
        kind=kind,
        jaccard=row["jaccard"],
        score=None if math.isnan(row["score"]) else row["score"],
        area_pct=row["reference_area_pct"],
        hd95_px=row["hd95_px"],
        diagnosis=row["diagnosis"],
        width=width,
        height=height,
        jpeg="data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode(),
        reference=outline_path(reference, width, height),
        predicted=outline_path(predicted, width, height),
    )


def gallery(rows: Sequence[Row], share: int = 1) -> tuple[list[Picture], list[str]]:
    """Pictures of the images that `choose` picks, and what is wrong with those that cannot be shown."""
    pictures, problems = [], []
    for kind, row in choose(rows, share):
        try:
            if row["image"] is None or row["reference"] is None:
                raise LesionsegError(f"{row['id']}: image or reference mask not recorded")
            pictures.append(picture(kind, row))
        except LesionsegError as error:
            problems.append(str(error))
    return pictures, problems
