"""LesionPredictor against Detectron2's DefaultPredictor, in batches, on bad input and with weights that do not fit."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import write_pictures
from detectron2.engine import DefaultPredictor
from detectron2.structures import Instances
from tiny_run import make_run, tiny_cfg

from lesionseg import LesionPredictor
from lesionseg.errors import LesionsegError
from lesionseg.stream import FailedImage


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def predictor(run: Path) -> LesionPredictor:
    return LesionPredictor(run)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Smooth random pictures of several shapes, some of which share a padded size."""
    shapes = [
        (90, 120),
        (120, 90),
        (96, 128),
        (60, 200),
        (90, 120),
        (64, 64),
        (90, 120),
        (92, 118),
        (300, 400),
    ]
    return write_pictures(tmp_path_factory.mktemp("images"), shapes)


def assert_same(ours: Instances, theirs: Instances) -> None:
    assert ours.image_size == theirs.image_size
    assert ours.pred_classes.tolist() == theirs.pred_classes.tolist()
    torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, atol=1e-2, rtol=0)
    assert ours.pred_masks.dtype == torch.bool
    # Probabilities differ by float32's rounding, which may turn a pixel in ten thousand.
    assert (ours.pred_masks != theirs.pred_masks).float().mean() < 1e-4


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_equals_default_predictor(run: Path, images: list[Path], order: str) -> None:
    cfg = LesionPredictor(run).cfg.clone()
    cfg.defrost()
    cfg.INPUT.FORMAT = order
    ours, theirs = LesionPredictor(cfg), DefaultPredictor(cfg)
    for path in images:
        image = cv2.imread(str(path))
        found = ours(image)
        assert len(found) == 5
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        assert_same(found, theirs(image)["instances"])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_stream_equals_single_images_in_order(
    predictor: LesionPredictor, images: list[Path], batch_size: int
) -> None:
    records = [str(images[0]), {"file_name": images[1], "image_id": 7}, *images[2:]]
    results = list(predictor.predict(records, batch_size))
    assert [record for record, _ in results] == records
    for path, (_, found) in zip(images, results, strict=True):
        assert_same(found, predictor(cv2.imread(str(path))))


def test_batches_hold_one_padded_size(predictor: LesionPredictor, images: list[Path]) -> None:
    sizes = []
    hook = predictor._model.backbone.register_forward_pre_hook(lambda _m, x: sizes.append(tuple(x[0].shape)))
    list(predictor.predict([images[0], images[1], images[4], images[6]], batch_size=3))
    hook.remove()
    # 90x120 is resized to 64x85 and padded to 64x96; three of them share a batch, the upright one goes alone.
    assert sizes == [(3, 3, 64, 96), (1, 3, 96, 64)]


def test_failed_image_does_not_end_the_stream(
    predictor: LesionPredictor, images: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    slim = tmp_path / "slim.png"
    cv2.imwrite(str(slim), np.zeros((1, 2000, 3), np.uint8))
    results = [result for _, result in predictor.predict([images[0], broken, "nope.png", slim, images[1]], 4)]
    assert [type(result) for result in results] == [Instances, *[FailedImage] * 3, Instances]
    assert results[1].file_name == str(broken)
    assert "broken.jpg" in str(results[1]) and "nope.png" in str(results[2]) and "too slim" in str(results[3])


def test_stream_can_be_left_early(predictor: LesionPredictor, images: list[Path]) -> None:
    asked = []

    def endless() -> object:
        while True:
            asked.append(1)
            yield images[0]

    stream = predictor.predict(endless(), 2)
    next(stream)
    stream.close()
    assert len(asked) < 40  # what is read ahead is bounded


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
        [[1, 2], [3, 4]],
        "image.jpg",
    ],
)
def test_other_arrays_are_refused(predictor: LesionPredictor, image: object) -> None:
    with pytest.raises(LesionsegError, match=r"expected a uint8 array \(height, width, 3\)|is empty"):
        predictor(image)


def test_thresholds(run: Path, images: list[Path]) -> None:
    image = cv2.imread(str(images[0]))
    every = LesionPredictor(run)(image)
    middle = float(every.scores[1:3].mean())
    cfg = LesionPredictor(run).cfg.clone()
    cfg.defrost()
    cfg.LESION.SCORE_THRESHOLD = middle
    cfg.LESION.MASK_THRESHOLD = 0.8
    few = LesionPredictor(cfg)(image)
    assert few.scores.tolist() == pytest.approx(every.scores[:2].tolist())
    assert 0 < few.pred_masks.sum() < every.pred_masks[:2].sum()
    cfg.LESION.SCORE_THRESHOLD = 1.0
    none = LesionPredictor(cfg)(image)
    assert len(none) == 0 and none.pred_masks.shape == (0, 90, 120)


def test_travels_to_another_process(predictor: LesionPredictor, images: list[Path]) -> None:
    image = cv2.imread(str(images[0]))
    assert_same(pickle.loads(pickle.dumps(predictor))(image), predictor(image))


def test_class_names(run: Path) -> None:
    assert LesionPredictor(run).metadata.thing_classes == ["nevus", "melanoma"]
    cfg = LesionPredictor(run).cfg.clone()
    cfg.defrost()
    cfg.LESION.CLASSES = ()
    assert LesionPredictor(cfg).metadata.thing_classes == ["class 0", "class 1"]
    cfg.LESION.CLASSES = ("lesion",)
    with pytest.raises(LesionsegError, match=r"names 1 classes .lesion., but .* is 2"):
        LesionPredictor(cfg)


def test_weights_that_do_not_fit_are_refused(run: Path, tmp_path: Path) -> None:
    weights = run / "model_best.pth"
    with pytest.raises(LesionsegError, match=r"model_best\.pth: .*of another shape.*cls_score"):
        LesionPredictor(tiny_cfg("MODEL.ROI_HEADS.NUM_CLASSES", "3", "LESION.CLASSES", "()"), weights)
    with pytest.raises(LesionsegError, match="missing"):
        LesionPredictor(tiny_cfg("MODEL.ROI_BOX_HEAD.NUM_FC", "3"), weights)
    with pytest.raises(LesionsegError, match="unknown to the model"):
        LesionPredictor(tiny_cfg("MODEL.ROI_BOX_HEAD.NUM_FC", "1"), weights)
    with pytest.raises(LesionsegError, match="no weights"):
        LesionPredictor(tiny_cfg())
    with pytest.raises(LesionsegError, match=r"nope\.pth"):
        LesionPredictor(tiny_cfg(), tmp_path / "nope.pth")
    (tmp_path / "cut.pth").write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(LesionsegError, match=r"cut\.pth is not a readable checkpoint"):
        LesionPredictor(tiny_cfg(), tmp_path / "cut.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(LesionsegError, match=r"text\.pth is not a readable checkpoint"):
        LesionPredictor(tiny_cfg(), tmp_path / "text.pth")


def test_settings_are_checked(run: Path) -> None:
    with pytest.raises(LesionsegError, match="SCORE_THRESHOLD"):
        LesionPredictor(tiny_cfg("LESION.SCORE_THRESHOLD", "1.5"), run / "model_best.pth")
    with pytest.raises(LesionsegError, match="MASK_ON"):
        LesionPredictor(tiny_cfg("MODEL.MASK_ON", "False"), run / "model_best.pth")
    with pytest.raises(LesionsegError, match="batch size"):
        list(LesionPredictor(run).predict([], 0))
    with pytest.raises(LesionsegError, match=r"config\.yaml does not exist"):
        LesionPredictor(run / "nowhere")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_run_trained_on_a_gpu_predicts_without_one(tmp_path):
    run = make_run(tmp_path / "run", "MODEL.DEVICE", "cpu")
    config = (run / "config.yaml").read_text()
    assert "DEVICE: cpu" in config
    (run / "config.yaml").write_text(config.replace("DEVICE: cpu", "DEVICE: cuda"))
    assert LesionPredictor(run).device.type == "cpu"
