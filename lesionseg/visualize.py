"""Pictures of a data set: what its annotations say, or what the network is shown after augmentation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.visualizer import ColorMode, Visualizer

from lesionseg.augment import LesionMapper
from lesionseg.errors import LesionsegError
from lesionseg.images import read_image, write_image
from lesionseg.register import register_all

TILE = 320  # px, side of a picture on the contact sheet
CONTACT_SHEET = "contact_sheet.jpg"


def find_dataset(name: str, split: str, root: str = "") -> str:
    """The registered name for a data set's name and split, or for a full registered name.

    Raises:
        LesionsegError: there is none; lists those that there are.
    """
    known = register_all(root)
    for candidate in (f"{name}_{split}", name):
        if candidate in known:
            return candidate
    raise LesionsegError(
        f"no prepared data set {name} with split {split}; there are: {', '.join(known) or 'none'}. Prepare one with "
        "tools/prepare_dataset.py, or set LESION.DATA_ROOT or the environment variable DETECTRON2_DATASETS"
    )


def draw_record(record: dict[str, Any], classes: Sequence[str]) -> np.ndarray:
    """A dataset dict's image with its annotations, uint8 (H, W, 3) BGR."""
    image = read_image(record["file_name"])
    metadata = MetadataCatalog.get("__lesionseg_drawing").set(thing_classes=list(classes))
    drawn = Visualizer(image[:, :, ::-1], metadata).draw_dataset_dict(record)
    return drawn.get_image()[:, :, ::-1]


def draw_mapped(item: dict[str, Any], image_format: str, classes: Sequence[str]) -> np.ndarray:
    """A training item as the mapper gives it to the network, uint8 (H, W, 3) BGR."""
    image = item["image"].permute(1, 2, 0).numpy()
    rgb = image[:, :, ::-1] if image_format == "BGR" else image
    instances = item["instances"]
    visualizer = Visualizer(rgb, instance_mode=ColorMode.IMAGE)
    drawn = visualizer.overlay_instances(
        labels=[classes[index] for index in instances.gt_classes.tolist()],
        boxes=instances.gt_boxes,
        masks=list(instances.gt_masks.tensor.numpy()) if len(instances) else None,
        alpha=0.2,  # what augmentation did to the colours must be seen
    )
    return drawn.get_image()[:, :, ::-1]


def contact_sheet(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """All pictures, fitted into squares, on one uint8 BGR sheet."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    sheet = np.full((rows * TILE, columns * TILE, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        scale = TILE / max(picture.shape[:2])
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:TILE, :TILE]
        y, x = divmod(index, columns)
        sheet[y * TILE :, x * TILE :][: small.shape[0], : small.shape[1]] = small
    return sheet


def visualize_dataset(cfg: CfgNode, dataset: str, count: int, augmented: bool, output: Path) -> Path:
    """Draw `count` images spread evenly over a registered data set.

    Args:
        augmented: pass each through the training mapper of `cfg` instead of drawing it as it is on disk.
        output: folder for <image id>.jpg and the contact sheet.

    Returns:
        The contact sheet's path.

    Raises:
        LesionsegError: an image cannot be read, or count is below 1.
    """
    if count < 1:
        raise LesionsegError(f"--count {count}: expected at least 1")
    records = DatasetCatalog.get(dataset)
    chosen = [records[index] for index in np.unique(np.linspace(0, len(records) - 1, count).astype(int))]
    classes = MetadataCatalog.get(dataset).thing_classes
    mapper = LesionMapper(cfg, augment=True, targets=True) if augmented else None
    pictures = []
    for record in chosen:
        if mapper is None:
            picture = draw_record(record, classes)
        else:
            picture = draw_mapped(mapper(record), cfg.INPUT.FORMAT, classes)
        write_image(output / f"{record['sample_id']}.jpg", picture)
        pictures.append(picture)
    write_image(output / CONTACT_SHEET, contact_sheet(pictures))
    return output / CONTACT_SHEET
