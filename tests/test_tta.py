"""Test-time augmentation: views are mapped back exactly, and what they find is averaged."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from tiny_run import make_run, tiny_cfg

from lesionseg.config import setup_cfg
from lesionseg.errors import LesionsegError
from lesionseg.predictor import LesionPredictor
from lesionseg.tta import View, merge, views

ALL = [View(1.0, flip, quarters) for flip, quarters in product((False, True), range(4))]


def found(
    size: tuple[int, int], boxes: list[list[float]], scores: list[float], masks: torch.Tensor
) -> Instances:
    return Instances(
        size,
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        scores=torch.tensor(scores),
        pred_classes=torch.zeros(len(scores), dtype=torch.int64),
        pred_masks=masks,
    )


@pytest.mark.parametrize("view", [*ALL, View(2.0), View(0.5, True, 3)])
def test_boxes_and_masks_come_back_to_where_they_were(view: View) -> None:
    """A patch that is unlike its mirror image and its turns: found again in the view by its pixels, then mapped back."""
    patch = torch.zeros(8, 12)
    patch[:4, :8] = 1
    patch[0, :] = 1
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, 20:28, 4:16] = ((1 + patch) * 100).to(torch.uint8)
    shown = view.image(image)
    rows, columns = torch.where(shown[0] > 60)
    y0, y1, x0, x1 = int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1
    mask = (shown[0, y0:y1, x0:x1] > 150).float()[None, None]
    height, width = shown.shape[1:]
    back = view.restore(found((height, width), [[x0, y0, x1, y1]], [0.9], mask), (40, 60))
    assert back.image_size == (40, 60)
    assert back.pred_boxes.tensor[0].tolist() == pytest.approx(
        [4, 20, 16, 28], abs=0.01 if view.scale == 1 else 1.1
    )
    if view.scale == 1:
        assert torch.equal(back.pred_masks[0, 0], patch)


def test_scores_boxes_and_masks_are_means() -> None:
    full, half = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    half[..., 2:] = 0
    one, two = (
        found((50, 50), [[10, 10, 30, 30]], [0.9], full),
        found((50, 50), [[10, 10, 30, 30]], [0.6], half),
    )
    nothing = found((50, 50), [], [], torch.zeros(0, 1, 4, 4))
    merged = merge([one, two, nothing], 0.05, 10)
    assert merged.scores.tolist() == pytest.approx([0.5])  # 0.9, 0.6 and a view that missed it
    assert merged.pred_boxes.tensor.tolist() == [pytest.approx([10, 10, 30, 30])]
    assert torch.allclose(merged.pred_masks[0, 0], torch.tensor([1.0, 1.0, 0.5, 0.5]).expand(4, 4))


def test_the_mean_box_is_weighted_and_masks_follow_it() -> None:
    mask = torch.ones(1, 1, 4, 4)
    one, two = (
        found((99, 99), [[0, 0, 40, 40]], [0.75], mask),
        found((99, 99), [[8, 0, 48, 40]], [0.25], mask),
    )
    merged = merge([one, two], 0.05, 10)
    assert merged.pred_boxes.tensor[0].tolist() == pytest.approx([2, 0, 42, 40])
    # Cells lie at x = 7, 17, 27, 37; a mask fades out within half a cell of its outermost cells. The first one's lie at 5 to
    # 35: it has 0.8 at 37. The second one's lie at 13 to 43: it has 0.4 at 7.
    assert merged.pred_masks[0, 0, 1].tolist() == pytest.approx([0.7, 1, 1, 0.9], abs=1e-5)


def test_lesions_apart_and_of_other_classes_stay_apart() -> None:
    mask = torch.ones(2, 1, 4, 4)
    one = found((99, 99), [[0, 0, 20, 20], [60, 60, 90, 90]], [0.9, 0.8], mask)
    two = found((99, 99), [[60, 60, 90, 90], [0, 0, 20, 20]], [0.8, 0.9], mask)
    two.pred_classes = torch.tensor([0, 1])
    merged = merge([one, two], 0.05, 10)
    assert merged.scores.tolist() == pytest.approx([0.8, 0.45, 0.45])
    assert sorted(merged.pred_classes.tolist()) == [0, 0, 1]
    assert len(merge([one, two], 0.5, 10)) == 1
    assert len(merge([one, two], 0.05, 2)) == 2


def test_nothing_found_in_any_view() -> None:
    nothing = found((50, 50), [], [], torch.zeros(0, 1, 4, 4))
    assert len(merge([nothing, nothing], 0.05, 10)) == 0


def test_views_of_the_configuration() -> None:
    assert len(views(tiny_cfg())) == 8
    cfg = tiny_cfg(
        "LESION.TTA.TURNS", "(0, 360, 180)", "LESION.TTA.FLIP", "False", "LESION.TTA.SCALES", "(1.0, 1.5)"
    )
    assert views(cfg) == [View(1.0), View(1.0, quarters=2), View(1.5), View(1.5, quarters=2)]
    for key, value in (("TURNS", "(45,)"), ("SCALES", "(0.0,)"), ("TURNS", "()")):
        with pytest.raises(LesionsegError, match=r"LESION\.TTA\.TURNS"):
            views(tiny_cfg(f"LESION.TTA.{key}", value))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


def predictor(run: Path, *opts: str) -> LesionPredictor:
    cfg = setup_cfg(
        run / "config.yaml", ["LESION.SCORE_THRESHOLD", "0.05", "LESION.TTA.ENABLED", "True", *opts]
    )
    return LesionPredictor(cfg, run / "model_best.pth")


def photograph() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)


def test_one_view_is_the_plain_prediction(run: Path) -> None:
    plain = predictor(run, "LESION.TTA.ENABLED", "False")(photograph())
    alone = predictor(run, "LESION.TTA.TURNS", "(0,)", "LESION.TTA.FLIP", "False")(photograph())
    assert len(plain) > 0
    assert torch.allclose(alone.scores, plain.scores, atol=1e-5)
    assert torch.allclose(alone.pred_boxes.tensor, plain.pred_boxes.tensor, atol=1e-3)
    assert (alone.pred_masks == plain.pred_masks).float().mean() > 0.999


@pytest.mark.parametrize("view", ALL[1:])
def test_a_turned_image_gets_the_turned_prediction(run: Path, view: View) -> None:
    """With all eight views the network's own preference for a direction is gone."""
    image = photograph()
    model = predictor(run)
    straight = model(image)
    shown = view.image(torch.from_numpy(image.transpose(2, 0, 1).copy())).numpy().transpose(1, 2, 0)
    turned = model(np.ascontiguousarray(shown))
    assert len(straight) == len(turned) > 0
    assert torch.allclose(turned.scores, straight.scores, atol=1e-4)
    assert (turned.pred_masks[0] == view.image(straight.pred_masks[:1])[0]).float().mean() > 0.99


def test_a_higher_threshold_only_leaves_out_what_is_below_it(run: Path) -> None:
    """It is for the mean over the views: a view that alone is below it counts all the same."""
    everything = predictor(run, "LESION.SCORE_THRESHOLD", "0.05")(photograph())
    threshold = float(everything.scores.median())
    some = predictor(run, "LESION.SCORE_THRESHOLD", str(threshold))(photograph())
    assert 0 < len(some) < len(everything)
    assert torch.allclose(some.scores, everything.scores[: len(some)])
    assert torch.allclose(some.pred_boxes.tensor, everything.pred_boxes.tensor[: len(some)])
