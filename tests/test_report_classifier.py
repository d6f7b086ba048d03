"""The classifier's part of the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_annotations import make_classifier
from test_report import run  # noqa: F401 - a fixture: a scored run of the detector

from lesionseg.errors import LesionsegError
from lesionseg.report import make_report
from lesionseg.report_classifier import compare_with


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


def test_comparison_by_hand():
    def crop(name: str, true: str, melanoma: float, group: str = "") -> dict[str, str]:
        return {
            "sample_id": name,
            "group": group,
            "true_class": true,
            "class": "uncertain",
            "p_nevus": str(1 - melanoma),
            "p_melanoma": str(melanoma),
        }

    crops = [
        crop("a", "nevus", 0.2),
        crop("b", "nevus", 0.3),
        crop("c", "nevus", 0.6),
        crop("d", "melanoma", 0.9),
        crop("elsewhere", "melanoma", 0.9),
    ]
    predicted = {"a": "nevus", "b": "melanoma", "c": "melanoma", "d": "", "f": "nevus"}
    truth = {"a": "nevus", "b": "nevus", "c": "nevus", "d": "melanoma", "f": "nevus"}
    scored = [{"id": n, "reference_class": truth[n], "predicted_class": predicted[n]} for n in predicted]
    found = compare_with("set", scored, crops)
    assert found is not None
    assert found["n"] == 4
    detector, classifier = found["rows"]
    # The detector is right on a alone and missed d; the classifier is wrong on c alone.
    assert detector[1].startswith("0.250") and detector[2] == f"{(1 / 3 + 0) / 2:.3f}"
    assert classifier[1].startswith("0.750") and classifier[2] == f"{(2 / 3 + 1) / 2:.3f}"
    assert found["difference"].startswith("0.500")
    assert (
        compare_with("set", [{"id": "a", "reference_class": "lesion", "predicted_class": "lesion"}], crops)
        is None
    )
