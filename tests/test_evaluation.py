"""ISICEvaluator against the challenge's own scorer, on mask files written to disk."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from isic_challenge_scoring.segmentation import SegmentationScore

from lesionseg.config import setup_cfg
from lesionseg.evaluation import ISICEvaluator, reference_mask
from lesionseg.masks import configured_lesion_mask
from lesionseg.metrics import ISIC_METRICS, confusion, isic_scores
from lesionseg.register import load_lesion_json, register_all


def random_instances(record: dict, rng: np.random.Generator, count: int) -> Instances:
    """Detections around the reference: shifted, with holes and specks, so that every step of the mask matters."""
    reference = reference_mask(record)
    masks = []
    for _ in range(count):
        mask = np.roll(reference, rng.integers(-9, 10, 2), axis=(0, 1))
        masks.append(mask ^ (rng.random(mask.shape) > 0.97))
    found = Instances(reference.shape)
    found.scores = torch.tensor(rng.random(count), dtype=torch.float32)
    found.pred_masks = torch.tensor(np.array(masks, dtype=bool).reshape(-1, *reference.shape))
    found.pred_boxes = Boxes(torch.zeros(count, 4))
    found.pred_classes = torch.zeros(count, dtype=torch.int64)
    return found


@pytest.mark.parametrize("selection", ["top", "union"])
@pytest.mark.parametrize("one_region", [True, False])
def test_scores_equal_the_official_scorers(lesion_root, tmp_path, selection, one_region):
    register_all(lesion_root)
    cfg = setup_cfg(opts=["LESION.MASK_SELECTION", selection, "LESION.ONE_REGION", str(one_region)])
    records = load_lesion_json(lesion_root / "tiny/val.json")
    evaluator = ISICEvaluator(cfg, "tiny_val", tmp_path / "out")
    evaluator.reset()
    rng = np.random.default_rng(0)
    for part in ("truth", "predicted"):
        (tmp_path / part).mkdir()
    for index, record in enumerate(records):
        found = random_instances(record, rng, count=index % 4)  # also images without any detection
        evaluator.process([{"image_id": record["image_id"]}], [{"instances": found}])
        name = f"{record['sample_id']}_segmentation.png"
        cv2.imwrite(str(tmp_path / "truth" / name), reference_mask(record).astype(np.uint8) * 255)
        cv2.imwrite(
            str(tmp_path / "predicted" / name), configured_lesion_mask(cfg, found).astype(np.uint8) * 255
        )
    ours = evaluator.evaluate()["isic"]
    official = SegmentationScore.from_dir(tmp_path / "truth", tmp_path / "predicted").macro_average
    assert set(ours) == set(official.index)
    for name, value in official.items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name
    assert 0 < ours["jaccard"] < 1  # neither trivial case
    written = json.loads((tmp_path / "out/isic_scores.json").read_text())
    assert written == {"images": 8, **ours}
    with open(tmp_path / "out/isic_scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sample_id"] for row in rows] == sorted(record["sample_id"] for record in records)
    assert np.mean([float(row["dice"]) for row in rows]) == pytest.approx(ours["dice"])


MASKS = {
    "empty": np.zeros((4, 4), bool),
    "full": np.ones((4, 4), bool),
    "left": np.tile([True, True, False, False], (4, 1)),
    "top": np.tile([True, True, False, False], (4, 1)).T,
}
# (reference, predicted): TP, FP, FN, TN counted by hand on 4x4 masks, and the Jaccard index that follows.
BY_HAND = {
    ("left", "left"): ((8, 0, 0, 8), 1.0),
    ("left", "top"): ((4, 4, 4, 4), 4 / 12),
    ("left", "full"): ((8, 8, 0, 0), 0.5),
    ("left", "empty"): ((0, 0, 8, 8), 0.0),
    ("empty", "left"): ((0, 8, 0, 8), 0.0),
    ("empty", "empty"): ((0, 0, 0, 16), 1.0),
    ("full", "full"): ((16, 0, 0, 0), 1.0),
}


@pytest.mark.parametrize(("names", "expected"), BY_HAND.items())
def test_counts_and_jaccard_by_hand(names, expected):
    counts = confusion(MASKS[names[0]], MASKS[names[1]])
    assert tuple(counts) == expected[0]
    assert isic_scores(counts)["jaccard"] == pytest.approx(expected[1])


@pytest.mark.parametrize("names", BY_HAND)
def test_every_metric_has_the_official_edge_cases(names, tmp_path):
    for part, name in zip(("truth", "predicted"), names, strict=True):
        (tmp_path / part).mkdir()
        cv2.imwrite(str(tmp_path / part / "ISIC_0000001.png"), MASKS[name].astype(np.uint8) * 255)
    official = SegmentationScore.from_dir(tmp_path / "truth", tmp_path / "predicted").macro_average
    ours = isic_scores(confusion(MASKS[names[0]], MASKS[names[1]]))
    assert ours.keys() == ISIC_METRICS.keys()
    assert ours == pytest.approx(dict(official), abs=1e-12)
