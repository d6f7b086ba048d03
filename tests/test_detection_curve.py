"""Precision and recall of detections on images counted by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest

from lesionseg.detection_curve import detection_curve


def rle(left: int, width: int) -> dict[str, Any]:
    mask = np.zeros((20, 20), np.uint8, order="F")
    mask[5:15, left : left + width] = 1
    encoded = mask_util.encode(mask)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def curve_of(tmp_path: Path, results: list[tuple[int, int, int, float]]) -> dict[float, dict[str, float]]:
    """Three images with a lesion 10 px wide at column 5; results are (image, left, width, score)."""
    images = [{"id": number, "width": 20, "height": 20} for number in (1, 2, 3)]
    annotations = [
        {
            "id": n,
            "image_id": n,
            "category_id": 1,
            "bbox": [5, 5, 10, 10],
            "area": 100,
            "iscrowd": 0,
            "segmentation": rle(5, 10),
        }
        for n in (1, 2, 3)
    ]
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "lesion"}]}
    (tmp_path / "data.json").write_text(json.dumps(coco))
    found = [
        {
            "image_id": image,
            "category_id": 1,
            "bbox": [left, 5, width, 10],
            "score": score,
            "segmentation": rle(left, width),
        }
        for image, left, width, score in results
    ]
    (tmp_path / "results.json").write_text(json.dumps(found))
    return {
        point["threshold"]: point
        for point in detection_curve(tmp_path / "data.json", tmp_path / "results.json")
    }


def test_by_hand(tmp_path: Path) -> None:
    # Image 1: exact at 0.9 and a second, superfluous one at 0.4. Image 2: IoU 6/10 at 0.7. Image 3: nothing right, 0.5.
    curve = curve_of(tmp_path, [(1, 5, 10, 0.9), (1, 5, 9, 0.4), (2, 5, 6, 0.7), (3, 14, 6, 0.5)])
    assert (curve[0.0]["precision50"], curve[0.0]["recall50"]) == pytest.approx((2 / 4, 2 / 3))
    assert (curve[0.0]["precision75"], curve[0.0]["recall75"]) == pytest.approx((1 / 4, 1 / 3))
    assert (curve[0.42]["precision50"], curve[0.42]["recall50"]) == pytest.approx((2 / 3, 2 / 3))
    assert (curve[0.6]["precision50"], curve[0.6]["recall50"]) == pytest.approx((1, 2 / 3))
    assert (curve[0.6]["precision75"], curve[0.6]["recall75"]) == pytest.approx((1 / 2, 1 / 3))
    assert (curve[0.8]["precision50"], curve[0.8]["recall50"]) == pytest.approx((1, 1 / 3))
    assert math.isnan(curve[0.92]["precision50"]) and curve[0.92]["recall50"] == 0


def test_no_detection_at_all(tmp_path: Path) -> None:
    curve = curve_of(tmp_path, [])
    assert curve[0.5]["recall50"] == 0 and math.isnan(curve[0.5]["precision50"])
