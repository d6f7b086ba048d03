"""Pairing predicted masks with reference masks."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from lesionseg.cases import Case, cases_from_folders, list_masks, mask_id, match_predictions, reference_mask
from lesionseg.errors import LesionsegError
from lesionseg.images import write_image


def masks(folder: Path, *names: str) -> Path:
    for name in names:
        write_image(folder / name, np.zeros((4, 4), bool))
    return folder


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ISIC_0000001_segmentation.png", "ISIC_0000001"),
        ("ISIC_0000001_Segmentation.png", "ISIC_0000001"),
        ("isic_0000001.png", "ISIC_0000001"),
        ("unet_ISIC_0000001_v2.png", "ISIC_0000001"),
        ("IMD002_lesion.bmp", "IMD002"),
        ("patient 7.tif", "patient 7"),
        ("scan_mask.png", "scan"),
    ],
)
def test_mask_id(name: str, expected: str) -> None:
    assert mask_id(Path(name)) == expected


def test_pairs_are_matched_by_id_and_sorted(tmp_path: Path) -> None:
    references = masks(tmp_path / "r", "ISIC_0000002_segmentation.png", "sub/ISIC_0000001_segmentation.png")
    predictions = masks(tmp_path / "p", "ISIC_0000001.png", "ISIC_0000002.bmp")
    cases = cases_from_folders(predictions, references)
    assert [case.id for case in cases] == ["ISIC_0000001", "ISIC_0000002"]
    assert [case.predicted.name for case in cases if case.predicted] == [
        "ISIC_0000001.png",
        "ISIC_0000002.bmp",
    ]


def test_missing_and_superfluous_predictions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    references = masks(tmp_path / "r", "a_mask.png", "b_mask.png")
    predictions = masks(tmp_path / "p", "a.png", "c.png")
    with caplog.at_level(logging.WARNING):
        cases = cases_from_folders(predictions, references)
    assert [(case.id, case.predicted is None) for case in cases] == [("a", False), ("b", True)]
    assert "1 predicted masks have no reference and are not scored: c" in caplog.text


def test_superpixels_attributes_and_hidden_files_are_no_masks(tmp_path: Path) -> None:
    folder = masks(
        tmp_path,
        "ISIC_0000001_segmentation.png",
        "ISIC_0000001_superpixels.png",
        "ISIC_0000001_attribute_streaks.png",
        ".hidden/ISIC_0000009.png",
    )
    assert list(list_masks(folder)) == ["ISIC_0000001"]


def test_the_output_folder_of_predict_is_understood(tmp_path: Path) -> None:
    masks(
        tmp_path,
        "mask/a/ISIC_0000001_segmentation.png",
        "overlay/a/ISIC_0000001.png",
        "crop/a/ISIC_0000001_1.png",
    )
    assert list_masks(tmp_path)["ISIC_0000001"].parts[-3:] == ("mask", "a", "ISIC_0000001_segmentation.png")


def test_errors_name_the_folder_and_the_files(tmp_path: Path) -> None:
    with pytest.raises(LesionsegError, match="nowhere: expected a folder of masks, found nothing"):
        list_masks(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LesionsegError, match=r"empty: expected mask files .* found none"):
        list_masks(tmp_path / "empty")
    twice = masks(tmp_path / "twice", "ISIC_0000001.png", "ISIC_0000001_segmentation.png")
    with pytest.raises(LesionsegError, match=r"several masks of one image(.|\n)*ISIC_0000001.png"):
        list_masks(twice)
    with pytest.raises(LesionsegError, match="none of which fits"):
        cases_from_folders(masks(tmp_path / "p", "x.png"), masks(tmp_path / "r", "y.png"))


def test_an_id_with_more_than_its_isic_number(tmp_path: Path) -> None:
    """As ISIC 2019 has them, and predict.py names their masks."""
    write_image(tmp_path / "ISIC_0054432_downsampled_segmentation.png", np.ones((4, 4), dtype=bool))
    (found,) = match_predictions(tmp_path, ["ISIC_0054432_downsampled"]).values()
    assert found == tmp_path / "ISIC_0054432_downsampled_segmentation.png"


def test_masks_of_zeros_and_ones_are_not_taken_for_empty(tmp_path: Path) -> None:
    """Two such masks would agree perfectly."""
    path = tmp_path / "ISIC_0000001_segmentation.png"
    write_image(path, np.eye(4, dtype=np.uint8))
    with pytest.raises(LesionsegError, match=r"found the values 0 and 1\. Store it with 0 and 255"):
        reference_mask(Case("ISIC_0000001", path))
