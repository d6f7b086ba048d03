"""What a prepared data set consists of: COCO jsons and split.csv (``datasets/README.md`` describes them)."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lesionseg import __version__
from lesionseg.convert import Record
from lesionseg.images import atomic_write
from lesionseg.journal import Journal
from lesionseg.labels import DIAGNOSES
from lesionseg.sources import Sample
from lesionseg.split import SPLITS

LICENSES = {
    "isic2016": ("CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
    "isic2017": ("CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
    "isic2018": ("CC BY-NC 4.0", "https://creativecommons.org/licenses/by-nc/4.0/"),
    "isic": ("per image, see the ISIC archive", "https://www.isic-archive.com/"),
    "ham10000": ("CC BY-NC-SA 4.0", "https://creativecommons.org/licenses/by-nc-sa/4.0/"),
    "ph2": (
        "research and education, see the data set's page",
        "https://www.fc.up.pt/addi/ph2%20database.html",
    ),
    "plain": ("not stated", ""),
}


@dataclass(frozen=True)
class PrepareOptions:
    """What the user asked for; the fields are the options of tools/prepare_dataset.py."""

    images: Path
    masks: Path
    out: Path
    labels: tuple[Path, ...] = ()
    layout: str = "auto"
    split: str | None = None
    seed: int = 42
    folds: int | None = None
    name: str | None = None
    classes: str = "lesion"
    instances: str = "lesion"
    min_area: int = 100
    max_size: int | None = None
    on_error: str = "stop"
    overwrite: bool = False
    workers: int | None = None

    @property
    def dataset_name(self) -> str:
        return self.name or self.out.name


@dataclass(frozen=True)
class Prepared:
    """A data set that is checked, grouped and split, ready to be written."""

    layout: str
    samples: list[Sample]  # usable ones, sorted by id
    records: Mapping[str, Record]  # by sample id
    duplicates: Mapping[str, str]  # id to name of its duplicate group
    parts: Mapping[str, str]  # id to train, val or test; with folds, to the fold it is val of, or test
    categories: list[str]

    def splits(self) -> dict[str, list[Sample]]:
        """Samples of each json. A fold becomes two: fold0_train, of all other folds, and fold0_val."""

        def of(*parts: str) -> list[Sample]:
            return [sample for sample in self.samples if self.parts[sample.id] in parts]

        found = set(self.parts.values())
        folds = sorted((part for part in found if part.startswith("fold")), key=lambda part: int(part[4:]))
        splits = {}
        for fold in folds:
            splits[f"{fold}_train"] = of(*(other for other in folds if other != fold))
            splits[f"{fold}_val"] = of(fold)
        return splits | {part: of(part) for part in SPLITS if part in found}


def category_of(sample: Sample, classes: str) -> str | None:
    """Category name of a sample under ``--classes``; None where its label does not tell."""
    if classes == "lesion":
        return "lesion"
    if classes == "diagnosis":
        return sample.diagnosis
    return None if sample.malignant is None else ("malignant" if sample.malignant else "benign")


def categories_of(samples: list[Sample], classes: str) -> list[str]:
    """Categories in a fixed order: benign, malignant; diagnoses as in ``labels.DIAGNOSES``, others by the alphabet after these."""
    if classes != "diagnosis":
        return ["lesion"] if classes == "lesion" else ["benign", "malignant"]
    found = {sample.diagnosis for sample in samples if sample.diagnosis}
    known = [name for name in dict.fromkeys(DIAGNOSES.values()) if name in found]
    return known + sorted(found.difference(known))


def image_paths(sample: Sample, record: Record, options: PrepareOptions) -> tuple[str, str]:
    """(image relative to the image root, mask relative to the json's folder), with forward slashes."""
    if record.image_copy and record.mask_copy:
        return record.image_copy, f"masks/{record.mask_copy}"
    assert sample.mask is not None
    return sample.image.relative_to(options.images).as_posix(), _relative(sample.mask, options.out)


_real_folder = lru_cache(os.path.realpath)  # asks the file system for every part of a path


def _relative(path: Path, folder: Path) -> str:
    real = Path(_real_folder(path.parent), path.name)
    try:
        return Path(os.path.relpath(real, _real_folder(folder))).as_posix()
    except ValueError:  # another drive of Windows
        return real.as_posix()


def _header(split: str, prepared: Prepared, options: PrepareOptions) -> dict[str, Any]:
    license_name, license_url = LICENSES[prepared.layout]
    return {
        "info": {
            "description": f"{options.dataset_name} {split}: dermoscopy images with lesion masks",
            "version": __version__,
            "name": options.dataset_name,
            "split": split,
            "seed": options.seed,
            "source_layout": prepared.layout,
            "image_root": "images" if options.max_size else _relative(options.images, options.out),
        },
        "licenses": [{"id": 1, "name": license_name, "url": license_url}],
        "categories": [
            {"id": index, "name": name, "supercategory": "lesion"}
            for index, name in enumerate(prepared.categories, start=1)
        ],
    }


def write_split(
    folder: Path,
    name: str,
    samples: list[Sample],
    prepared: Prepared,
    journal: Journal,
    options: PrepareOptions,
) -> None:
    """Write ``<name>.json``, streaming annotations from the journal."""
    numbers = {sample.id: number for number, sample in enumerate(prepared.samples, start=1)}

    def images() -> Iterator[dict[str, Any]]:
        for sample in samples:
            record = prepared.records[sample.id]
            file_name, mask_file = image_paths(sample, record, options)
            yield {
                "id": numbers[sample.id],
                "file_name": file_name,
                "width": record.width,
                "height": record.height,
                "license": 1,
                "sample_id": sample.id,
                "mask_file": mask_file,
                "group": sample.group,
                "diagnosis": sample.diagnosis,
            }

    def annotations() -> Iterator[dict[str, Any]]:
        for sample in samples:
            category = category_of(sample, options.classes)
            assert category is not None
            for annotation in journal.read(sample.id).annotations:
                yield {
                    "image_id": numbers[sample.id],
                    "category_id": prepared.categories.index(category) + 1,
                    **annotation,
                    "group": sample.group,
                    "diagnosis": sample.diagnosis,
                }

    _write_coco(folder / f"{name}.json", _header(name, prepared, options), images(), annotations())


def _write_coco(
    path: Path,
    header: Mapping[str, Any],
    images: Iterable[Mapping[str, Any]],
    annotations: Iterable[Mapping[str, Any]],
) -> None:
    """Write a COCO json piece by piece, so that memory does not grow with it."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="ascii", newline="\n") as file:
        file.write(json.dumps(header)[:-1] + ',\n"images": [')
        for index, image in enumerate(images):
            file.write((",\n" if index else "\n") + json.dumps(image))
        file.write('\n],\n"annotations": [')
        for number, annotation in enumerate(annotations, start=1):
            file.write((",\n" if number > 1 else "\n") + json.dumps({"id": number, **annotation}))
        file.write("\n]}\n")


def write_split_csv(path: Path, prepared: Prepared, options: PrepareOptions) -> None:
    """Write split.csv: one row a sample, sorted by id; empty cells where nothing is known."""
    columns = [
        "id",
        "file_name",
        "mask",
        "split",
        "group",
        "diagnosis",
        "category",
        "width",
        "height",
        "sha256",
        "phash",
        "duplicate_group",
    ]
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for sample in prepared.samples:
            record = prepared.records[sample.id]
            assert record.fingerprint is not None
            writer.writerow(
                [
                    sample.id,
                    *image_paths(sample, record, options),
                    prepared.parts[sample.id],
                    sample.group or "",
                    sample.diagnosis or "",
                    category_of(sample, options.classes),
                    record.width,
                    record.height,
                    record.fingerprint.sha256,
                    record.fingerprint.phash,
                    prepared.duplicates.get(sample.id, ""),
                ]
            )
