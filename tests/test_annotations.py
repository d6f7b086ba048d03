"""ABCD features and class probabilities in what predict.py writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from test_classifier_data import row, write_crops
from tiny_run import make_run

from lesionseg import LesionPredictor
from lesionseg.annotations import Annotator, load_classifier
from lesionseg.classifier_config import classifier_cfg
from lesionseg.classifier_training import train_classifier
from lesionseg.errors import LesionsegError
from lesionseg.features import FEATURES, measure
from lesionseg.images import read_image, write_image
from lesionseg.outputs import default_kinds
from lesionseg.predict_run import predict_images


def make_classifier(folder: Path, seed: int) -> Path:
    """A features-only classifier run, trained on made-up features."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(60):
        diagnosis = ("nevus", "melanoma")[number % 2]
        features = {name: rng.normal(number % 2, 1) for name in FEATURES}
        rows.append(row(("train", "train", "val")[number % 3], diagnosis, **features))
    cfg = classifier_cfg()
    cfg.OUTPUT_DIR, cfg.DEVICE = str(folder / "run"), "cpu"
    cfg.CLASSIFIER.CROPS, cfg.CLASSIFIER.ROUTE = (
        (str(write_crops(folder / "crops", rows, size=8)),),
        "features",
    )
    train_classifier(cfg)
    return folder / "run"


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_image(folder / f"{name}.png", rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    return folder


@pytest.fixture(scope="module")
def predictor(tmp_path_factory) -> LesionPredictor:
    return LesionPredictor(make_run(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    return make_classifier(tmp_path_factory.mktemp("classifier"), seed=0)


def rows_of(output: Path) -> list[dict[str, str]]:
    with (output / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_abcd_and_classes_in_one_pass(predictor, images, classifier, tmp_path):
    save = ("overlay", "abcd", "json", "csv")
    loaded = load_classifier(classifier)
    summary = predict_images(predictor, [images], tmp_path, save, workers=1, classifier=loaded)
    assert (summary.predicted, summary.failed) == (2, [])
    header = (tmp_path / "predictions.csv").read_text().splitlines()[0].split(",")
    assert len(set(header)) == len(header)
    rows, results = rows_of(tmp_path), json.loads((tmp_path / "predictions.json").read_text())
    assert len(rows) == len(results) > 2
    for found, result in zip(rows, results, strict=True):
        image = read_image(images / result["file_name"])
        mask = mask_util.decode(result["segmentation"]).astype(bool)
        picture = tmp_path / "abcd" / f"{Path(found['file']).stem}_{found['instance']}.jpg"
        assert picture.is_file() == mask.any()
        if not mask.any():
            assert found["diagnosis"] == found["asymmetry"] == ""
            continue
        values = measure(image, mask).values
        assert int(found["area_px"]) == mask.sum()
        for name in FEATURES:
            expected = None if np.isnan(values[name]) else pytest.approx(values[name], rel=1e-4)
            assert result["abcd"][name] == expected
        for name in set(FEATURES) - {"area_px"}:
            assert float(found[name] or "nan") == pytest.approx(values[name], rel=1e-4, nan_ok=True), name
        p = result["probabilities"]
        assert sum(p.values()) == pytest.approx(1, abs=1e-5)
        assert {name: float(found[f"p_{name}"]) for name in ("nevus", "melanoma")} == p
        assert found["diagnosis"] == result["diagnosis"]
        assert found["diagnosis"] in (max(p, key=p.get), "uncertain")


def test_without_request_there_are_no_columns(predictor, images, tmp_path):
    predict_images(predictor, [images], tmp_path, default_kinds(), workers=1)
    assert list(rows_of(tmp_path)[0])[-1] == "area_share"
    assert not (tmp_path / "abcd").exists()
    assert "abcd" not in (tmp_path / "predictions.json").read_text()


def test_asking_later_completes_finished_images(predictor, images, tmp_path):
    predict_images(predictor, [images], tmp_path, ("csv",), workers=1)
    summary = predict_images(predictor, [images], tmp_path, ("abcd", "csv"), workers=1)
    assert summary.predicted == 2
    assert any(found["asymmetry"] for found in rows_of(tmp_path))
    assert predict_images(predictor, [images], tmp_path, ("abcd", "csv"), workers=1).finished == 2


def test_results_of_two_classifiers_do_not_mix(predictor, images, classifier, tmp_path):
    predict_images(
        predictor, [images], tmp_path / "out", ("csv",), workers=1, classifier=load_classifier(classifier)
    )
    other = load_classifier(make_classifier(tmp_path / "other", seed=1))
    with pytest.raises(LesionsegError, match=r"classifier \(SHA-256\)"):
        predict_images(predictor, [images], tmp_path / "out", ("csv",), workers=1, classifier=other)


def test_overlay_says_what_the_classifier_says(predictor, images, classifier, tmp_path):
    for name, loaded in (("plain", None), ("classified", load_classifier(classifier))):
        predict_images(predictor, [images], tmp_path / name, ("overlay",), workers=1, classifier=loaded)
    plain, classified = (read_image(tmp_path / name / "overlay/a.jpg") for name in ("plain", "classified"))
    assert plain.shape == classified.shape
    assert (plain != classified).any()


def test_an_instance_without_pixels_is_left_alone():
    image, masks = np.zeros((20, 20, 3), np.uint8), np.zeros((1, 20, 20), bool)
    annotator = Annotator(abcd=True)
    annotation = annotator(image, masks)[0]
    assert annotation.text == ""
    assert annotator.row(annotation) == {"abcd": None}
