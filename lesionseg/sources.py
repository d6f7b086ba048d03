"""Find images and their masks in the folder layouts of the public dermoscopy data sets.

Layouts: ISIC 2016, 2017 and 2018 Task 1 (``ISIC_x.jpg`` + ``ISIC_x_segmentation.png``), HAM10000 with Tschandl's masks (the
same names), PH2 (``IMD002_Dermoscopic_Image/IMD002.bmp`` + ``IMD002_lesion/IMD002_lesion.bmp``) and plain pairs of
folders (``x.jpg`` + ``x.png`` or ``x_mask.png``). Everything is sorted, so a listing never depends on the file system.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from lesionseg.errors import LesionsegError
from lesionseg.images import IMAGE_SUFFIXES

LAYOUTS = ("isic2016", "isic2017", "isic2018", "isic", "ham10000", "ph2", "plain")

_PLAIN_MASK_SUFFIXES = ("_segmentation", "_mask", "-mask", "_seg", "_lesion", "_gt", "_label")
_ISIC_MASK = re.compile(r"isic_\d+_segmentation$", re.IGNORECASE)
# Published beside images and masks, but neither: superpixel maps, and the attribute masks of ISIC 2018 Task 2.
_ISIC_NO_IMAGE = re.compile(r"(_superpixels|_segmentation|_attribute_\w+)$", re.IGNORECASE)
_ISIC_YEAR = re.compile(r"is(?:ic|bi)[-_ ]?(2016|2017|2018)", re.IGNORECASE)
_HAM10000_IDS = range(24306, 34321)  # HAM10000 is exactly these numbers of the ISIC archive
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Sample:
    """One photograph, its mask and what is known about the lesion."""

    id: str  # file stem of the image, such as ISIC_0000001
    image: Path
    mask: Path | None
    split: str | None = None  # train, val or test where an official folder says so
    group: str | None = None  # patient, or lesion where no patient is known
    diagnosis: str | None = None  # lower case: melanoma, nevus, ...
    malignant: bool | None = None
    source: str = "plain"  # layout it was found in


@dataclass(frozen=True)
class Listing:
    """What a scan found; everything but ``samples`` is for the problem report."""

    layout: str
    samples: list[Sample]  # sorted by id; mask is None where none was found
    orphan_masks: list[Path]
    same_id: list[list[Path]]  # files that claim one id; they are in no sample
    ignored: dict[str, int]  # files that are no images, counted by suffix


def _walk(root: Path) -> list[Path]:
    """All files below ``root``, sorted, without hidden ones and macOS's resource forks; links to folders are followed."""
    files, seen = [], set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back up
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "__MACOSX")))
        files += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(files)


def _without(files: list[Path], root: Path, other: Path) -> list[Path]:
    """The files below ``root`` that are not below ``other``, where that lies inside ``root``."""
    try:
        inner = root / other.resolve().relative_to(root.resolve())
    except ValueError:
        return files
    return [path for path in files if inner not in path.parents]


def _scan(images: Path, masks: Path) -> tuple[list[Path], list[Path], dict[str, int]]:
    """Candidate files of both folders. Where one folder lies in the other, its files belong to it alone."""
    for option, folder in (("--images", images), ("--masks", masks)):
        if not folder.is_dir():
            found = "a file" if folder.exists() else "nothing"
            raise LesionsegError(f"{option} {folder}: expected a folder, found {found}. Check the path.")
    image_files, mask_files = _walk(images), _walk(masks)
    if not images.samefile(masks):
        image_files, mask_files = _without(image_files, images, masks), _without(mask_files, masks, images)
    ignored = Counter(
        path.suffix.lower() or "(none)"
        for path in {*image_files, *mask_files}
        if path.suffix.lower() not in IMAGE_SUFFIXES
    )
    return (
        [path for path in image_files if path.suffix.lower() in IMAGE_SUFFIXES],
        [path for path in mask_files if path.suffix.lower() in IMAGE_SUFFIXES],
        dict(sorted(ignored.items())),
    )


def detect_layout(images: Path, image_files: list[Path], mask_files: list[Path]) -> str:
    """Name of the layout, from file names, and from folder names where ISIC years differ in nothing else."""
    if any(path.parent.name.lower().endswith("_dermoscopic_image") for path in image_files):
        return "ph2"
    stems = [path.stem for path in mask_files if _ISIC_MASK.search(path.stem)]
    if not stems:
        return "plain"
    if any(stem.endswith("_Segmentation") for stem in stems):
        return "isic2016"
    if all(int(stem.split("_")[1]) in _HAM10000_IDS for stem in stems):
        return "ham10000"
    folders = [*images.resolve().parts, *(part for path in image_files[:1] for part in path.parts)]
    years = [match.group(1) for match in map(_ISIC_YEAR.search, folders) if match]
    return f"isic{years[-1]}" if years else "isic"


def _plain_mask_id(stem: str, image_ids: set[str]) -> str | None:
    """Id a plain mask belongs to: its own stem, or that less one of the usual endings."""
    candidates = [stem, *(stem[: -len(end)] for end in _PLAIN_MASK_SUFFIXES if stem.endswith(end))]
    return next((candidate for candidate in candidates if candidate in image_ids), None)


def _choose_files(
    layout: str, images: list[Path], masks: list[Path], one_folder: bool
) -> tuple[list[Path], list[Path]]:
    """The files that are images, and those that are masks, by the rules of the layout."""
    if layout == "ph2":
        chosen = [path for path in images if path.parent.name.lower().endswith("_dermoscopic_image")]
        return chosen, [path for path in masks if path.parent.name.lower().endswith("_lesion")]
    if layout == "plain":
        if not one_folder:
            return images, masks
        named = [path for path in masks if path.stem.casefold().endswith(_PLAIN_MASK_SUFFIXES)]
        return [path for path in images if path not in set(named)], named
    chosen = [path for path in images if not _ISIC_NO_IMAGE.search(path.stem)]
    if one_folder:
        return chosen, [path for path in masks if path.stem.casefold().endswith("_segmentation")]
    return chosen, [path for path in masks if not re.search(r"_superpixels$|_attribute_\w+$", path.stem)]


def _mask_id(layout: str, path: Path, image_ids: set[str]) -> str | None:
    stem = path.stem.casefold()
    if layout == "plain":
        return _plain_mask_id(stem, image_ids)
    end = "_lesion" if layout == "ph2" else "_segmentation"
    return stem[: -len(end)] if stem.endswith(end) and stem[: -len(end)] in image_ids else None


def official_split(path: Path, root: Path) -> str | None:
    """train, val or test when a folder between ``root`` and the file is named so (ISIC-2017_Training_Data: train)."""
    for part in path.relative_to(root).parts[:-1]:
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in _SPLIT_WORDS:
                return _SPLIT_WORDS[word]
    return None


def find_samples(images: Path, masks: Path, layout: str = "auto") -> Listing:
    """List the pairs of image and mask below two folders (which may be the same one).

    Raises LesionsegError when a folder is missing or holds no image. Anything else that is wrong, such as an
    image without a mask, is in the Listing for ``validate`` to report, all of it at once.
    """
    image_files, mask_files, ignored = _scan(images, masks)
    if layout == "auto":
        layout = detect_layout(images, image_files, mask_files)
    image_files, mask_files = _choose_files(layout, image_files, mask_files, images.samefile(masks))
    if not image_files:
        found = ", ".join(f"{count} {suffix}" for suffix, count in ignored.items()) or "nothing else"
        raise LesionsegError(
            f"--images {images}: expected image files ({', '.join(sorted(IMAGE_SUFFIXES))}) in layout '{layout}', "
            f"found none ({found}). Check the path, or name the layout with --layout."
        )
    # Ids are compared without case: file systems of macOS and Windows do the same.
    images_by_id: dict[str, list[Path]] = defaultdict(list)
    for path in image_files:
        images_by_id[path.stem.casefold()].append(path)
    masks_by_id: dict[str, list[Path]] = defaultdict(list)
    orphans = []
    image_ids = set(images_by_id)
    for path in mask_files:
        key = _mask_id(layout, path, image_ids)
        if key is None:
            orphans.append(path)
        else:
            masks_by_id[key].append(path)
    samples, same_id = [], []
    for key, paths in sorted(images_by_id.items()):
        found_masks = masks_by_id.get(key, [])
        if len(paths) > 1 or len(found_masks) > 1:
            same_id.append(paths + found_masks)
            continue
        mask = found_masks[0] if found_masks else None
        samples.append(
            Sample(paths[0].stem, paths[0], mask, split=official_split(paths[0], images), source=layout)
        )
    return Listing(layout, samples, orphans, same_id, ignored)
