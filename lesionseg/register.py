"""Prepared data sets -> Detectron2's DatasetCatalog and MetadataCatalog."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from lesionseg.errors import LesionsegError

# What a COCO image entry carries beyond Detectron2's own fields, and travels with the record.
EXTRA_IMAGE_KEYS = ("sample_id", "group", "diagnosis")


def data_root(root: str | Path = "") -> Path:
    """The folder of prepared data sets: `root`, else $DETECTRON2_DATASETS, else ./datasets."""
    return Path(root or os.environ.get("DETECTRON2_DATASETS", "datasets"))


def read_coco(json_path: str | Path) -> dict[str, Any]:
    """A COCO json as a dict; LesionsegError where it is missing or damaged."""
    try:
        return json.loads(Path(json_path).read_text())
    except (OSError, ValueError) as error:
        raise LesionsegError(
            f"{json_path}: cannot be read ({error}); run tools/prepare_dataset.py again"
        ) from error


def load_lesion_json(json_path: str | Path) -> list[dict[str, Any]]:
    """Records of one split in Detectron2's standard format.

    Detectron2's own `load_coco_json` drops extra image fields; here every record also has `sample_id` (str),
    `group` and `diagnosis` (str or None). Category ids become contiguous from 0 in the json's order.

    Raises:
        LesionsegError: the json cannot be read.
    """
    coco = read_coco(json_path)
    root = (Path(json_path).parent / coco["info"]["image_root"]).resolve()
    contiguous = {category["id"]: index for index, category in enumerate(coco["categories"])}
    annotations: dict[int, list[dict[str, Any]]] = {}
    for annotation in coco["annotations"]:
        annotations.setdefault(annotation["image_id"], []).append(
            {
                "bbox": annotation["bbox"],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": contiguous[annotation["category_id"]],
                "segmentation": annotation["segmentation"],
                "iscrowd": 0,
            }
        )
    records = []
    for image in coco["images"]:
        record = {
            "file_name": str(root / image["file_name"]),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
            "annotations": annotations.get(image["id"], []),
        }
        record.update({key: image.get(key) for key in EXTRA_IMAGE_KEYS})
        records.append(record)
    return records


def register_split(name: str, json_path: str | Path) -> None:
    """Register one split under a Detectron2 name, replacing an earlier registration of that name."""
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
    MetadataCatalog.pop(name, None)
    coco = read_coco(json_path)
    DatasetCatalog.register(name, partial(load_lesion_json, json_path))
    MetadataCatalog.get(name).set(
        json_file=str(json_path),
        image_root=str(Path(json_path).parent / coco["info"]["image_root"]),
        evaluator_type="lesion",
        thing_classes=[category["name"] for category in coco["categories"]],
        thing_dataset_id_to_contiguous_id={c["id"]: i for i, c in enumerate(coco["categories"])},
    )


def register_all(root: str | Path = "") -> list[str]:
    """Register every prepared data set below `root` (see `data_root`).

    A data set is a folder with a summary.json, which prepare_dataset.py writes last.

    Returns:
        The registered names, `<name>_<split>`, sorted.
    """
    names = []
    for summary_path in sorted(data_root(root).glob("*/summary.json")):
        summary = read_coco(summary_path)
        if not isinstance(summary, dict) or not {"name", "splits"} <= summary.keys():
            raise LesionsegError(
                f"{summary_path}: expected what tools/prepare_dataset.py writes, found no name and splits. Prepare the data set "
                "again, or move the folder away"
            )
        for split in summary["splits"]:
            name = f"{summary['name']}_{split}"
            register_split(name, summary_path.parent / f"{split}.json")
            names.append(name)
    return sorted(names)


def require(names: tuple[str, ...] | list[str], root: str | Path = "") -> None:
    """Register all data sets and check that the named ones are among them.

    Raises:
        LesionsegError: a name is unknown; the message lists the known ones and how to prepare data.
    """
    known = register_all(root)
    if twice := [name for name in names if known.count(name) > 1]:
        raise LesionsegError(
            f"several folders below {data_root(root).resolve()} hold a data set {twice[0]}: move all but one away"
        )
    missing = [name for name in names if name not in DatasetCatalog.list()]
    if missing:
        raise LesionsegError(
            f"data set {', '.join(missing)} not found below {data_root(root).resolve()}; found there: "
            f"{', '.join(known) or 'none'}. Prepare it with tools/prepare_dataset.py, name another one "
            "(DATASETS.TRAIN, DATASETS.TEST), or set LESION.DATA_ROOT or the environment variable DETECTRON2_DATASETS"
        )
