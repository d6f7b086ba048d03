"""The classifier's part of the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from test_annotations import make_classifier
from test_report import run  # noqa: F401 - a fixture: a scored run of the detector

from lesionseg.classifier_results import write_csv
from lesionseg.errors import LesionsegError
from lesionseg.report import make_report
from lesionseg.report_classifier import classifier_part, compare_with
from lesionseg.scoring import read_scores, write_scores


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    return make_classifier(tmp_path_factory.mktemp("classifier"), seed=0)


def test_the_page_has_its_scores(run, classifier, tmp_path):  # noqa: F811
    page = make_report(run, tmp_path / "report.html", classifier).read_text(encoding="utf-8")
    scores = json.loads((classifier / "scores.json").read_text())
    found = scores["splits"]["val"][scores["route"]]
    for text in (
        'id="classifier"',
        f"{found['balanced_accuracy']['value']:.3f}",
        f"{found['classes']['melanoma']['auc']['value']:.3f}",
        "chosen and calibrated on these",  # there are no test crops
        "Not compared with classes found by Mask R-CNN",
        "border gradient",
    ):
        assert text in page, text
    assert 'id="classifier"' not in make_report(run, tmp_path / "without.html").read_text(encoding="utf-8")


def test_unfinished_classifier_run(run, tmp_path):  # noqa: F811
    with pytest.raises(LesionsegError, match=r"scores\.json"):
        make_report(run, tmp_path / "report.html", tmp_path)


def crop(name: str, true: str, melanoma: float, group: str = "") -> dict[str, str]:
    return {
        "sample_id": name,
        "group": group,
        "true_class": true,
        "class": "uncertain",
        "p_nevus": str(1 - melanoma),
        "p_melanoma": str(melanoma),
    }


TRUTH = {"a": "nevus", "b": "nevus", "c": "nevus", "d": "melanoma", "f": "nevus"}
SCORED = [{"id": name, "reference_class": label} for name, label in TRUTH.items()]
CROPS = [
    crop("a", "nevus", 0.2),
    crop("b", "nevus", 0.3),
    crop("c", "nevus", 0.6),
    crop("d", "melanoma", 0.9),
    crop("elsewhere", "melanoma", 0.9),
]


def write_inference(folder: Path, **classes: dict[str, float]) -> Path:
    """inference.json of a run that counts detections from 0.3 on."""
    images = {
        name: {"score": max(found.values()) if max(found.values()) >= 0.3 else None, "classes": found}
        for name, found in classes.items()
    }
    (folder / "inference.json").write_text(json.dumps({"images": images}))
    return folder


@pytest.fixture
def inference(tmp_path) -> Path:
    return write_inference(
        tmp_path,
        a={"nevus": 0.9},
        b={"nevus": 0.4, "melanoma": 0.6},
        c={"melanoma": 0.7},
        d={"melanoma": 0.2},  # below the threshold: not found
        f={"nevus": 0.9},
    )


def test_comparison_by_hand(inference):
    # Images b and d have no crop by the detector's outline.
    classified = [crop("a", "nevus", 0.4), crop("c", "nevus", 0.1), crop("f", "nevus", 0.1)]
    found = compare_with(inference, SCORED, CROPS, classified)
    assert found is not None
    assert (found["n"], found["groups"], found["focus"]) == (4, 4, "melanoma")
    detector, used, reference = (row["scores"] for row in found["rows"])
    assert [row["missed"] for row in found["rows"]] == [1, 2, 0]
    # The detector is right on a alone; the classifier on a and c, and on reference outlines wrong on c alone.
    assert [s["accuracy"]["value"] for s in (detector, used, reference)] == [0.25, 0.5, 0.75]
    balanced = [s["balanced_accuracy"]["value"] for s in (detector, used, reference)]
    assert balanced == pytest.approx([(1 / 3 + 0) / 2, (2 / 3 + 0) / 2, (2 / 3 + 1) / 2])
    # Melanoma d against a, b, c: 0.2 against 0, 0.6, 0.7; 0 against 0.4, 0, 0.1; 0.9 against 0.2, 0.3, 0.6.
    aucs = [s["classes"]["melanoma"]["auc"]["value"] for s in (detector, used, reference)]
    assert aucs == pytest.approx([1 / 3, 0.5 / 3, 1])
    assert detector["classes"]["melanoma"]["sensitivity"] == 0
    assert detector["classes"]["melanoma"]["specificity"] == pytest.approx(1 / 3)
    over = found["differences"][1]["scores"]
    assert over["accuracy"]["value"] == 0.5
    assert over["balanced_accuracy"]["value"] == pytest.approx((2 / 3 + 1) / 2 - 1 / 6)
    assert over["accuracy"]["low"] <= 0.5 <= over["accuracy"]["high"]


def test_a_detector_without_these_classes_is_not_compared(tmp_path):
    lesion = [{"id": "a", "reference_class": "lesion"}]
    assert compare_with(tmp_path, lesion, CROPS) is None


def test_what_cannot_be_compared_is_explained(inference, classifier, tmp_path):
    (inference / "inference.json").write_text('{"images": {"a": {"score": 0.9, "class": "nevus"}}}')
    with pytest.raises(LesionsegError, match=r"inference\.json: .*evaluate\.py again"):
        compare_with(inference, SCORED, CROPS)
    table = tmp_path / "classified.csv"
    table.write_text("sample_id,p_benign,p_malignant\na,0.5,0.5\n")
    with pytest.raises(LesionsegError, match=r"classified\.csv.*found benign, malignant"):
        classifier_part(classifier, {}, table)


def test_the_page_compares(run, classifier, tmp_path):  # noqa: F811
    """The run's images, given diagnoses and crops of the classifier: its page shows all three ways."""
    copy, crops = tmp_path / "run", tmp_path / "classifier"
    shutil.copytree(run, copy)
    shutil.copytree(classifier, crops)
    folder = copy / "inference/tiny_val"
    rows = read_scores(folder / "scores.csv")
    names = [row["id"] for row in rows]
    labels = [("nevus", "melanoma")[i % 2] for i in range(len(rows))]
    write_scores(
        folder / "scores.csv",
        [{**row, "reference_class": label} for row, label in zip(rows, labels, strict=True)],
    )
    write_inference(folder, **{name: {"melanoma": 0.5} for name in names})
    predicted = [crop(name, label, 0.75) for name, label in zip(names, labels, strict=True)]
    write_csv(crops / "predictions.csv", [{**row, "split": "val"} for row in predicted])
    write_csv(tmp_path / "classified.csv", predicted[1:])
    page = make_report(copy, tmp_path / "r.html", crops, tmp_path / "classified.csv").read_text("utf-8")
    assert f"Ways to a class, on {len(rows)} images of tiny_val" in page
    for way in (
        "Mask R-CNN&#39;s own classes",
        "Classifier, outlines by Mask R-CNN",
        "Classifier, reference outlines",
    ):
        assert f">{way}</th>" in page, way
