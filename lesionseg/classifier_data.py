"""Crops with labels for the classifier: read crops.csv, choose classes, make network inputs and feature tables."""

from __future__ import annotations

import csv
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from torch.utils.data import Dataset, Sampler

from lesionseg.augment import geometric_augmentations, photometric_augmentations
from lesionseg.crop_export import CROPS_CSV, CROPS_JSON, CropSettings
from lesionseg.errors import LesionsegError
from lesionseg.features import FEATURES
from lesionseg.images import read_image
from lesionseg.labels import DIAGNOSES, is_malignant

LABELS = {
    "diagnosis": (),
    "benign-malignant": ("benign", "malignant"),
    "isic2017": ("melanoma", "seborrheic keratosis", "nevus"),
}
# What the feature models see. Sizes in px are left out: they depend on the camera's distance and resolution.
MODEL_FEATURES = tuple(name for name, unit in FEATURES.items() if unit not in ("px", "mm"))
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Crop:
    """One crop: its file, row of crops.csv, and class index (None where its label is not among the classes)."""

    file: Path
    row: dict[str, str]
    label: int | None

    @property
    def group(self) -> str:
        """Lesion or patient; the image where neither is known."""
        return self.row["group"] or self.row["sample_id"]

    @property
    def features(self) -> list[float]:
        """MODEL_FEATURES, NaN where not measured."""
        return [float(self.row[name] or "nan") for name in MODEL_FEATURES]


def read_crops(folders: Sequence[str | Path]) -> tuple[list[tuple[Path, dict[str, str]]], CropSettings]:
    """(crop file, row) of all crops in the folders, and how they were cut.

    Raises:
        LesionsegError: a folder is not a complete export; folders were cut differently; a lesion, patient or image is
            in two splits.
    """
    if not folders:
        raise LesionsegError("no crops: set CLASSIFIER.CROPS to folders that tools/export_crops.py wrote")
    crops, made_by = [], set()
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise LesionsegError(f"a folder of crops is named twice: {', '.join(map(str, folders))}")
    for folder in map(Path, folders):
        if not (folder / CROPS_JSON).is_file():
            raise LesionsegError(
                f"{folder} is no complete folder of crops: expected {CROPS_JSON} in it. Run tools/export_crops.py (again)"
            )
        content = json.loads((folder / CROPS_JSON).read_text(encoding="utf-8"))
        made_by.add(CropSettings(content["margin"], content["size"], content["background"]))
        with (folder / CROPS_CSV).open(newline="", encoding="utf-8") as file:
            crops += [(folder / row["file"], row) for row in csv.DictReader(file)]
    if len(made_by) > 1:
        raise LesionsegError(
            f"the folders hold crops that were cut differently: {made_by}; export them alike"
        )
    _check_splits([row for _, row in crops])
    return crops, made_by.pop()


def _check_splits(rows: Sequence[dict[str, str]]) -> None:
    for key in ("group", "sample_id"):
        splits = defaultdict(set)
        for row in rows:
            splits[row[key]].add(row["split"])
        leaks = sorted(name for name, found in splits.items() if name and len(found) > 1)
        if leaks:
            raise LesionsegError(
                f"{len(leaks)} of {key} are in more than one split, for instance {leaks[0]} in "
                f"{', '.join(sorted(splits[leaks[0]]))}: what is tested on was trained on. Prepare the data as one set"
            )


def label_of(row: dict[str, str], labels: str) -> str | None:
    """Class name of a crop under CLASSIFIER.LABELS; None where its diagnosis does not tell."""
    diagnosis = row["diagnosis"]
    if labels == "benign-malignant":
        malignant = is_malignant(row["category"])
        if malignant is None:
            malignant = is_malignant(diagnosis)
        return None if malignant is None else ("malignant" if malignant else "benign")
    if labels == "isic2017":
        return diagnosis if diagnosis in LABELS["isic2017"] else None
    return diagnosis or None


def choose_classes(rows: Sequence[dict[str, str]], labels: str) -> list[str]:
    """Class names in a fixed order, of which there must be two or more among the training crops.

    Raises:
        LesionsegError: unknown LABELS, or a class without training crops.
    """
    if labels not in LABELS:
        raise LesionsegError(f"CLASSIFIER.LABELS is one of {', '.join(LABELS)}, not {labels!r}")
    counts = Counter(label_of(row, labels) for row in rows if row["split"] == "train")
    order = LABELS[labels] or [
        *dict.fromkeys(DIAGNOSES.values()),
        *sorted(name for name in counts if name and name not in DIAGNOSES.values()),
    ]
    classes = [name for name in order if counts[name] or LABELS[labels]]
    empty = [name for name in classes if not counts[name]]
    if empty or len(classes) < 2:
        found = ", ".join(f"{count} {name or 'without a label'}" for name, count in counts.items()) or "none"
        raise LesionsegError(
            f"CLASSIFIER.LABELS {labels} needs training crops of {'each of ' + ', '.join(classes) if empty else 'two classes'}; "
            f"found: {found}. Prepare the data with --labels, or choose other LABELS"
        )
    return classes


def labelled(crops: Sequence[tuple[Path, dict[str, str]]], classes: Sequence[str], labels: str) -> list[Crop]:
    """All crops with their class index."""
    index = {name: number for number, name in enumerate(classes)}
    return [Crop(file, row, index.get(label_of(row, labels) or "")) for file, row in crops]


def feature_table(crops: Sequence[Crop]) -> np.ndarray:
    """float64 (n, MODEL_FEATURES), NaN where not measured."""
    return np.array([crop.features for crop in crops], dtype=float).reshape(-1, len(MODEL_FEATURES))


def network_input(image: np.ndarray, size: int) -> np.ndarray:
    """A crop, uint8 (h, w, 3) BGR, scaled to (size, size, 3)."""
    if image.shape[:2] == (size, size):
        return image
    method = cv2.INTER_AREA if max(image.shape[:2]) > size else cv2.INTER_CUBIC
    return cv2.resize(image, (size, size), interpolation=method)


class CropImages(Dataset):
    """Crops as uint8 (3, size, size) RGB tensors with their index; augmented when a cfg is given.

    Augmentation depends on seed, epoch and index alone, so neither the number of workers nor an interruption changes it.
    """

    def __init__(self, crops: Sequence[Crop], size: int, cfg: CfgNode | None = None, seed: int = 0) -> None:
        self.files = [str(crop.file) for crop in crops]
        self.size, self.seed, self.epoch = size, seed, 0
        self.augment = None
        if cfg is not None:
            self.augment = T.AugmentationList(
                [*geometric_augmentations(cfg), *photometric_augmentations(cfg)]
            )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        """`place` is what the sampler draws: the crop's index, plus the number of crops times the draw's number."""
        index = place % len(self.files)
        image = network_input(read_image(self.files[index]), self.size)
        if self.augment is not None:
            np.random.seed(np.random.SeedSequence([self.seed, self.epoch, place]).generate_state(1)[0])
            inputs = T.AugInput(image)
            self.augment(inputs)
            image = inputs.image
        return torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1))), index


class BalancedSampler(Sampler):
    """As many draws an epoch as there are crops, every class equally often; a different, repeatable order each epoch.

    A class is gone through in random order before one of its crops is drawn again; repeated draws of a crop are
    numbered, so that each is augmented differently.
    """

    def __init__(self, labels: Sequence[int], seed: int) -> None:
        self.labels, self.seed, self.epoch = np.asarray(labels), seed, 0

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        members = [np.flatnonzero(self.labels == label) for label in np.unique(self.labels)]
        each = -(-len(self.labels) // len(members))
        drawn = []
        for indices in members:
            rounds = -(-each // len(indices))
            places = [generator.permutation(indices) + number * len(self.labels) for number in range(rounds)]
            drawn.append(np.concatenate(places)[:each])
        return iter(generator.permutation(np.concatenate(drawn))[: len(self.labels)].tolist())
