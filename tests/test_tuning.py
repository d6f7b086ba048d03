"""Thresholds chosen on a validation set, and only there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from tiny_run import make_run

from lesionseg.config import setup_cfg
from lesionseg.errors import LesionsegError
from lesionseg.evaluation import reference_mask
from lesionseg.masks import lesion_mask
from lesionseg.metrics import confusion, threshold_jaccard
from lesionseg.predictor import LesionPredictor
from lesionseg.tuning import MASK_THRESHOLDS, SCORE_THRESHOLDS, best_pair, grid_scores, tune_run

ONE_CLASS = (
    "MODEL.ROI_HEADS.NUM_CLASSES",
    "1",
    "LESION.CLASSES",
    "('lesion',)",
    "LESION.SCORE_THRESHOLD",
    "0.3",
)


@pytest.fixture
def run(lesion_root: Path, tmp_path: Path) -> Path:
    data = (
        "DATASETS.TRAIN",
        "('tiny_train',)",
        "DATASETS.TEST",
        "('tiny_val',)",
        "LESION.DATA_ROOT",
        str(lesion_root),
    )
    return make_run(tmp_path / "run", *ONE_CLASS, *data)


@pytest.mark.parametrize("selection", ["top", "union"])
@pytest.mark.parametrize(("score", "mask"), [(0.05, 0.5), (0.5, 0.2), (0.6, 0.75), (0.95, 0.5)])
def test_grid_equals_the_predictor_at_these_thresholds(
    run: Path, lesion_root: Path, selection: str, score: float, mask: float
) -> None:
    from lesionseg.register import require

    require(["tiny_val"], lesion_root)
    opts = ["MODEL.WEIGHTS", str(run / "model_best.pth"), "LESION.MASK_SELECTION", selection]
    table = grid_scores(setup_cfg(run / "config.yaml", opts), "tiny_val", "jaccard")
    opts += ["LESION.SCORE_THRESHOLD", str(score), "LESION.MASK_THRESHOLD", str(mask)]
    predictor = LesionPredictor(setup_cfg(run / "config.yaml", opts))
    for row, (record, found) in zip(table, predictor.predict(DatasetCatalog.get("tiny_val")), strict=True):
        counts = confusion(reference_mask(record), lesion_mask(found, selection, True, score))
        expected = counts.tp / (counts.tp + counts.fp + counts.fn)
        assert row[SCORE_THRESHOLDS.index(score), MASK_THRESHOLDS.index(mask)] == pytest.approx(expected)


def test_best_thresholds_are_written_and_nothing_else(run: Path) -> None:
    before = setup_cfg(run / "config.yaml")
    result = tune_run(run, metric="jaccard")
    means = np.array(result["grid"]["means"])
    assert result["after"]["value"] == pytest.approx(means.max())
    assert result["before"]["value"] <= result["after"]["value"]
    after = setup_cfg(run / "config.yaml")
    assert after.LESION.SCORE_THRESHOLD == result["after"]["score_threshold"]
    assert after.LESION.MASK_THRESHOLD == result["after"]["mask_threshold"]
    after.LESION.SCORE_THRESHOLD, after.LESION.MASK_THRESHOLD = 0.3, 0.5
    assert after.dump() == before.dump()
    assert json.loads((run / "tuning.json").read_text())["dataset"] == "tiny_val"


def test_of_equal_pairs_the_nearest_is_taken() -> None:
    means = np.zeros((len(SCORE_THRESHOLDS), len(MASK_THRESHOLDS)))
    means[:8, 6] = 0.7
    assert best_pair(means, (0.3, 0.5)) == (SCORE_THRESHOLDS.index(0.3), 6)
    means[2, 3] = 0.71
    assert best_pair(means, (0.3, 0.5)) == (2, 3)


def test_only_validation_parts_are_accepted(run: Path) -> None:
    config = (run / "config.yaml").read_bytes()
    with pytest.raises(LesionsegError, match="tiny_train is the train part of its data set"):
        tune_run(run, "tiny_train")
    with pytest.raises(LesionsegError, match="expected one of jaccard"):
        tune_run(run, metric="beauty")
    assert (run / "config.yaml").read_bytes() == config


def test_a_test_part_is_refused(run: Path, lesion_root: Path, tmp_path: Path) -> None:
    """The validation part under the name of a test part."""
    prepared = tmp_path / "datasets/held"
    prepared.mkdir(parents=True)
    coco = json.loads((lesion_root / "tiny/val.json").read_text())
    coco["info"]["split"] = "test"
    (prepared / "test.json").write_text(json.dumps(coco))
    (prepared / "summary.json").write_text(json.dumps({"name": "held", "splits": {"test": {}}}))
    with pytest.raises(LesionsegError, match="held_test is the test part"):
        tune_run(run, "held_test", opts=("LESION.DATA_ROOT", str(tmp_path / "datasets")))


def test_thresholded_jaccard_is_what_is_maximised(run: Path, lesion_root: Path) -> None:
    result = tune_run(run)
    assert result["metric"] == "threshold_jaccard"
    cfg = setup_cfg(run / "config.yaml", ["MODEL.WEIGHTS", str(run / "model_best.pth")])
    predictor = LesionPredictor(cfg)
    values = []
    for record, found in predictor.predict(DatasetCatalog.get("tiny_val")):
        mask = lesion_mask(found, "top", True, cfg.LESION.SCORE_THRESHOLD)
        values.append(threshold_jaccard(confusion(reference_mask(record), mask)))
    assert result["after"]["value"] == pytest.approx(np.mean(values))
