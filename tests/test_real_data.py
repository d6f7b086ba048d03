"""The main job on real images of every set at hand: prepare, train a little, predict; files, sizes, ids and counts agree."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from pycocotools import mask as mask_util
from training import training_opts

from lesionseg.images import image_size, read_mask

PAIRS = 5
# Name: (folder, label file, layout that must be recognised).
SETS = {
    "isic2018": ("isic2018_task1_512", None),
    "isic2017": ("isic2017_originals", "labels/ISIC-2017_Training_Part3_GroundTruth.csv"),
    "ham10000": ("ham10000_256", "ham10000_256/HAM10000_metadata.csv"),
}


def tool(name: str, *arguments: object, cwd: Path) -> str:
    command = [sys.executable, "-W", "ignore", str(ROOT / "tools" / name), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    return done.stdout


def some_pairs(source: Path, target: Path) -> list[str]:
    """Copy pairs from all over a set; the native-resolution set's smallest, to be quick."""
    images = sorted(source.glob("images/*.jpg"), key=lambda path: (path.stat().st_size // 10**6, path.name))
    chosen = images[:: max(1, len(images) // PAIRS)][:PAIRS] if len(images) > 100 else images[:PAIRS]
    for part in ("images", "masks"):
        (target / part).mkdir(parents=True)
    for image in chosen:
        shutil.copy(image, target / "images")
        shutil.copy(source / "masks" / f"{image.stem}_segmentation.png", target / "masks")
    return sorted(image.stem for image in chosen)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_prepare_train_predict(shared_data, tmp_path, name):
    folder, labels = SETS[name]
    ids = some_pairs(shared_data / folder, tmp_path / "raw")
    options = ["--labels", shared_data / labels] if labels else []
    tool("prepare_dataset.py", "--images", "raw/images", "--masks", "raw/masks", "--out", "datasets/real",
         "--split", "0.6/0.4", *options, cwd=tmp_path)  # fmt: skip
    with open(tmp_path / "datasets/real/split.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["id"] for row in rows) == ids
    for split in ("train", "val"):
        coco = json.loads((tmp_path / f"datasets/real/{split}.json").read_text())
        assert {image["sample_id"] for image in coco["images"]} == {
            r["id"] for r in rows if r["split"] == split
        }
        by_image = {annotation["image_id"]: annotation for annotation in coco["annotations"]}
        for image in coco["images"]:
            # The annotation is the mask file, pixel by pixel, at the photograph's size.
            mask = read_mask(tmp_path / f"raw/masks/{image['sample_id']}_segmentation.png")
            annotation = by_image[image["id"]]
            assert mask.shape == (image["height"], image["width"])
            assert np.array_equal(mask_util.decode(annotation["segmentation"]).astype(bool), mask)
            assert annotation["area"] == mask.sum()

    opts = training_opts(
        tmp_path / "datasets", tmp_path / "run", "SOLVER.MAX_ITER", "3", "TEST.EVAL_PERIOD", "3"
    )
    opts += [
        "DATASETS.TRAIN",
        "('real_train',)",
        "DATASETS.TEST",
        "('real_val',)",
        "SOLVER.IMS_PER_BATCH",
        "2",
    ]
    tool(
        "train_net.py",
        "--config-file",
        ROOT / "configs/isic_mrcnn_scratch.yaml",
        "--num-gpus",
        "0",
        *opts,
        cwd=tmp_path,
    )
    validation = [row["id"] for row in rows if row["split"] == "val"]
    with open(tmp_path / "run/inference/real_val/isic_scores.csv", newline="") as file:
        assert [row["sample_id"] for row in csv.DictReader(file)] == sorted(validation)

    tool("predict.py", "--input", "raw/images", "--weights", "run/model_final.pth", "--output", "out",
         "--workers", "1", "--score-threshold", "0.0", cwd=tmp_path)  # fmt: skip
    with open(tmp_path / "out/predictions.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert {Path(row["file"]).stem for row in table} == set(ids)
    for identity in ids:
        size = image_size(tmp_path / f"raw/images/{identity}.jpg")
        with Image.open(tmp_path / f"out/mask/{identity}_segmentation.png") as png:
            assert png.mode == "L" and png.size == size[::-1]
            assert set(np.unique(np.asarray(png))) <= {0, 255}
        assert image_size(tmp_path / f"out/overlay/{identity}.jpg") == size
    results = json.loads((tmp_path / "out/predictions.json").read_text())
    assert len(results) == sum(bool(row["instance"]) for row in table)
    for result in results:
        assert tuple(result["segmentation"]["size"]) == image_size(
            tmp_path / "raw/images" / Path(result["file_name"]).name
        )
