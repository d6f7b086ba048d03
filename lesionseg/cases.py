"""What is scored: images with their reference mask and their predicted mask, matched by id."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from lesionseg.errors import LesionsegError
from lesionseg.images import IMAGE_SUFFIXES, read_mask

logger = logging.getLogger(__name__)

_MASK_ENDINGS = (
    "_segmentation",
    "_lesion",
    "_mask",
    "-mask",
    "_seg",
    "_gt",
    "_label",
    "_prediction",
    "_pred",
)
_NO_LESION_MASK = re.compile(r"_superpixels$|_attribute_\w+$", re.IGNORECASE)
_ISIC_ID = re.compile(r"ISIC_\d{7}", re.IGNORECASE)


@dataclass(frozen=True)
class Case:
    """One image to score, and what is known about it.

    `reference` is a mask file or the COCO RLEs of all instances, which were made from `mask`; `predicted` is a mask file,
    None for no prediction at all.
    """

    id: str
    reference: Path | tuple[dict[str, Any], ...]
    size: tuple[int, int] | None = None  # (height, width) where the reference is RLEs
    predicted: Path | None = None
    image: Path | None = None
    mask: Path | None = None
    group: str = ""
    diagnosis: str = ""
    source: str = ""
    reference_class: str = ""
    predicted_class: str = ""
    score: float = math.nan  # of the best detection


def mask_id(path: Path) -> str:
    """The image a mask file belongs to: its ISIC id where the name has one, else its stem without a usual ending.

    ISIC_0000001_segmentation.png -> ISIC_0000001; IMD002_lesion.bmp -> IMD002.
    """
    if match := _ISIC_ID.search(path.stem):
        return match.group().upper()
    ending = next((end for end in _MASK_ENDINGS if path.stem.casefold().endswith(end)), "")
    return path.stem[: len(path.stem) - len(ending)]


def list_masks(folder: Path) -> dict[str, Path]:
    """Mask files in a folder and its subfolders by image id, sorted; superpixel and attribute maps are passed over.

    A `mask` subfolder, as predict.py makes it beside overlays and crops, is taken alone.

    Raises:
        LesionsegError: no folder, no masks in it, or several files of one id.
    """
    if not folder.is_dir():
        raise LesionsegError(
            f"{folder}: expected a folder of masks, found {'a file' if folder.exists() else 'nothing'}"
        )
    if (folder / "mask").is_dir():
        folder = folder / "mask"
    by_id: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in IMAGE_SUFFIXES and not hidden and not _NO_LESION_MASK.search(path.stem):
            by_id.setdefault(mask_id(path), []).append(path)
    if not by_id:
        raise LesionsegError(
            f"{folder}: expected mask files ({', '.join(sorted(IMAGE_SUFFIXES))}), found none"
        )
    if several := [paths for paths in by_id.values() if len(paths) > 1]:
        lines = "\n  ".join(", ".join(map(str, paths)) for paths in several[:20])
        raise LesionsegError(f"{folder}: several masks of one image; leave one of each:\n  {lines}")
    return {key: paths[0] for key, paths in sorted(by_id.items())}


def match_predictions(folder: Path, ids: Iterable[str]) -> dict[str, Path | None]:
    """The predicted mask of every id; None where there is none. Masks of other images are named in a warning.

    Raises:
        LesionsegError: as `list_masks`, or when no file fits any id.
    """
    files = list_masks(folder)
    # An image's own id may hold more than its ISIC number, by which its mask is known: ISIC_0054432_downsampled.
    keys = {name: name if name in files else mask_id(Path(f"{name}.png")) for name in ids}
    found = {name: files.get(key) for name, key in keys.items()}
    if not any(found.values()):
        raise LesionsegError(
            f"{folder}: expected masks named by image id, such as {next(iter(found), 'ISIC_0000001')}_segmentation.png, "
            f"found {next(iter(files.values())).name} and {len(files) - 1} others, none of which fits"
        )
    if extra := sorted(set(files) - set(keys.values())):
        logger.warning("%d predicted masks have no reference and are not scored: %s", len(extra), some(extra))
    return found


def cases_from_folders(predictions: Path, masks: Path) -> list[Case]:
    """A case for every reference mask, sorted by id; see `list_masks` and `match_predictions` for errors."""
    references = list_masks(masks)
    found = match_predictions(predictions, references)
    return [Case(name, path, mask=path, predicted=found[name]) for name, path in references.items()]


def reference_mask(case: Case) -> np.ndarray:
    """The reference lesion mask of a case, bool (H, W).

    Raises:
        LesionsegError: the file cannot be read.
    """
    if isinstance(case.reference, Path):
        return read_mask(case.reference)
    assert case.size is not None
    mask = np.zeros(case.size, dtype=bool)
    for rle in case.reference:
        mask |= mask_util.decode(rle).astype(bool)
    return mask


def some(names: Sequence[str], most: int = 20) -> str:
    """Names for a message: all of a few, the first of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
