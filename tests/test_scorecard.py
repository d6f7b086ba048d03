"""tools/evaluate.py on folders and on a prepared data set."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from lesionseg.cases import list_masks
from lesionseg.images import read_mask, write_image
from lesionseg.scorecard import score_dataset, score_folders
from lesionseg.scoring import read_scores


def evaluate(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "tools/evaluate.py", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def predictions(lesion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reference masks moved by two px, one of them missing."""
    folder = tmp_path_factory.mktemp("predictions")
    for name, path in list(list_masks(lesion_root.parent / "drawn/masks").items())[1:]:
        write_image(folder / f"{name}_segmentation.png", np.roll(read_mask(path), 2, axis=1))
    return folder


def test_folders_against_folders(predictions: Path, lesion_root: Path, tmp_path: Path) -> None:
    masks = lesion_root.parent / "drawn/masks"
    result = evaluate("--predictions", predictions, "--masks", masks, "--output", tmp_path / "scores")
    assert result.returncode == 0, result.stderr
    assert "Jaccard index" in result.stdout
    assert "1 of 40 images have no prediction" in result.stderr
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == [
        "scores.csv",
        "scores.json",
        "scores.md",
        "scores.tex",
    ]
    summary = json.loads((tmp_path / "scores/scores.json").read_text())
    with open(tmp_path / "scores/scores.csv", newline="") as file:
        jaccards = [float(row["jaccard"]) for row in csv.DictReader(file)]
    assert summary["images"] == len(jaccards) == 40
    assert summary["metrics"]["jaccard"]["mean"]["value"] == pytest.approx(np.mean(jaccards))
    assert len(summary["missing"]) == 1


def test_a_prepared_data_set_adds_conditions(predictions: Path, lesion_root: Path, tmp_path: Path) -> None:
    summary = score_dataset(predictions, "tiny_val", tmp_path, lesion_root)
    rows = read_scores(tmp_path / "scores.csv")
    assert len(rows) == summary["images"] == 8
    assert {row["source"] for row in rows} == {"isic"}
    assert all(row["contrast"] > 20 and row["image"].is_file() and row["reference"].is_file() for row in rows)
    hair = next(part for part in summary["subgroups"] if part["title"] == "Hair cover")
    assert sum(group["n"] for group in hair["groups"]) == 8


def test_both_ways_give_the_same_scores(predictions: Path, lesion_root: Path, tmp_path: Path) -> None:
    score_dataset(predictions, "tiny_val", tmp_path / "a", lesion_root)
    score_folders(predictions, lesion_root.parent / "drawn/masks", tmp_path / "b")
    folder = {row["id"]: row for row in read_scores(tmp_path / "b/scores.csv")}
    for row in read_scores(tmp_path / "a/scores.csv"):
        assert row["jaccard"] == folder[row["id"]]["jaccard"]
        assert row["hd95_px"] == folder[row["id"]]["hd95_px"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "give either --run or --predictions"),
        (("--predictions", "p", "--masks", "m"), "--predictions needs --output"),
        (("--run", "r", "--masks", "m"), "give --dataset instead"),
        (
            ("--predictions", "nowhere", "--masks", "m", "--output", "o"),
            "error: m: expected a folder of masks",
        ),
    ],
)
def test_wrong_arguments_are_explained(args: tuple[str, ...], message: str) -> None:
    result = evaluate(*args)
    assert result.returncode == 2
    assert message in result.stderr and "Traceback" not in result.stderr
