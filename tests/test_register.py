"""Registered data sets: records against pycocotools' reading of the same json."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pycocotools.mask as mask_util
import pytest
from conftest import ROOT  # noqa: F401
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from pycocotools.coco import COCO

from lesionseg.errors import LesionsegError
from lesionseg.images import read_image
from lesionseg.register import load_lesion_json, register_all, require


def test_records_agree_with_pycocotools(lesion_root):
    path = lesion_root / "tiny/val.json"
    coco, records = COCO(str(path)), load_lesion_json(path)
    assert len(records) == 8 == len(coco.imgs)
    for record in records:
        (annotation,) = coco.loadAnns(coco.getAnnIds(record["image_id"]))
        (own,) = record["annotations"]
        mask = coco.annToMask(annotation)
        assert np.array_equal(mask_util.decode(own["segmentation"]), mask)
        ys, xs = np.nonzero(mask)
        tight = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert BoxMode.convert(own["bbox"], own["bbox_mode"], BoxMode.XYXY_ABS) == tight
        assert read_image(record["file_name"]).shape == (record["height"], record["width"], 3)
        assert record["sample_id"] in record["file_name"]


def test_names_and_metadata(lesion_root):
    assert register_all(lesion_root) == ["tiny_train", "tiny_val"]
    assert MetadataCatalog.get("tiny_val").thing_classes == ["lesion"]
    assert len(DatasetCatalog.get("tiny_train")) == 32


def test_the_folder_comes_from_the_environment(lesion_root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(lesion_root))
    assert "tiny_val" in register_all()


def test_diagnosis_and_group_travel(lesion_root, tmp_path):
    shutil.copytree(lesion_root / "tiny", tmp_path / "tiny")
    path = tmp_path / "tiny/val.json"
    coco = json.loads(path.read_text())
    coco["images"][0].update(diagnosis="melanoma", group="lesion_7")
    path.write_text(json.dumps(coco))
    record = load_lesion_json(path)[0]
    assert (record["diagnosis"], record["group"]) == ("melanoma", "lesion_7")


def test_an_unknown_name_lists_the_known_ones(lesion_root):
    with pytest.raises(
        LesionsegError, match=r"isic2050_train not found.*tiny_train, tiny_val.*prepare_dataset"
    ):
        require(["isic2050_train"], lesion_root)


def test_a_damaged_json_is_named(lesion_root, tmp_path):
    shutil.copytree(lesion_root / "tiny", tmp_path / "tiny")
    (tmp_path / "tiny/train.json").write_text("{")
    with pytest.raises(LesionsegError, match=r"train\.json.*prepare_dataset"):
        register_all(tmp_path)


def test_two_folders_of_one_name_are_told(lesion_root, tmp_path):
    for name in ("tiny", "backup"):
        shutil.copytree(lesion_root / "tiny", tmp_path / name)
    with pytest.raises(LesionsegError, match=r"several folders .* hold a data set tiny_val"):
        require(["tiny_val"], tmp_path)
