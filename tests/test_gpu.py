"""On a GPU: what the CPU finds, through the tools' own ways; and training in mixed precision. Skipped where there is none."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_pictures
from detectron2.data import DatasetCatalog
from tiny_run import make_run
from training import training_cfg

from lesionseg import LesionPredictor
from lesionseg.evaluation import reference_mask
from lesionseg.images import read_image, read_mask
from lesionseg.masks import configured_lesion_mask
from lesionseg.metrics import confusion, jaccard
from lesionseg.predict_run import predict_images
from lesionseg.stages import train_stages
from lesionseg.trainer import LesionTrainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
GPU = "cuda"


@pytest.fixture
def full_float32() -> Iterator[None]:
    """Without TensorFloat-32, which rounds to 10 bits: random weights bear no rounding."""
    settings = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = settings


def test_prediction_is_that_of_the_cpu(tmp_path: Path, full_float32: None) -> None:
    run, images = make_run(tmp_path / "run"), tmp_path / "images"
    images.mkdir()
    write_pictures(images, [(90, 120), (120, 90), (90, 120), (60, 200), (300, 400)])
    tables = []
    for device, batch_size in (("cpu", 1), (GPU, 3)):
        predictor, out = LesionPredictor(run, device=device), tmp_path / device
        assert predictor.on_cpu == (device == "cpu")
        predict_images(predictor, [images], out, ("mask", "csv"), batch_size, workers=2)
        with open(out / "predictions.csv", newline="") as file:
            tables.append(list(csv.DictReader(file)))
    assert len(tables[0]) == len(tables[1]) == 25
    for ours, theirs in zip(*tables, strict=True):
        assert (ours["file"], ours["class"]) == (theirs["file"], theirs["class"])
        assert float(ours["score"]) == pytest.approx(float(theirs["score"]), abs=1e-3)
        assert int(ours["area_px"]) == pytest.approx(int(theirs["area_px"]), rel=0.01, abs=20)
    for mask in (tmp_path / "cpu/mask").iterdir():
        assert (read_mask(mask) == read_mask(tmp_path / GPU / "mask" / mask.name)).mean() > 0.99


@pytest.mark.slow
def test_mixed_precision_trains_and_predicts(lesion_root: Path, tmp_path: Path) -> None:
    opts = (
        "MODEL.DEVICE",
        GPU,
        "SOLVER.AMP.ENABLED",
        "True",
        "LESION.BF16",
        "auto",
        "SOLVER.MAX_ITER",
        "200",
    )
    cfg = training_cfg(lesion_root, tmp_path / "run", *opts)
    torch.manual_seed(0)
    before = LesionTrainer.test(cfg, LesionTrainer.build_model(cfg))["tiny_val"]["isic"]["jaccard"]
    after = train_stages(cfg, resume=False)["tiny_val"]["isic"]["jaccard"]
    assert before < 0.4 and after > 0.7
    predictor, scores = LesionPredictor(tmp_path / "run"), []
    assert predictor.device.type == torch.device(GPU).type
    for record in DatasetCatalog.get("tiny_val"):
        found = configured_lesion_mask(predictor.cfg, predictor(read_image(record["file_name"])))
        scores.append(jaccard(confusion(reference_mask(record), found)))
    assert np.mean(scores) == pytest.approx(after, abs=0.02)
