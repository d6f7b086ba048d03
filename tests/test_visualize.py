"""Pictures of a data set: the right images, with something drawn where the annotations are."""

from __future__ import annotations

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import ROOT
from detectron2.data import DatasetCatalog

from lesionseg.config import setup_cfg
from lesionseg.errors import LesionsegError
from lesionseg.evaluation import reference_mask
from lesionseg.images import read_image
from lesionseg.visualize import contact_sheet, find_dataset, visualize_dataset


def test_names_and_splits(lesion_root):
    assert find_dataset("tiny", "val", str(lesion_root)) == "tiny_val"
    assert find_dataset("tiny_train", "val", str(lesion_root)) == "tiny_train"
    with pytest.raises(LesionsegError, match="tiny_train, tiny_val"):
        find_dataset("huge", "train", str(lesion_root))


def test_the_lesion_is_marked_and_the_rest_is_left_alone(lesion_root, tmp_path):
    name = find_dataset("tiny", "val", str(lesion_root))
    visualize_dataset(setup_cfg(), name, 3, augmented=False, output=tmp_path)
    drawn = {path.stem for path in tmp_path.glob("ISIC_*.jpg")}
    assert len(drawn) == 3 and (tmp_path / "contact_sheet.jpg").is_file()
    for record in DatasetCatalog.get(name):
        if record["sample_id"] not in drawn:
            continue
        picture = read_image(tmp_path / f"{record['sample_id']}.jpg").astype(int)
        change = np.abs(picture - read_image(record["file_name"])).sum(axis=2)
        inside = cv2.erode(reference_mask(record).astype(np.uint8), np.ones((5, 5))).astype(bool)
        assert np.median(change[inside]) > 40 > np.median(change[:8])


def test_augmented_pictures_have_the_training_size(lesion_root, tmp_path):
    name = find_dataset("tiny", "train", str(lesion_root))
    cfg = setup_cfg(ROOT / "configs/isic_mrcnn_scratch.yaml", ["LESION.AUG.CROP", "0.0"])
    visualize_dataset(cfg, name, 2, augmented=True, output=tmp_path)
    sizes = {read_image(path).shape[:2] for path in tmp_path.glob("ISIC_*.jpg")}
    assert sizes == {(192, 192)}


@pytest.mark.parametrize("augmented", [False, True])
def test_tool_as_readme_has_it(lesion_root, tmp_path, augmented):
    command = [sys.executable, str(ROOT / "tools/visualize_data.py"), "--dataset", "tiny"]
    subprocess.run(
        [*command, *(["--augmented"] * augmented), "--count", "2"],
        env={**os.environ, "DETECTRON2_DATASETS": str(lesion_root)}, cwd=tmp_path, check=True, timeout=300,
    )  # fmt: skip
    folder = tmp_path / f"output/visualize/tiny_train{'_augmented' * augmented}"
    assert len(list(folder.glob("ISIC_*.jpg"))) == 2 and (folder / "contact_sheet.jpg").is_file()


def test_contact_sheet_holds_every_picture():
    pictures = [np.full((40, 80, 3), grey, np.uint8) for grey in (10, 60, 110, 160, 210)]
    sheet = contact_sheet(pictures)
    assert {10, 60, 110, 160, 210} <= set(np.unique(sheet))


def test_no_images_asked_for(lesion_root, tmp_path):
    with pytest.raises(LesionsegError, match="--count 0"):
        visualize_dataset(setup_cfg(), find_dataset("tiny", "val", str(lesion_root)), 0, False, tmp_path)
