"""Crops for the classifier: labels, leaks, balance, repeatable augmentation."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from lesionseg.classifier_config import classifier_cfg
from lesionseg.classifier_data import (
    MODEL_FEATURES,
    BalancedSampler,
    CropImages,
    choose_classes,
    feature_table,
    label_of,
    labelled,
    read_crops,
)
from lesionseg.crop_export import COLUMNS
from lesionseg.errors import LesionsegError
from lesionseg.images import write_image


def write_crops(folder: Path, rows: list[dict], size: int = 24, **settings) -> Path:
    """A folder as tools/export_crops.py leaves it; every crop is noise of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "crops.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=COLUMNS)
        writer.writeheader()
        for number, row in enumerate(rows):
            name = f"{row['split']}/c{number}.png"
            sample = {"sample_id": f"s{number}", "instance": 1, "file": name}
            writer.writerow({**sample, **dict.fromkeys(MODEL_FEATURES, number), **row})
            pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
            write_image(folder / name, pixels)
    content = {"margin": 0.1, "size": size, "background": "keep", **settings}
    (folder / "crops.json").write_text(json.dumps(content))
    return folder


def row(split: str, diagnosis: str, group: str = "", **more) -> dict:
    return {"split": split, "diagnosis": diagnosis, "group": group, **more}


def test_read_crops(tmp_path):
    folder = write_crops(tmp_path, [row("train", "nevus", "a"), row("val", "melanoma", "b")])
    crops, settings = read_crops([folder])
    assert [file.is_file() for file, _ in crops] == [True, True]
    assert (settings.margin, settings.size, settings.background) == (0.1, 24, "keep")


def test_a_lesion_in_two_splits_is_an_error(tmp_path):
    folder = write_crops(tmp_path, [row("train", "nevus", "HAM_1"), row("test", "nevus", "HAM_1")])
    with pytest.raises(LesionsegError, match="HAM_1 in test, train"):
        read_crops([folder])


def test_one_image_in_two_splits_of_two_folders_is_an_error(tmp_path):
    one = write_crops(tmp_path / "a", [row("train", "nevus", sample_id="ISIC_1")])
    two = write_crops(tmp_path / "b", [row("val", "nevus", sample_id="ISIC_1")])
    with pytest.raises(LesionsegError, match="ISIC_1"):
        read_crops([one, two])


def test_incomplete_or_unlike_folders_are_errors(tmp_path):
    with pytest.raises(LesionsegError, match="export_crops"):
        read_crops([tmp_path])
    with pytest.raises(LesionsegError, match=r"CLASSIFIER\.CROPS"):
        read_crops([])
    one = write_crops(tmp_path / "a", [row("train", "nevus")])
    two = write_crops(tmp_path / "b", [row("train", "nevus", sample_id="x")], margin=0.3)
    with pytest.raises(LesionsegError, match="cut differently"):
        read_crops([one, two])


@pytest.mark.parametrize(
    ("diagnosis", "binary", "isic2017"),
    (
        ("melanoma", "malignant", "melanoma"),
        ("nevus", "benign", "nevus"),
        ("seborrheic keratosis", "benign", "seborrheic keratosis"),
        ("basal cell carcinoma", "malignant", None),
        ("malignant", "malignant", None),
        ("", None, None),
        ("unheard of", None, None),
    ),
)
def test_labels(diagnosis, binary, isic2017):
    crop = row("train", diagnosis, category="lesion")
    assert label_of(crop, "benign-malignant") == binary
    assert label_of(crop, "isic2017") == isic2017
    assert label_of(crop, "diagnosis") == (diagnosis or None)


def test_benign_malignant_from_the_category():
    assert label_of(row("train", "", category="malignant"), "benign-malignant") == "malignant"


def test_classes_have_a_fixed_order():
    names = ["vascular lesion", "zebra", "melanoma", "nevus", "nevus"]
    rows = [row("train", name) for name in names] + [row("val", "dermatofibroma")]
    assert choose_classes(rows, "diagnosis") == ["nevus", "melanoma", "vascular lesion", "zebra"]


def test_missing_classes_are_named():
    with pytest.raises(LesionsegError, match=r"malignant.*found: 1 benign"):
        choose_classes([row("train", "nevus", category="")], "benign-malignant")
    with pytest.raises(LesionsegError, match="1 without a label"):
        choose_classes([row("train", "")], "diagnosis")
    with pytest.raises(LesionsegError, match="LABELS is one of"):
        choose_classes([], "colour")


def test_feature_table(tmp_path):
    rows = [row("train", "nevus"), row("train", "melanoma", border="")]
    crops, _ = read_crops([write_crops(tmp_path, rows)])
    table = feature_table(labelled(crops, ["nevus", "melanoma"], "diagnosis"))
    assert table.shape == (2, len(MODEL_FEATURES))
    assert (table[0] == 0).all()
    assert np.isnan(table[1, MODEL_FEATURES.index("border")])
    assert not {"diameter_px", "area_px", "perimeter_px", "diameter_mm"} & set(MODEL_FEATURES)


def test_sampler_draws_classes_equally_and_new_orders():
    labels = [0] * 70 + [1] * 20 + [2] * 10
    sampler = BalancedSampler(labels, seed=3)
    first = list(sampler)
    counts = Counter(labels[place % 100] for place in first)
    assert len(first) == len(sampler) == 100
    assert all(abs(count - 100 / 3) <= 2 for count in counts.values())
    # A crop of the rare class comes again only when all of its class have come, under another number.
    rare = [place for place in first if labels[place % 100] == 2]
    assert len(set(rare)) == len(rare)
    assert max(Counter(place % 100 for place in rare).values()) <= 4
    assert list(sampler) == first
    sampler.epoch = 1
    assert list(sampler) != first


def test_augmentation_repeats_and_differs_between_draws(tmp_path):
    crops, _ = read_crops([write_crops(tmp_path, [row("train", "nevus"), row("train", "melanoma")])])
    crops = labelled(crops, ["nevus", "melanoma"], "diagnosis")
    images = CropImages(crops, 16, classifier_cfg(), seed=5)
    one, index = images[0]
    assert (one.dtype, tuple(one.shape), index) == (torch.uint8, (3, 16, 16), 0)
    np.random.seed(99)  # the global state does not matter
    assert torch.equal(images[0][0], one)
    assert images[2][1] == 0  # the second draw of crop 0
    assert not torch.equal(images[2][0], one)
    images.epoch = 1
    assert not torch.equal(images[0][0], one)


def test_without_augmentation_the_crop_itself_is_shown(tmp_path):
    crops, _ = read_crops([write_crops(tmp_path, [row("val", "nevus")], size=16)])
    image, _ = CropImages(labelled(crops, ["nevus"], "diagnosis"), 16)[0]
    expected = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)[:, :, ::-1]
    assert (image.numpy().transpose(1, 2, 0) == expected).all()


def test_the_category_decides_where_it_tells():
    assert label_of(row("train", "actinic keratosis", category="benign"), "benign-malignant") == "benign"
    assert label_of(row("train", "melanoma", category="lesion"), "benign-malignant") == "malignant"
