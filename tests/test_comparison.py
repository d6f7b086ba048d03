"""Paired comparison of runs on the same images."""

from __future__ import annotations

import csv
import logging
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from scipy import stats

from lesionseg.cases import list_masks
from lesionseg.comparison import METRICS, changed_most, common_ids, compare, load_runs, write_comparison
from lesionseg.errors import LesionsegError
from lesionseg.images import read_mask, write_image
from lesionseg.scorecard import score_dataset


@pytest.fixture(scope="module")
def scores(lesion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sets of predictions: moved by 1, 3 and 3 px; the last one larger, too."""
    base = tmp_path_factory.mktemp("scores")
    for name, shift, grow in (("a", 1, 1), ("b", 3, 1), ("c", 3, 5)):
        for case, path in list_masks(lesion_root.parent / "drawn/masks").items():
            mask = cv2.dilate(read_mask(path).astype(np.uint8), np.ones((grow, grow), np.uint8))
            write_image(base / name / "masks" / f"{case}.png", np.roll(mask, shift, axis=0).astype(bool))
        score_dataset(base / name / "masks", "tiny_train", base / name, lesion_root)
    return base


def test_differences_are_paired(scores: Path) -> None:
    runs = load_runs([scores / "a", scores / "b"])
    result = next(result for result in compare(runs) if result["metric"] == "jaccard")
    first = np.array([runs[0].rows[name]["jaccard"] for name in common_ids(runs)])
    other = np.array([runs[1].rows[name]["jaccard"] for name in common_ids(runs)])
    assert len(first) == 32
    assert result["difference"]["value"] == pytest.approx((other - first).mean())
    assert (result["first"], result["other"]) == pytest.approx((first.mean(), other.mean()))
    assert result["p"] == pytest.approx(stats.wilcoxon(other, first).pvalue)
    assert result["difference"]["high"] < 0 and result["p_holm"] < 0.001


def test_all_tests_are_corrected_together(scores: Path) -> None:
    results = compare(load_runs([scores / "a", scores / "b", scores / "c"]))
    assert len(results) == 2 * len(METRICS)
    smallest = min(results, key=lambda result: result["p"])
    assert smallest["p_holm"] == pytest.approx(min(1, smallest["p"] * len(results)))


def test_a_run_against_itself(scores: Path) -> None:
    runs = load_runs([scores / "a", scores / "a"])
    assert runs[0].name != "a"  # two of one name are told apart by their path
    assert {(result["difference"]["value"], result["p"]) for result in compare(runs)} == {(0.0, 1.0)}
    assert changed_most(runs) == []


def test_files_and_pictures(scores: Path, tmp_path: Path) -> None:
    runs = load_runs([scores / "a", scores / "b"])
    text = write_comparison(runs, tmp_path)
    assert "Jaccard index" in text and "32 images in all runs" in text
    with open(tmp_path / "comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 32
    assert float(rows[0]["jaccard b"]) == runs[1].rows[rows[0]["id"]]["jaccard"]
    names = {name for name, _ in changed_most(runs)}
    assert {path.stem for path in (tmp_path / "changed").iterdir()} == names
    picture = cv2.imread(str(next((tmp_path / "changed").iterdir())))
    assert picture.shape == (320 + 26, 640, 3)


def test_images_not_in_both_are_left_out_and_named(scores: Path, caplog: pytest.LogCaptureFixture) -> None:
    a, b = load_runs([scores / "a", scores / "b"])
    gone = sorted(b.rows)[0]
    with caplog.at_level(logging.WARNING):
        assert len(common_ids([a, b._replace(rows={k: v for k, v in b.rows.items() if k != gone})])) == 31
    assert f"1 images were not scored in all runs and are left out: {gone}" in caplog.text
    with pytest.raises(LesionsegError, match="no image in common"):
        common_ids([a, b._replace(rows={"x": {}})])


def test_folders_without_scores(tmp_path: Path) -> None:
    with pytest.raises(LesionsegError, match="expected the scores of one data set, found none"):
        load_runs([tmp_path])
    with pytest.raises(LesionsegError, match="no such file"):
        load_runs([tmp_path], "isic2018_val")


def test_tool(scores: Path, tmp_path: Path) -> None:
    tool = [sys.executable, str(ROOT / "tools/compare.py")]
    alone = subprocess.run([*tool, str(scores / "a")], capture_output=True, text=True, check=False)
    assert alone.returncode == 2 and "give two runs or more" in alone.stderr
    command = [*tool, str(scores / "a"), str(scores / "b"), "--output", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Wilcoxon" in result.stdout and (tmp_path / "comparison.md").is_file()


def test_scores_against_other_masks_are_not_compared(scores: Path) -> None:
    runs = load_runs([scores / "a", scores / "b"])
    name = next(iter(runs[1].rows))
    runs[1].rows[name] = {**runs[1].rows[name], "height": 32}
    with pytest.raises(
        LesionsegError, match=rf"{name} was scored against different .*, 64x64 px .*, 32x64 px "
    ):
        compare(runs)
