"""tools/evaluate.py --run: a tiny model over a prepared data set."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import draw_lesions
from detectron2.data import DatasetCatalog
from tiny_run import make_run

from lesionseg.config import setup_cfg
from lesionseg.errors import LesionsegError
from lesionseg.evaluation import build_evaluators
from lesionseg.predictor import LesionPredictor
from lesionseg.prepare import prepare
from lesionseg.prepared import PrepareOptions
from lesionseg.report import make_report
from lesionseg.run_scores import INFERENCE, class_scores, run_leaks, score_run
from lesionseg.scoring import read_scores

OPTS = ("MODEL.ROI_HEADS.NUM_CLASSES", "1", "LESION.CLASSES", "('lesion',)", "LESION.SCORE_THRESHOLD", "0.3")


@pytest.fixture(scope="module")
def run(lesion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose training data holds two of the validation images, one of them under another name."""
    data = (
        "DATASETS.TRAIN",
        "('tiny_train',)",
        "DATASETS.TEST",
        "('tiny_val',)",
        "LESION.DATA_ROOT",
        str(lesion_root),
    )
    folder = make_run(tmp_path_factory.mktemp("run"), *OPTS, *data)
    with open(lesion_root / "tiny/split.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    leaking = [row for row in rows if row["split"] == "val"][:2]
    leaking[1] = {**leaking[1], "id": "renamed"}
    (folder / "data").mkdir()
    with open(folder / "data/tiny_train.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows([*(row for row in rows if row["split"] == "train"), *leaking])
    return folder


@pytest.fixture(scope="module")
def scored(run: Path) -> tuple[dict[str, Any], Path]:
    return score_run(run)


def test_scores_equal_the_evaluators_of_training(
    run: Path, scored: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    """The same model through LesionPredictor, COCOEvaluator and ISICEvaluator by themselves."""
    summary, _ = scored
    cfg = setup_cfg(run / "config.yaml", ("LESION.SCORE_THRESHOLD", "0.05"))
    cfg.MODEL.WEIGHTS = str(run / "model_best.pth")
    predictor = LesionPredictor(cfg)
    cfg.LESION.SCORE_THRESHOLD = 0.3
    evaluators = build_evaluators(cfg, "tiny_val", tmp_path)
    evaluators.reset()
    for record, instances in predictor.predict(DatasetCatalog.get("tiny_val")):
        evaluators.process([record], [{"instances": instances}])
    results = evaluators.evaluate()
    for metric, value in results["isic"].items():
        assert summary["metrics"][metric]["mean"]["value"] == pytest.approx(value, abs=1e-9)
    for task in ("segm", "bbox"):
        for name, value in summary["detection"]["ap"][task].items():
            assert value == pytest.approx(results[task][name], abs=1e-9, nan_ok=True)


def test_masks_equal_the_official_scorer(
    scored: tuple[dict[str, Any], Path], lesion_root: Path, tmp_path: Path
) -> None:
    official = pytest.importorskip(
        "isic_challenge_scoring.segmentation", reason="isic-challenge-scoring not installed"
    )
    summary, output = scored
    for row in read_scores(output / "scores.csv"):
        shutil.copy(lesion_root.parent / f"drawn/masks/{row['id']}_segmentation.png", tmp_path)
    theirs = official.SegmentationScore.from_dir(tmp_path, output / "masks").macro_average
    for metric in ("jaccard", "threshold_jaccard", "dice", "accuracy", "sensitivity", "specificity"):
        assert summary["metrics"][metric]["mean"]["value"] == pytest.approx(theirs[metric], abs=1e-9)


def test_settings_are_beside_the_scores(run: Path, scored: tuple[dict[str, Any], Path]) -> None:
    summary, output = scored
    digest = hashlib.sha256((run / "model_best.pth").read_bytes()).hexdigest()
    assert summary["settings"]["weights (SHA-256)"] == digest
    text = (output / "scores.md").read_text()
    assert digest in text and "LESION.SCORE_THRESHOLD 0.3" in text and "LESION.TTA.ENABLED False" in text


def test_leaks_are_reported(scored: tuple[dict[str, Any], Path]) -> None:
    summary, output = scored
    assert sorted(leak["kind"] for leak in summary["leaks"]["found"]) == ["file", "id"]
    assert "LEAK: 2 images" in (output / "scores.md").read_text()


def test_unknown_training_data_are_no_clean_bill(run: Path) -> None:
    cfg = setup_cfg(run / "config.yaml")
    cfg.DATASETS.TRAIN = ("another",)
    leaks = run_leaks(run, cfg, "tiny_val")
    assert leaks["images"] is None and "not known" in leaks["text"]


def test_finished_inference_is_not_repeated(run: Path, scored: tuple[dict[str, Any], Path]) -> None:
    _, output = scored
    mask = next((output / "masks").iterdir())
    before = mask.stat().st_mtime_ns
    score_run(run)
    assert mask.stat().st_mtime_ns == before
    score_run(run, opts=("LESION.MASK_SELECTION", "union"))
    assert mask.stat().st_mtime_ns > before
    assert json.loads((output / INFERENCE).read_text())["made_by"]["LESION.MASK_SELECTION"] == "union"
    score_run(run)


def test_the_best_score_of_every_class_is_kept() -> None:
    classes = ["nevus", "melanoma", "keratosis"]
    assert class_scores([1, 0, 1], [0.75, 0.5, 0.25], classes) == {"melanoma": 0.75, "nevus": 0.5}
    assert class_scores([], [], classes) == {}


def test_inference_has_scores_by_class(scored: tuple[dict[str, Any], Path]) -> None:
    images = json.loads((scored[1] / INFERENCE).read_text())["images"]
    found = [image for image in images.values() if image["score"] is not None]
    assert found and all(image["classes"] == {"lesion": image["score"]} for image in found)


def test_wrong_runs_and_data_are_explained(run: Path, lesion_root: Path, tmp_path: Path) -> None:
    with pytest.raises(LesionsegError, match="does not exist"):
        score_run(tmp_path / "none")
    with pytest.raises(LesionsegError, match="data set nowhere_val not found"):
        score_run(run, "nowhere_val")
    other = make_run(tmp_path / "two", "LESION.DATA_ROOT", str(lesion_root))
    with pytest.raises(LesionsegError, match="--dataset"):
        score_run(other)
    with pytest.raises(LesionsegError, match=r"the model tells nevus, melanoma apart, tiny_val has lesion"):
        score_run(other, "tiny_val")


def test_an_unreadable_image_is_named(run: Path, tmp_path: Path, lesion_root: Path) -> None:
    shutil.copytree(lesion_root.parent / "drawn", tmp_path / "drawn")
    shutil.copytree(lesion_root, tmp_path / "datasets")
    broken = sorted(path for path in (tmp_path / "drawn/images").iterdir())
    for path in broken:
        os.truncate(path, 200)
    with pytest.raises(LesionsegError, match=r"8 images cannot be scored(.|\n)*ISIC_99"):
        score_run(run, output=tmp_path / "out", opts=("LESION.DATA_ROOT", str(tmp_path / "datasets")))
    assert not (tmp_path / "out/scores.json").exists()


def test_a_detector_of_diagnoses_gets_a_confusion_matrix(tmp_path: Path) -> None:
    drawn = draw_lesions(tmp_path / "drawn", 12)
    names = sorted(path.stem for path in (drawn / "images").iterdir())
    labels = {name: ("nevus", "melanoma")[index % 2] for index, name in enumerate(names)}
    (tmp_path / "labels.csv").write_text(
        "image_id,diagnosis\n" + "".join(f"{k},{v}\n" for k, v in labels.items())
    )
    prepare(
        PrepareOptions(
            images=drawn / "images",
            masks=drawn / "masks",
            out=tmp_path / "datasets/two",
            labels=(tmp_path / "labels.csv",),
            classes="diagnosis",
            split="0.5/0.5",
            workers=1,
        )
    )
    data = ("DATASETS.TRAIN", "('two_train',)", "DATASETS.TEST", "('two_val',)")
    run = make_run(tmp_path / "run", *data, "LESION.DATA_ROOT", str(tmp_path / "datasets"))
    summary, output = score_run(run)
    rows = read_scores(output / "scores.csv")
    assert {row["id"]: row["reference_class"] for row in rows} == {
        row["id"]: labels[row["id"]] for row in rows
    }
    assert summary["classes"]["names"] == ["melanoma", "nevus"]
    matrix = np.array(summary["classes"]["matrix"])
    for index, name in enumerate(summary["classes"]["names"]):
        assert matrix[index].sum() == [row["reference_class"] for row in rows].count(name)
    assert "Confusion matrix" in make_report(run).read_text()


def test_coco_results_of_another_command_are_made_again(
    run: Path, scored: tuple[dict[str, Any], Path]
) -> None:
    """train_net.py --eval-only writes a file of that name to the same folder."""
    _, output = scored
    results = output / "coco_instances_results.json"
    before = results.read_bytes()
    results.write_text("[]")
    score_run(run)
    assert results.read_bytes() == before


def test_what_the_first_weights_were_trained_on_counts(run: Path, lesion_root: Path, tmp_path: Path) -> None:
    """A run that started from another one's weights has seen that one's images."""
    first = tmp_path / "first"
    shutil.copytree(run, first)
    clean = [row.split(",")[0] for row in (first / "data/tiny_train.csv").read_text().splitlines()]
    second = make_run(
        tmp_path / "second",
        *OPTS,
        "MODEL.WEIGHTS",
        str(first / "model_best.pth"),
        "LESION.DATA_ROOT",
        str(lesion_root),
    )
    shutil.copytree(run / "data", second / "data")
    lines = (second / "data/tiny_train.csv").read_text().splitlines(keepends=True)
    (second / "data/tiny_train.csv").write_text("".join(lines[:-2]))  # without the two that leak
    cfg = setup_cfg(run / "config.yaml")
    assert len(clean) == len(lines)
    assert run_leaks(second, cfg, "tiny_val")["images"] == 2
    shutil.rmtree(first)
    assert "first/model_best.pth does not record" in run_leaks(second, cfg, "tiny_val")["text"]


def test_a_checkpoint_chosen_by_these_images_is_said_to_be(scored: tuple[dict[str, Any], Path]) -> None:
    assert "chosen by its scores on these images" in (scored[1] / "scores.md").read_text()
