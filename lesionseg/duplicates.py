"""Find photographs that are in a data set twice: the same file, or the same picture saved again.

Exact: equal SHA-256 of the file. Near: perceptual hashes (``imagehash.phash``) that differ in few bits, and small grey
thumbnails that correlate almost perfectly. The hash alone is not enough: dermoscopy pictures are all a dark blob on bright skin.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import imagehash
import numpy as np
from PIL import Image

# Chosen by looking at pairs of ISIC 2018 Task 1 and HAM10000 (whose lesion_id tells): at these limits all pairs found were pictures
# of one lesion, mostly one picture with its colours changed; between 0.96 and 0.973 of correlation other lesions come in.
MAX_HASH_DISTANCE = 10  # bits of 64
MIN_CORRELATION = 0.975  # of thumbnails
THUMBNAIL_SIDE = 32  # px
_HASHED_SIDE = 64  # px
_ROWS_AT_ONCE, _PAIRS_AT_ONCE = 256, 1024  # bound memory, however many pictures there are


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of one photograph to compare it with all others."""

    sha256: str
    phash: str  # 16 hexadecimal digits
    thumbnail: bytes  # THUMBNAIL_SIDE squared uint8 grey values


def fingerprint(path: str | os.PathLike[str], grey: np.ndarray) -> Fingerprint:
    """Fingerprint of a file and its picture, uint8 (H, W) grey, reduced or not.

    The hash is ``imagehash.phash`` of the picture averaged down to 64 x 64 px, so that it hardly depends on the size.
    """
    sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    small = cv2.resize(grey, (_HASHED_SIDE, _HASHED_SIDE), interpolation=cv2.INTER_AREA)
    thumbnail = cv2.resize(small, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
    return Fingerprint(sha256, str(imagehash.phash(Image.fromarray(small))), thumbnail.tobytes())


class Clusters:
    """Union-find: ``join`` ties keys together, ``root`` tells whose cluster a key is in."""

    def __init__(self) -> None:
        self._parent: dict[Hashable, Hashable] = {}

    def root(self, key: Hashable) -> Hashable:
        parent = self._parent.setdefault(key, key)
        while parent != key:
            self._parent[key] = self._parent.setdefault(parent, parent)
            key, parent = parent, self._parent[parent]
        return key

    def join(self, one: Hashable, other: Hashable) -> None:
        self._parent[self.root(other)] = self.root(one)


def exact_pairs(fingerprints: Sequence[Fingerprint]) -> list[tuple[int, int]]:
    """Index pairs (first of its kind, later one) of byte-identical files."""
    first: dict[str, int] = {}
    pairs = [(first.setdefault(item.sha256, index), index) for index, item in enumerate(fingerprints)]
    return [(one, other) for one, other in pairs if one != other]


def duplicate_pairs(fingerprints: Sequence[Fingerprint]) -> list[tuple[int, int]]:
    """Index pairs that tie all duplicates together: of byte-identical files, and of the first of each kind that look the same."""
    exact = exact_pairs(fingerprints)
    repeated = {later for _, later in exact}
    first = [index for index in range(len(fingerprints)) if index not in repeated]
    near = near_pairs([fingerprints[index] for index in first])
    return exact + [(first[one], first[other]) for one, other in near]


def near_pairs(fingerprints: Sequence[Fingerprint]) -> list[tuple[int, int]]:
    """Index pairs (i < j) of pictures that look the same. Identical ones without contrast are for ``exact_pairs``."""
    if len(fingerprints) < 2:
        return []
    hashes = np.array([int(item.phash, 16) for item in fingerprints], np.uint64)
    bits = np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1).astype(np.float32)
    ones = bits.sum(axis=1)
    thumbnails = np.frombuffer(b"".join(item.thumbnail for item in fingerprints), np.uint8)
    thumbnails = thumbnails.reshape(len(fingerprints), -1)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(bits), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        # Hamming distance by a matrix product: |a| + |b| - 2 a.b
        distance = ones[rows, None] + ones[None, start:] - 2 * bits[rows] @ bits[start:].T
        candidates = np.argwhere(distance <= MAX_HASH_DISTANCE) + start
        candidates = candidates[candidates[:, 0] < candidates[:, 1]]
        for part in np.array_split(candidates, len(candidates) // _PAIRS_AT_ONCE + 1):
            alike = _correlation(thumbnails[part[:, 0]], thumbnails[part[:, 1]]) >= MIN_CORRELATION
            pairs += [(int(one), int(other)) for one, other in part[alike]]
    return pairs


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson's r of each row of (N, P) uint8 with the same row of another; 0 where a row has no contrast."""
    one = one - one.mean(axis=1, keepdims=True)
    other = other - other.mean(axis=1, keepdims=True)
    norm = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    return (one * other).sum(axis=1) / np.where(norm > 0, norm, np.inf)


def duplicate_groups(ids: Sequence[str], pairs: Sequence[tuple[int, int]]) -> dict[str, str]:
    """For each id that has a duplicate, the group's name: its smallest id."""
    clusters = Clusters()
    members: dict[Hashable, list[str]] = {}
    paired = {index for pair in pairs for index in pair}
    for one, other in pairs:
        clusters.join(one, other)
    for index in sorted(paired):
        members.setdefault(clusters.root(index), []).append(ids[index])
    return {member: min(group) for group in members.values() for member in group}
