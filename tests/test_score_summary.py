"""What is said of a data set: means, subgroups, calibration, classes; and the tables that say it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lesionseg.errors import LesionsegError
from lesionseg.score_summary import (
    METRICS,
    calibration_table,
    class_table,
    read_summary,
    summarise_scores,
    write_summary,
)
from lesionseg.subgroups import by_contrast, by_diagnosis, by_frame, by_hair, by_size, by_skin_tone
from lesionseg.tables import interval_text, score_table, score_text


def row(index: int, jaccard: float, **more: Any) -> dict[str, Any]:
    values = dict.fromkeys(METRICS, 0.0)
    texts = {
        "group": "",
        "diagnosis": "",
        "source": "",
        "reference_class": "lesion",
        "predicted_class": "lesion",
    }
    numbers = {
        "score": math.nan,
        "missing": 0,
        "predicted_area_px": 10,
        "reference_area_pct": 1.0 + index,
        "touches_frame": 0,
    }
    thresholded = jaccard if jaccard >= 0.65 else 0.0
    return {
        "id": f"i{index}",
        **texts,
        **values,
        **numbers,
        "jaccard": jaccard,
        "threshold_jaccard": thresholded,
        **more,
    }


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    jaccards = [0.9, 0.8, 0.7, 0.6, 0.5, 0.65, 0.0, 1.0, 0.95, 0.85, 0.75, 0.4]
    return [
        row(i, jaccard, group=f"lesion {i % 11}", diagnosis="melanoma" if i < 4 else "nevus", score=0.9)
        for i, jaccard in enumerate(jaccards)
    ]


def test_means_medians_and_failures(rows: list[dict[str, Any]]) -> None:
    summary = summarise_scores(rows)
    jaccards = [r["jaccard"] for r in rows]
    assert summary["metrics"]["jaccard"]["mean"]["value"] == pytest.approx(np.mean(jaccards))
    assert summary["metrics"]["jaccard"]["median"]["value"] == pytest.approx(np.median(jaccards))
    assert summary["failure_rate"]["value"] == pytest.approx(4 / 12)  # 0.65 itself is no failure
    assert (summary["images"], summary["groups"]) == (12, 11)
    low, high = summary["metrics"]["jaccard"]["mean"]["low"], summary["metrics"]["jaccard"]["mean"]["high"]
    assert low < np.mean(jaccards) < high


def test_subgroup_means_add_up(rows: list[dict[str, Any]]) -> None:
    (diagnosis,) = [part for part in summarise_scores(rows)["subgroups"] if part["title"] == "Diagnosis"]
    assert [(group["name"], group["n"]) for group in diagnosis["groups"]] == [("melanoma", 4), ("nevus", 8)]
    assert diagnosis["groups"][0]["jaccard"]["value"] == pytest.approx(0.75)
    assert diagnosis["groups"][0]["failure_rate"]["value"] == pytest.approx(0.25)


def test_few_groups_get_no_interval(rows: list[dict[str, Any]]) -> None:
    (diagnosis,) = [part for part in summarise_scores(rows)["subgroups"] if part["title"] == "Diagnosis"]
    assert math.isnan(diagnosis["groups"][0]["jaccard"]["low"])


def test_quartiles_of_size(rows: list[dict[str, Any]]) -> None:
    division = by_size(rows)
    assert [division.member.count(name) for name in division.names] == [3, 3, 3, 3]
    assert division.member[0] == division.names[0]
    assert division.names[0].startswith("smallest quarter, below 3.8 %")


def test_bands_and_what_is_not_known() -> None:
    rows = [
        row(0, 1, hair_pct=0.99),
        row(1, 1, hair_pct=1.0),
        row(2, 1, hair_pct=30.0),
        row(3, 1, hair_pct=math.nan),
    ]
    division = by_hair(rows)
    assert division.member == ["little, below 1 %", "some, 1 to 3 %", "much, 3 % and above", "not known"]
    assert division.names[-1] == "not known"
    assert by_contrast([row(0, 1, contrast=15.0)]).member == ["medium, dE 15 to 30"]
    assert by_skin_tone([row(0, 1, ita_degrees=56.0), row(1, 1)]).member == ["very light", "not known"]
    assert by_frame([row(0, 1, touches_frame=1)]).member == ["yes"]


def test_divisions_that_cannot_be_made_say_why() -> None:
    assert "--labels" in by_diagnosis([row(0, 1.0)]).note
    assert "--dataset" in by_hair([row(0, 1.0)]).note


def test_calibration_leaves_images_without_a_detection_out() -> None:
    table = calibration_table([row(0, 0.5, score=0.9), row(1, 0.0)])
    assert (table["n"], table["ece"]) == (1, pytest.approx(0.4))
    assert table["note"].startswith("1 images without a detection")
    assert "only a run" in calibration_table([row(0, 0.5)])["note"]


def test_confusion_matrix_by_hand() -> None:
    pairs = [("nevus", "nevus"), ("nevus", "melanoma"), ("melanoma", "melanoma"), ("melanoma", "")]
    table = class_table([row(i, 1, reference_class=a, predicted_class=b) for i, (a, b) in enumerate(pairs)])
    assert table["names"] == ["melanoma", "nevus"]
    assert table["matrix"] == [[1, 0, 1], [1, 1, 0]]


def test_one_class_has_no_confusion_matrix() -> None:
    assert "one class" in class_table([row(0, 1.0)])["note"]


def test_summary_comes_back_with_null_for_nan(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    write_summary(tmp_path / "scores.json", summarise_scores(rows))
    assert "NaN" not in (tmp_path / "scores.json").read_text()
    back = read_summary(tmp_path / "scores.json")
    assert back["subgroups"][2]["groups"][0]["jaccard"]["low"] is None
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(LesionsegError, match="make it again"):
        read_summary(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ({"value": 0.8125, "low": 0.75, "high": 0.9}, "0.812 (0.750 to 0.900)"),
        ({"value": 0.5, "low": None, "high": None}, "0.500"),
        ({"value": None, "low": None, "high": None}, "-"),
        ({"value": math.nan, "low": math.nan, "high": math.nan}, "-"),
    ],
)
def test_interval_text(interval: dict[str, Any], text: str) -> None:
    assert interval_text(interval) == text


def test_tables_in_three_styles(rows: list[dict[str, Any]]) -> None:
    about = {
        "predictions": "p",
        "references": "r",
        "detection": {"ap": {"segm": {"AP": 61.25, "AP50": 90.0, "AP75": 70.0}}},
    }
    summary = {**about, **summarise_scores(rows)}
    _, body = score_table(summary)
    assert ["AP of masks, % (COCO)", "61.25", ""] in body
    mean = f"{np.mean([r['jaccard'] for r in rows]):.3f}"
    for style, piece in (
        ("terminal", "Jaccard index"),
        ("markdown", "| Jaccard index"),
        ("latex", r"\toprule"),
    ):
        text = score_text(summary, style)
        assert piece in text and mean in text
    assert r"\%" in score_text(summary, "latex")
    assert all(
        line.startswith("%")
        for line in score_text(summary, "latex").rsplit(r"\end{tabular}", 1)[1].strip().split("\n")
    )
