"""Does a test set hold pictures that the model was trained on? By id, by file, by picture, by lesion or patient."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lesionseg.cases import some
from lesionseg.duplicates import MAX_HASH_DISTANCE, Fingerprint, fingerprint, near_pairs
from lesionseg.errors import LesionsegError
from lesionseg.images import read_grey

# Kinds of leak, in the order in which they are said; what each means in the text.
KINDS = {
    "id": "by id",
    "file": "as the same file under another id",
    "picture": "as the same picture saved again",
    "hash": "by an equal perceptual hash, the pictures not being at hand to compare",
    "group": "as another picture of a lesion or patient in the training data",
}
_GREY_SIDE = 128  # px; pictures are compared at this size or a little more, as when a data set is prepared

Row = dict[str, str]


class Leak(NamedTuple):
    """A test image, the training image it agrees with, and in what (a key of KINDS)."""

    test: str
    train: str
    kind: str


def read_rows(path: Path) -> list[Row]:
    """Rows of a data set's split.csv, or of its copy in a run folder.

    Raises:
        LesionsegError: the file cannot be read, or has no columns id, sha256, phash and group.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise LesionsegError(f"{path}: cannot be read: {error}") from error
    if rows and not {"id", "sha256", "phash", "group"} <= rows[0].keys():
        raise LesionsegError(
            f"{path}: expected columns id, sha256, phash and group, found {', '.join(rows[0])}"
        )
    return rows


def find_leaks(
    train: Sequence[Row], test: Sequence[Row], train_files: Mapping[str, Path], test_files: Mapping[str, Path]
) -> list[Leak]:
    """Every test image that is in the training data, once, by the first of KINDS that it agrees in.

    Equal-looking pictures are candidates by perceptual hash and then compared, as when a data set is prepared: on dermoscopy,
    where everything is a dark blob on skin, hashes within a few bits say little. Where a picture is not at hand, only equal
    hashes count.

    Args:
        train, test: rows with id, sha256, phash, group.
        train_files, test_files: image files by id, as far as they are at hand.
    """
    by: dict[str, dict[str, str]] = {column: {} for column in ("id", "sha256", "group")}
    for row in train:
        for column, names in by.items():
            names.setdefault(row[column], row["id"])
    pictures = _picture_pairs(train, test, train_files, test_files)
    leaks = []
    for row in test:
        found: list[tuple[str, str | None]] = [
            ("id", by["id"].get(row["id"])),
            ("file", by["sha256"].get(row["sha256"])),
        ]
        found += [(kind, train_id) for kind, train_id in pictures.get(row["id"], [])]
        found += [("group", by["group"].get(row["group"]) if row["group"] else None)]
        kind, train_id = next(((kind, name) for kind, name in found if name), ("", None))
        if train_id:
            leaks.append(Leak(row["id"], train_id, kind))
    return leaks


def _picture_pairs(
    train: Sequence[Row], test: Sequence[Row], train_files: Mapping[str, Path], test_files: Mapping[str, Path]
) -> dict[str, list[tuple[str, str]]]:
    """For test ids, training images that look the same as (kind, id)."""
    if not train or not test:
        return {}
    train_bits, test_bits = (_hash_bits([row["phash"] for row in rows]) for rows in (train, test))
    distance = train_bits.sum(axis=1) + test_bits.sum(axis=1)[:, None] - 2 * test_bits @ train_bits.T
    look = cache(_fingerprint)
    pairs = defaultdict(list)
    for i, j in np.argwhere(distance <= MAX_HASH_DISTANCE):
        test_id, train_id = test[i]["id"], train[j]["id"]
        files = test_files.get(test_id), train_files.get(train_id)
        if files[0] and files[1] and files[0].is_file() and files[1].is_file():
            if _look_same(look, files[0], files[1]):
                pairs[test_id].append(("picture", train_id))
        elif distance[i, j] == 0:
            pairs[test_id].append(("hash", train_id))
    return pairs


def _hash_bits(hashes: Sequence[str]) -> np.ndarray:
    numbers = np.array([int(text, 16) for text in hashes], np.uint64)
    return np.unpackbits(numbers.view(np.uint8).reshape(-1, 8), axis=1).astype(np.float32)


def _fingerprint(path: Path) -> Fingerprint:
    return fingerprint(path, read_grey(path, _GREY_SIDE))


def _look_same(look: Callable[[Path], Fingerprint], one: Path, other: Path) -> bool:
    return bool(near_pairs([look(one), look(other)]))


def leak_summary(leaks: Sequence[Leak], train_images: int, test_images: int) -> dict[str, Any]:
    """What scores.json says of leaks: counts, ids, and a sentence for tables and the report."""
    compared = f"{test_images} images scored, {train_images} in the training data"
    if not leaks:
        text = f"leaks: none found by id, file, picture, lesion or patient ({compared})."
    else:
        parts = []
        for kind, meaning in KINDS.items():
            if names := [leak.test for leak in leaks if leak.kind == kind]:
                parts.append(f"{len(names)} {meaning} ({some(names, 10)})")
        text = f"LEAK: {len(leaks)} images scored are in the training data, too: {'; '.join(parts)} ({compared})."
    return {"text": text, "images": len(leaks), "found": [leak._asdict() for leak in leaks]}
