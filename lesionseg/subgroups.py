"""Which images does a model fail on? Ways to divide a data set into groups, by what is known or measured of its images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lesionseg.conditions import ITA_CLASSES, ita_class

Row = dict[str, Any]
NOT_KNOWN = "not known"
NO_IMAGES = "the images are not known: score against a prepared data set (--dataset) to have them measured"


class Division(NamedTuple):
    """A way to divide images. `names` are the groups in their order, `member` the group of each row.

    `note` says why there are no groups, or is empty.
    """

    title: str
    names: list[str]
    member: list[str]
    note: str = ""


def _bands(
    title: str, rows: Sequence[Row], column: str, bands: Sequence[tuple[str, float]], why_not: str
) -> Division:
    """Divide by a measured number into bands (name, upper limit), the limit not included."""
    values = [row.get(column, math.nan) for row in rows]
    member = [
        NOT_KNOWN if math.isnan(value) else next(name for name, limit in bands if value < limit)
        for value in values
    ]
    return _division(title, [name for name, _ in bands], member, why_not)


def _words(title: str, rows: Sequence[Row], column: str, why_not: str) -> Division:
    member = [row.get(column) or NOT_KNOWN for row in rows]
    return _division(title, sorted(set(member) - {NOT_KNOWN}), member, why_not)


def _division(title: str, names: list[str], member: list[str], why_not: str) -> Division:
    present = set(member)
    names = [name for name in (*names, NOT_KNOWN) if name in present]
    if names in ([], [NOT_KNOWN]):
        return Division(title, [], member, why_not)
    return Division(title, names, member)


def by_size(rows: Sequence[Row]) -> Division:
    """Quartiles of the share of the image that the reference lesion covers."""
    share = np.array([row["reference_area_pct"] for row in rows])
    q1, q2, q3 = np.percentile(share, [25, 50, 75]) if len(share) else (0.0, 0.0, 0.0)
    bands = [
        (f"smallest quarter, below {q1:.1f} % of the image", q1),
        (f"second quarter, {q1:.1f} to {q2:.1f} %", q2),
        (f"third quarter, {q2:.1f} to {q3:.1f} %", q3),
        (f"largest quarter, {q3:.1f} % and above", math.inf),
    ]
    return _bands("Lesion size", rows, "reference_area_pct", bands, "")


def by_frame(rows: Sequence[Row]) -> Division:
    return _bands(
        "Lesion cut by the image frame", rows, "touches_frame", [("no", 0.5), ("yes", math.inf)], ""
    )


def by_diagnosis(rows: Sequence[Row]) -> Division:
    return _words("Diagnosis", rows, "diagnosis", "the data set has no diagnoses: prepare it with --labels")


def by_source(rows: Sequence[Row]) -> Division:
    return _words(
        "Source", rows, "source", "the source is not known: score against a prepared data set (--dataset)"
    )


def by_hair(rows: Sequence[Row]) -> Division:
    bands = [("little, below 1 %", 1.0), ("some, 1 to 3 %", 3.0), ("much, 3 % and above", math.inf)]
    return _bands("Hair cover", rows, "hair_pct", bands, NO_IMAGES)


def by_corners(rows: Sequence[Row]) -> Division:
    bands = [("none, below 1 %", 1.0), ("some, 1 to 10 %", 10.0), ("wide, 10 % and above", math.inf)]
    return _bands("Dark corners", rows, "dark_corner_pct", bands, NO_IMAGES)


def by_contrast(rows: Sequence[Row]) -> Division:
    bands = [("low, dE below 15", 15.0), ("medium, dE 15 to 30", 30.0), ("high, dE 30 and above", math.inf)]
    return _bands("Contrast of lesion to skin", rows, "contrast", bands, NO_IMAGES)


def by_skin_tone(rows: Sequence[Row]) -> Division:
    member = [ita_class(row.get("ita_degrees", math.nan)) or NOT_KNOWN for row in rows]
    return _division("Skin tone, estimated ITA", [name for name, _ in ITA_CLASSES], member, NO_IMAGES)


DIVISIONS: tuple[Callable[[Sequence[Row]], Division], ...] = (
    by_size,
    by_frame,
    by_diagnosis,
    by_source,
    by_hair,
    by_corners,
    by_contrast,
    by_skin_tone,
)
