"""Cross-validation: commands of the folds, and one score card for all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, draw_lesions
from tiny_run import make_run

from lesionseg.config import setup_cfg
from lesionseg.errors import LesionsegError
from lesionseg.folds import fold_commands, fold_opts, score_folds
from lesionseg.prepare import prepare
from lesionseg.prepared import PrepareOptions
from lesionseg.scoring import read_scores

ONE_CLASS = (
    "MODEL.ROI_HEADS.NUM_CLASSES",
    "1",
    "LESION.CLASSES",
    "('lesion',)",
    "LESION.SCORE_THRESHOLD",
    "0.3",
)


@pytest.fixture(scope="module")
def folds_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("folds")
    drawn = draw_lesions(base / "drawn", 12)
    out = base / "datasets/tiny"
    prepare(PrepareOptions(images=drawn / "images", masks=drawn / "masks", out=out, folds=2, workers=1))
    return base / "datasets"


def test_each_fold_has_its_data_and_its_folder() -> None:
    cfg = setup_cfg(
        opts=[
            "DATASETS.TRAIN",
            "('isic2018_train',)",
            "DATASETS.TEST",
            "('isic2018_val',)",
            "OUTPUT_DIR",
            "out",
        ]
    )
    merged = setup_cfg(opts=fold_opts(cfg, 1))
    assert merged.DATASETS.TRAIN == ("isic2018_fold1_train",)
    assert merged.DATASETS.TEST == ("isic2018_fold1_val",)
    assert merged.OUTPUT_DIR == str(Path("out/fold1"))


def test_commands_differ_in_their_fold_only() -> None:
    cfg = setup_cfg(opts=["DATASETS.TRAIN", "('a_train',)", "DATASETS.TEST", "('a_val',)"])
    for words in (["--folds", "2"], ["--folds=2"]):
        commands = fold_commands(["train", *words, "--resume", "SEED", "1"], cfg, 2)
        assert [command[:4] for command in commands] == [["train", "--resume", "SEED", "1"]] * 2
        assert [command[4:] for command in commands] == [fold_opts(cfg, 0), fold_opts(cfg, 1)]
    with pytest.raises(LesionsegError, match="expected 2 or more"):
        fold_commands(["train"], cfg, 1)
    cfg.DATASETS.TRAIN = ("something",)
    with pytest.raises(LesionsegError, match="<name>_train and <name>_val, found something"):
        fold_opts(cfg, 0)


def test_every_image_is_scored_once_by_a_model_that_did_not_see_it(folds_root: Path, tmp_path: Path) -> None:
    for fold in range(2):
        data = (
            *("DATASETS.TRAIN", f"('tiny_fold{fold}_train',)", "DATASETS.TEST", f"('tiny_fold{fold}_val',)"),
            *("LESION.DATA_ROOT", str(folds_root)),
        )
        make_run(tmp_path / f"fold{fold}", *ONE_CLASS, *data, seed=fold)
    summary, output = score_folds(tmp_path, 2)
    rows = read_scores(output / "scores.csv")
    assert len({row["id"] for row in rows}) == len(rows) == summary["images"] == 12
    parts = [
        read_scores(tmp_path / f"fold{fold}/inference/tiny_fold{fold}_val/scores.csv") for fold in range(2)
    ]
    assert sorted(row["id"] for part in parts for row in part) == [row["id"] for row in rows]
    jaccards = [row["jaccard"] for part in parts for row in part]
    assert summary["metrics"]["jaccard"]["mean"]["value"] == pytest.approx(np.mean(jaccards))
    assert all(row["predicted"].is_file() for row in rows)
    assert "cross-validation: thresholded Jaccard of each fold" in (output / "scores.md").read_text()


@pytest.mark.slow
def test_tools_train_and_score_all_folds(folds_root: Path, tmp_path: Path) -> None:
    from training import OPTS

    opts = [word for line in OPTS.strip().splitlines() for word in line.split(" ", 1)]
    opts += ["LESION.DATA_ROOT", str(folds_root), "OUTPUT_DIR", str(tmp_path / "run"), "SOLVER.MAX_ITER", "2"]
    config = ["--config-file", str(ROOT / "configs/isic_mrcnn_scratch.yaml"), "--num-gpus", "0"]
    train = [sys.executable, str(ROOT / "tools/train_net.py"), *config, "--folds", "2", *opts]
    result = subprocess.run(train, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert all((tmp_path / f"run/fold{fold}/model_final.pth").is_file() for fold in range(2))
    again = subprocess.run(train, capture_output=True, text=True, check=False)
    assert again.returncode == 2 and "already holds a run" in again.stderr
    score = [sys.executable, str(ROOT / "tools/evaluate.py"), "--run", str(tmp_path / "run"), "--folds", "2"]
    result = subprocess.run(score, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "12 images" in result.stdout and (tmp_path / "run/pooled/scores.csv").is_file()
