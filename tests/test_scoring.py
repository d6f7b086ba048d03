"""Rows of scores.csv: against the official scorer, SciPy and masks counted by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from scipy import ndimage

from lesionseg.cases import Case, cases_from_folders
from lesionseg.errors import LesionsegError
from lesionseg.images import write_image
from lesionseg.scoring import read_scores, score_case, score_cases, score_masks, write_scores

ISIC = ("accuracy", "sensitivity", "specificity", "jaccard", "threshold_jaccard", "dice")


def mask(rows: str) -> np.ndarray:
    return np.array([[cell == "#" for cell in row] for row in rows.split()])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """40 random pairs, among them empty and full masks and predictions far off."""
    base, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    for index in range(40):
        noise = ndimage.gaussian_filter(rng.standard_normal((40, 50)), 4)
        reference = noise > np.quantile(noise, rng.uniform(0.3, 0.95))
        predicted = ndimage.shift(reference, rng.integers(0, 6, 2), order=0).astype(bool)
        if index % 10 == 0:
            predicted[:] = False
        if index % 20 == 0:
            reference[:] = False
        if index == 7:
            reference[:] = True
        write_image(base / "masks" / f"ISIC_{index:07d}_segmentation.png", reference)
        write_image(base / "predictions" / f"ISIC_{index:07d}.png", predicted)
    return base / "predictions", base / "masks"


def test_means_equal_the_official_scorer(folders: tuple[Path, Path]) -> None:
    official = pytest.importorskip(
        "isic_challenge_scoring.segmentation", reason="isic-challenge-scoring not installed"
    )
    predictions, masks = folders
    rows = score_cases(cases_from_folders(predictions, masks), workers=1)
    theirs = official.SegmentationScore.from_dir(masks, predictions).macro_average
    for metric in ISIC:
        assert np.mean([row[metric] for row in rows]) == pytest.approx(theirs[metric], abs=1e-9)


def test_every_row_equals_scikit_learn(folders: tuple[Path, Path]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    for case in cases_from_folders(*folders):
        row = score_case(case)
        assert isinstance(case.reference, Path) and case.predicted
        from PIL import Image

        truth, found = (
            np.asarray(Image.open(path)).ravel() > 128 for path in (case.reference, case.predicted)
        )
        kind = {"zero_division": 1.0}
        assert row["jaccard"] == pytest.approx(
            metrics.jaccard_score(truth, found, **kind) if (truth | found).any() else 1
        )
        assert row["dice"] == pytest.approx(metrics.f1_score(truth, found, **kind))
        assert row["precision"] == pytest.approx(metrics.precision_score(truth, found, **kind))
        assert row["sensitivity"] == pytest.approx(metrics.recall_score(truth, found, **kind))
        assert row["specificity"] == pytest.approx(metrics.recall_score(~truth, ~found, **kind))
        assert row["accuracy"] == pytest.approx(metrics.accuracy_score(truth, found))


def test_places_areas_and_components_by_hand() -> None:
    reference = mask("#### #### .... ....")
    predicted = mask(".... ##.. ##.. ...#")
    row = score_masks(reference, predicted)
    assert (row["reference_area_px"], row["predicted_area_px"]) == (8, 5)
    assert row["area_error_pct"] == pytest.approx(-37.5)
    assert row["reference_area_pct"] == 50
    assert (row["reference_components"], row["predicted_components"]) == (1, 2)
    assert row["touches_frame"] == 1
    # Centres (row, column): (0.5, 1.5) and ((1+1+2+2+3)/5, (0+1+0+1+3)/5) = (1.8, 1.0)
    assert row["centre_error_px"] == pytest.approx(math.hypot(1.3, 0.5))
    assert row["centre_error_pct"] == pytest.approx(100 * math.hypot(1.3, 0.5) / math.hypot(4, 4))
    assert row["jaccard"] == pytest.approx(2 / 11)


def test_centres_equal_scipy() -> None:
    rng = np.random.default_rng(3)
    reference, predicted = rng.random((2, 30, 40)) > 0.7
    expected = math.dist(ndimage.center_of_mass(reference), ndimage.center_of_mass(predicted))
    assert score_masks(reference, predicted)["centre_error_px"] == pytest.approx(expected)


def test_diagonal_neighbours_are_one_component() -> None:
    row = score_masks(mask("#... .#.. .... ...#"), mask(".... .##. .##. ...."))
    assert (row["reference_components"], row["predicted_components"]) == (2, 1)


def test_lesion_inside_the_image_does_not_touch_its_frame() -> None:
    assert score_masks(mask(".... .##. .##. ...."), mask("#### #### #### ####"))["touches_frame"] == 0


def test_empty_masks() -> None:
    nothing, something = np.zeros((30, 40), bool), np.eye(30, 40, dtype=bool)
    missed = score_masks(something, nothing)
    assert (missed["jaccard"], missed["centre_error_px"], missed["area_error_pct"]) == (0.0, 50.0, -100.0)
    invented = score_masks(nothing, something)
    assert invented["jaccard"] == 0 and math.isnan(invented["area_error_pct"])
    agreed = score_masks(nothing, nothing)
    assert (agreed["jaccard"], agreed["centre_error_px"], agreed["hd95_px"]) == (1.0, 0.0, 0.0)


def test_reference_from_rles_is_their_union(tmp_path: Path) -> None:
    parts = [mask("#... #... .... ...."), mask(".... .... ..## ..##")]
    rles = tuple(mask_util.encode(np.asfortranarray(part, dtype=np.uint8)) for part in parts)
    write_image(tmp_path / "a.png", parts[0] | parts[1])
    row = score_case(Case("a", rles, (4, 4), predicted=tmp_path / "a.png"))
    assert row["jaccard"] == 1 and row["reference_components"] == 2


def test_a_missing_prediction_is_an_empty_mask(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_image(tmp_path / "a.png", np.eye(8, dtype=bool))
    (row,) = score_cases([Case("a", tmp_path / "a.png")])
    assert (row["missing"], row["jaccard"], row["predicted_area_px"]) == (1, 0.0, 0)
    assert "1 of 1 images have no prediction and are scored as empty masks: a" in caplog.text


def test_wrong_sizes_and_broken_files_are_all_named(tmp_path: Path) -> None:
    for name, shape in (("a", (8, 6)), ("b", (8, 6)), ("b2", (6, 8))):
        write_image(tmp_path / f"{name}.png", np.ones(shape, bool))
    (tmp_path / "c.png").write_bytes(b"no image")
    cases = [
        Case("a", tmp_path / "a.png", predicted=tmp_path / "a.png"),
        Case("b", tmp_path / "b.png", predicted=tmp_path / "b2.png"),
        Case("c", tmp_path / "a.png", predicted=tmp_path / "c.png"),
    ]
    with pytest.raises(LesionsegError) as error:
        score_cases(cases)
    assert "2 of 3 images cannot be scored" in str(error.value)
    assert "b2.png: expected 6x8 px as the reference mask of b has, found 8x6" in str(error.value)
    assert "c.png: expected a readable image" in str(error.value)


def test_table_comes_back_as_it_was_written(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    rows = score_cases(cases_from_folders(*folders), workers=1)
    write_scores(tmp_path / "deep/er/scores.csv", rows)
    back = read_scores(tmp_path / "deep/er/scores.csv")
    assert len(back) == 40
    for before, after in zip(rows, back, strict=True):
        assert after["predicted"] == before["predicted"]
        assert after["image"] is None
        assert math.isnan(after["score"])
        numbers = {
            name: value for name, value in before.items() if isinstance(value, float) and value == value
        }
        assert {name: after[name] for name in numbers} == numbers


def test_other_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LesionsegError, match=r"no such file; make it with tools/evaluate.py"):
        read_scores(tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(LesionsegError, match="expected rows with columns id and jaccard"):
        read_scores(tmp_path / "other.csv")
    (tmp_path / "words.csv").write_text("id,jaccard\nx,good\n")
    with pytest.raises(LesionsegError, match="could not convert"):
        read_scores(tmp_path / "words.csv")


@pytest.mark.slow
def test_processes_give_the_same_rows(folders: tuple[Path, Path]) -> None:
    cases = cases_from_folders(*folders)
    alone, together = score_cases(cases, workers=1), score_cases(cases, workers=2)
    assert [{**row, "score": 0, "area_error_pct": 0} for row in together] == [
        {**row, "score": 0, "area_error_pct": 0} for row in alone
    ]
