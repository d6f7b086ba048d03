"""Evaluators: Detectron2's COCOEvaluator, and the ISIC challenge's per-image scores."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm

from lesionseg.images import atomic_write
from lesionseg.masks import configured_lesion_mask
from lesionseg.metrics import ISIC_METRICS, confusion, isic_scores

logger = logging.getLogger(__name__)

INFERENCE_FOLDER = "inference"


def reference_mask(record: dict[str, Any]) -> np.ndarray:
    """The reference lesion mask of a dataset dict, bool (H, W): all its instances together."""
    mask = np.zeros((record["height"], record["width"]), dtype=bool)
    for annotation in record["annotations"]:
        mask |= mask_util.decode(annotation["segmentation"]).astype(bool)
    return mask


class ISICEvaluator(DatasetEvaluator):
    """Scores the one lesion mask of every image as ISIC 2018 Task 1 does; an image without detection is scored too.

    `evaluate` returns {"isic": {metric: mean over images, in [0, 1]}} with the names of the official scorer, and
    writes `isic_scores.csv` (one row an image) and `isic_scores.json` (the means) to the output folder.
    """

    def __init__(self, cfg: CfgNode, dataset_name: str, output_dir: str | Path) -> None:
        self._cfg = cfg
        self._records = {record["image_id"]: record for record in DatasetCatalog.get(dataset_name)}
        self._output_dir = Path(output_dir)
        self._rows: list[dict[str, Any]] = []

    def reset(self) -> None:
        self._rows = []

    def process(self, inputs: Iterable[dict[str, Any]], outputs: Iterable[dict[str, Any]]) -> None:
        """`inputs`: dicts with `image_id`; `outputs`: dicts with `instances`, as Detectron2's models give them."""
        for item, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to(torch.device("cpu"))
            record = self._records[item["image_id"]]
            counts = confusion(reference_mask(record), configured_lesion_mask(self._cfg, instances))
            score = float(instances.scores.max()) if len(instances) else 0.0
            row = {"sample_id": record["sample_id"], "score": score, **isic_scores(counts)}
            self._rows.append({**row, **counts._asdict()})

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Means over all images of all processes; {} on other processes than the first."""
        comm.synchronize()
        gathered = comm.gather(self._rows)
        if not comm.is_main_process():
            return {}
        rows = sorted((row for part in gathered for row in part), key=lambda row: row["sample_id"])
        means = {name: float(np.mean([row[name] for row in rows])) for name in ISIC_METRICS}
        self._write(rows, means)
        return {"isic": means}

    def _write(self, rows: list[dict[str, Any]], means: dict[str, float]) -> None:
        self._output_dir.mkdir(parents=True, exist_ok=True)
        with (
            atomic_write(self._output_dir / "isic_scores.csv") as temporary,
            open(temporary, "w", newline="") as file,
        ):
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        with atomic_write(self._output_dir / "isic_scores.json") as temporary:
            Path(temporary).write_text(json.dumps({"images": len(rows), **means}, indent=2) + "\n")


def build_evaluators(
    cfg: CfgNode, dataset_name: str, output_dir: str | Path | None = None
) -> DatasetEvaluators:
    """COCOEvaluator (bbox and segm) and ISICEvaluator for one data set.

    Args:
        output_dir: where their files go; by default <cfg.OUTPUT_DIR>/inference/<dataset_name>.
    """
    folder = Path(output_dir or Path(cfg.OUTPUT_DIR) / INFERENCE_FOLDER / dataset_name)
    # The compiled COCO evaluation exists only in a Detectron2 built from source; pycocotools gives the same AP.
    coco = COCOEvaluator(dataset_name, tasks=("bbox", "segm"), output_dir=str(folder), use_fast_impl=False)
    return DatasetEvaluators([coco, ISICEvaluator(cfg, dataset_name, folder)])
