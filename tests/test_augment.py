"""Augmentations: image and mask move together, lesions stay whole, and everything can be turned off."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage
from tiny_run import tiny_cfg

from lesionseg.augment import (
    AffineTransform,
    LesionMapper,
    RandomAffine,
    RandomDarkCorners,
    RandomHair,
    RandomHue,
    RandomLesionCrop,
    build_augmentations,
)
from lesionseg.config import setup_cfg
from lesionseg.errors import LesionsegError
from lesionseg.register import load_lesion_json

OFF = [
    word
    for key in (
        "HFLIP",
        "VFLIP",
        "AFFINE",
        "CROP",
        "BRIGHTNESS",
        "CONTRAST",
        "SATURATION",
        "HUE",
        "HAIR",
        "DARK_CORNERS",
    )
    for word in (f"LESION.AUG.{key}", "0.0")
]


@pytest.fixture(autouse=True)
def _seed():
    np.random.seed(0)


def blob(height=80, width=120) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (50, 45), (25, 12), 30, 0, 360, 1, -1)
    return mask


def test_affine_by_90_degrees_is_a_quarter_turn():
    # On a square canvas a turn by 90 degrees about the pixel grid's centre moves pixels onto pixels.
    image = np.arange(49, dtype=np.uint8).reshape(7, 7)
    transform = AffineTransform(cv2.getRotationMatrix2D((3, 3), 90, 1.0), 7, 7)
    assert np.array_equal(transform.apply_segmentation(image), np.rot90(image))
    assert np.allclose(transform.apply_coords(np.array([[6.0, 3.0]])), [[3.0, 0.0]])


def test_affine_moves_image_mask_and_points_alike():
    for _ in range(10):
        mask = blob()
        transform = RandomAffine(1.0, 180, (0.8, 1.25)).get_transform(mask)
        warped_image = transform.apply_image(mask.astype(np.float32) * 255) > 127
        warped_mask = transform.apply_segmentation(mask) > 0
        assert (warped_image ^ warped_mask).sum() < 0.1 * warped_mask.sum()
        # The centre of mass, computed from the mask's points, is where the warped mask has it.
        ys, xs = np.nonzero(mask)
        inside = transform.apply_coords(np.stack([xs, ys], 1).astype(float))
        if (inside >= 0).all() and (inside < (120, 80)).all():
            wy, wx = np.nonzero(warped_mask)
            assert np.allclose(inside.mean(0), [wx.mean(), wy.mean()], atol=0.5)


def test_crop_keeps_every_lesion_whole():
    boxes = np.array([[10.0, 20.0, 40.0, 45.0], [60.0, 30.0, 90.5, 60.5]])
    image = np.zeros((80, 120, 3), np.uint8)
    sizes = set()
    for _ in range(200):
        crop = RandomLesionCrop(1.0, 0.3).get_transform(image, boxes)
        assert crop.x0 >= 0 and crop.y0 >= 0 and crop.x0 + crop.w <= 120 and crop.y0 + crop.h <= 80
        assert crop.x0 <= 10 and crop.y0 <= 20 and crop.x0 + crop.w >= 91 and crop.y0 + crop.h >= 61
        sizes.add((crop.w, crop.h))
    assert len(sizes) > 100  # it is random, and not always the whole image


def test_crop_of_an_image_that_the_lesion_fills_is_the_image():
    crop = RandomLesionCrop(1.0, 0.3).get_transform(
        np.zeros((50, 60, 3), np.uint8), np.array([[0, 0, 60, 50]])
    )
    assert (crop.x0, crop.y0, crop.w, crop.h) == (0, 0, 60, 50)


def test_crop_without_a_lesion_has_at_least_its_smallest_size():
    crop = RandomLesionCrop(1.0, 0.5).get_transform(np.zeros((50, 60, 3), np.uint8), np.zeros((0, 4)))
    assert crop.w >= 30 and crop.h >= 25


def test_hue_turns_colours_and_leaves_grey_alone():
    grey = np.full((4, 4, 3), 128, np.uint8)
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 2] = 200
    turned = False
    for _ in range(20):
        transform = RandomHue(40).get_transform(grey)
        assert np.array_equal(transform.apply_image(grey), grey)
        turned |= not np.array_equal(transform.apply_image(red), red)
    assert turned


def test_hairs_are_dark_thin_and_do_not_touch_the_mask():
    image = np.full((128, 128, 3), 200, np.uint8)
    transform = RandomHair(1.0, 12).get_transform(image)
    drawn = transform.apply_image(image)
    changed = (drawn != image).any(axis=2)
    assert 0 < changed.mean() < 0.3 and drawn[changed].mean() < 200
    assert (image == 200).all()  # the original is left as it was
    assert np.array_equal(transform.apply_segmentation(blob()), blob())


def test_dark_corners_darken_corners_only():
    image = np.full((100, 100, 3), 200, np.uint8)
    dark = [RandomDarkCorners(1.0).get_transform(image).apply_image(image) for _ in range(20)]
    assert all((picture[40:60, 40:60] == 200).all() for picture in dark)
    corners = np.array([[picture[y, x, 0] for y in (0, 99) for x in (0, 99)] for picture in dark])
    assert (corners.min(axis=1) < 100).mean() > 0.7


def test_everything_off_leaves_only_resizing():
    cfg = setup_cfg(ROOT / "configs/isic_mrcnn.yaml", OFF)
    assert [type(a) for a in build_augmentations(cfg, is_train=True)] == [T.ResizeShortestEdge]
    assert [type(a) for a in build_augmentations(cfg, is_train=False)] == [T.ResizeShortestEdge]


def test_mapper_gives_masks_and_tight_boxes(lesion_root):
    cfg = setup_cfg(ROOT / "configs/isic_mrcnn_scratch.yaml")
    for record in load_lesion_json(lesion_root / "tiny/train.json")[:8]:
        item = LesionMapper(cfg, augment=True, targets=True)(record)
        assert item["image"].dtype.is_floating_point is False and item["image"].shape[0] == 3
        for mask, box in zip(item["instances"].gt_masks.tensor, item["instances"].gt_boxes, strict=True):
            ys, xs = np.nonzero(mask.numpy())
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            # The drawn lesions are dark and the skin light: what the mask covers must be the dark part. Filled-in
            # corners are black, too, but no part of the mask.
            grey = item["image"].float().mean(0).numpy()
            assert grey[mask.numpy()].mean() < 130
            assert np.median(grey[~mask.numpy() & (grey > 20)]) > 130


def test_mapper_without_augmentation_repeats_the_record(lesion_root):
    cfg = setup_cfg(ROOT / "configs/isic_mrcnn_scratch.yaml", ["INPUT.MIN_SIZE_TEST", "64"])
    record = load_lesion_json(lesion_root / "tiny/train.json")[0]
    item = LesionMapper(cfg, augment=False, targets=True)(record)
    box = BoxMode.convert(record["annotations"][0]["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    assert item["instances"].gt_boxes.tensor[0].tolist() == box
    assert "instances" not in LesionMapper(cfg, augment=False, targets=False)(record)


def test_an_image_without_a_lesion_trains(lesion_root):
    cfg = tiny_cfg("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MASK_FORMAT", "bitmask")
    record = {**load_lesion_json(lesion_root / "tiny/train.json")[0], "annotations": []}
    item = LesionMapper(cfg, augment=True, targets=True)(record)
    assert (
        len(item["instances"]) == 0 and item["instances"].gt_masks.tensor.shape[1:] == item["image"].shape[1:]
    )
    with EventStorage():
        losses = build_model(cfg).train()([item])
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_mask"] == losses["loss_box_reg"] == 0 < losses["loss_rpn_cls"]


def test_mapper_names_a_broken_image(lesion_root, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    record = {**load_lesion_json(lesion_root / "tiny/train.json")[0], "file_name": str(broken)}
    with pytest.raises(LesionsegError, match=r"broken\.jpg"):
        LesionMapper(setup_cfg(), augment=False, targets=False)(record)


def test_polygons_are_refused():
    """The baseline's own mask format, which cannot hold what prepared data sets hold."""
    with pytest.raises(LesionsegError, match=r"INPUT\.MASK_FORMAT is bitmask, not polygon"):
        LesionMapper(setup_cfg(), augment=True, targets=True)
