"""Augmentation for dermoscopy, and the mapper that applies it: dataset dict -> what the model takes."""

from __future__ import annotations

import copy
import math
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances

from lesionseg.errors import LesionsegError
from lesionseg.images import read_image


class AffineTransform(T.Transform):
    """Warp by a 2x3 matrix on an unchanged canvas; what comes from outside the image is black."""

    def __init__(self, matrix: np.ndarray, height: int, width: int) -> None:
        super().__init__()
        self.matrix, self.height, self.width = matrix, height, width

    def _warp(self, image: np.ndarray, interpolation: int) -> np.ndarray:
        return cv2.warpAffine(image, self.matrix, (self.width, self.height), flags=interpolation)

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Image (H, W) or (H, W, C), uint8 or float: warped bilinearly, same shape and dtype."""
        return self._warp(img, cv2.INTER_LINEAR)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Mask (H, W): warped by nearest neighbour, so that labels stay labels."""
        return self._warp(segmentation, cv2.INTER_NEAREST)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Points (N, 2) as x, y in pixels."""
        return coords @ self.matrix[:, :2].T + self.matrix[:, 2]


class RandomAffine(T.Augmentation):
    """Rotation by any angle and scaling about the image's centre, in one interpolation."""

    def __init__(self, prob: float, max_angle: float, scale: tuple[float, float]) -> None:
        """`max_angle` in degrees either way; `scale` the range of the factor, drawn log-uniformly."""
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        if np.random.uniform() >= self.prob:
            return T.NoOpTransform()
        height, width = image.shape[:2]
        angle = np.random.uniform(-self.max_angle, self.max_angle)
        scale = math.exp(np.random.uniform(math.log(self.scale[0]), math.log(self.scale[1])))
        # Pixel centres lie at whole numbers in OpenCV, hence the half pixel.
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, scale)
        return AffineTransform(matrix, height, width)


class RandomLesionCrop(T.Augmentation):
    """A random window of the image that contains every lesion whole."""

    def __init__(self, prob: float, min_share: float) -> None:
        """`min_share`: the window's sides as a share of the image's, at the least."""
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray, boxes: np.ndarray) -> T.Transform:
        """`boxes`: XYXY in pixels, (N, 4)."""
        if np.random.uniform() >= self.prob:
            return T.NoOpTransform()
        height, width = image.shape[:2]
        if len(boxes):
            x0, y0 = np.floor(boxes[:, :2].min(axis=0)).astype(int)
            x1, y1 = np.ceil(boxes[:, 2:].max(axis=0)).astype(int)
        else:
            x0, y0, x1, y1 = width, height, 0, 0  # nothing to keep: any window will do
        left, crop_width = self._window(x0, x1, width)
        top, crop_height = self._window(y0, y1, height)
        return T.CropTransform(left, top, crop_width, crop_height, orig_w=width, orig_h=height)

    def _window(self, low: int, high: int, size: int) -> tuple[int, int]:
        """Start and length of an interval of [0, size) that covers [low, high)."""
        shortest = max(math.ceil(self.min_share * size), high - low, 1)
        length = int(np.random.uniform(shortest, size + 1)) if shortest < size else size
        first, last = max(0, high - length), min(size - length, low)
        last = max(first, min(last, size - length))
        return int(np.random.uniform(first, last + 1)), length


class RandomHue(T.Augmentation):
    """Turn the colour circle by a random angle of up to `degrees` either way."""

    def __init__(self, degrees: float) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        shift = round(np.random.uniform(-self.degrees, self.degrees) / 2)  # OpenCV's hue unit is 2 degrees

        def turn(img: np.ndarray) -> np.ndarray:
            hsv = cv2.cvtColor(img, cv2.COLOR_BGR2HSV)
            hsv[..., 0] = (hsv[..., 0].astype(np.int16) + shift) % 180
            return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)

        return T.ColorTransform(turn)


class RandomHair(T.Augmentation):
    """Draw up to `most` dark, curved hairs over the image."""

    def __init__(self, prob: float, most: int) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        if np.random.uniform() >= self.prob:
            return T.NoOpTransform()
        height, width = image.shape[:2]
        size = min(height, width)
        along = np.linspace(0, 1, 16)[:, None]
        hairs = []
        for _ in range(np.random.randint(1, self.most + 1)):
            start, end = np.random.uniform(-0.1, 1.1, (2, 2)) * (width, height)
            bend = (start + end) / 2 + np.random.normal(0, 0.15 * size, 2)
            # Quadratic Bezier curve, in 1/16 px, which OpenCV draws anti-aliased.
            points = (1 - along) ** 2 * start + 2 * along * (1 - along) * bend + along**2 * end
            colour = np.random.uniform(10, 70) * np.array([0.8, 0.9, 1.1])
            thickness = max(1, round(size * np.random.uniform(0.002, 0.008)))
            hairs.append((np.round(points * 16).astype(np.int32), colour.tolist(), thickness))

        def draw(img: np.ndarray) -> np.ndarray:
            img = img.copy()
            for points, colour, thickness in hairs:
                cv2.polylines(img, [points], False, colour, thickness, cv2.LINE_AA, shift=4)
            return img

        return T.ColorTransform(draw)


class RandomDarkCorners(T.Augmentation):
    """Darken what lies outside a circle around the middle, as the tube of a dermatoscope does."""

    def __init__(self, prob: float) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        if np.random.uniform() >= self.prob:
            return T.NoOpTransform()
        height, width = image.shape[:2]
        centre = np.array([width, height]) / 2 + np.random.normal(0, 0.03, 2) * (width, height)
        radius = np.random.uniform(0.38, 0.5) * math.hypot(height, width)
        softness = np.random.uniform(0.01, 0.06) * radius
        y, x = np.ogrid[:height, :width]
        distance = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2)
        light = np.clip((radius - distance) / softness + 0.5, 0.03, 1)[..., None].astype(np.float32)
        return T.ColorTransform(lambda img: (img * light).astype(img.dtype))


def photometric_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """The augmentations that change colours and leave the geometry alone, for uint8 BGR images."""
    aug = cfg.LESION.AUG
    ranges = (
        (T.RandomBrightness, aug.BRIGHTNESS),
        (T.RandomContrast, aug.CONTRAST),
        (T.RandomSaturation, aug.SATURATION),
    )
    result: list[T.Augmentation] = [kind(1 - change, 1 + change) for kind, change in ranges if change > 0]
    if aug.HUE > 0:
        result.append(RandomHue(aug.HUE))
    if aug.HAIR > 0:
        result.append(RandomHair(aug.HAIR, aug.HAIR_MAX))
    if aug.DARK_CORNERS > 0:
        result.append(RandomDarkCorners(aug.DARK_CORNERS))
    return result


def geometric_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """Flips and the affine warp."""
    aug = cfg.LESION.AUG
    result: list[T.Augmentation] = []
    if aug.HFLIP > 0:
        result.append(T.RandomFlip(aug.HFLIP, horizontal=True))
    if aug.VFLIP > 0:
        result.append(T.RandomFlip(aug.VFLIP, horizontal=False, vertical=True))
    if aug.AFFINE > 0 and (aug.ROTATION > 0 or tuple(aug.SCALE) != (1.0, 1.0)):
        result.append(RandomAffine(aug.AFFINE, aug.ROTATION, tuple(aug.SCALE)))
    return result


def resize(cfg: CfgNode, is_train: bool) -> T.Augmentation:
    """Detectron2's resizing to INPUT.MIN_SIZE_* / MAX_SIZE_*."""
    if is_train:
        sampling = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
        return T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, sampling)
    return T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """All augmentations in their order: crop at full resolution, resize, then the rest on the smaller image."""
    if not is_train:
        return [resize(cfg, is_train=False)]
    aug = cfg.LESION.AUG
    crop = [RandomLesionCrop(aug.CROP, aug.CROP_MIN)] if aug.CROP > 0 else []
    return [*crop, resize(cfg, is_train=True), *geometric_augmentations(cfg), *photometric_augmentations(cfg)]


def _no_lesion(height: int, width: int) -> Instances:
    return Instances(
        (height, width),
        gt_boxes=Boxes(torch.zeros(0, 4)),
        gt_classes=torch.zeros(0, dtype=torch.int64),
        gt_masks=BitMasks(torch.zeros(0, height, width, dtype=torch.bool)),
    )


class LesionMapper(DatasetMapper):
    """Detectron2's DatasetMapper with three differences.

    Images are read by `lesionseg.images.read_image`, which gets 16-bit, CMYK and the like right and names the
    file in its errors; augmentations see the lesions' boxes, which the crop needs; and an image without a lesion has empty masks.
    """

    def __init__(self, cfg: CfgNode, augment: bool, targets: bool) -> None:
        """Training takes both; the validation loss takes targets without augmentation; inference neither.

        Raises:
            LesionsegError: a channel order or mask format that is not for lesions.
        """
        super().__init__(
            is_train=targets,
            augmentations=build_augmentations(cfg, augment),
            image_format=cfg.INPUT.FORMAT,
            use_instance_mask=cfg.MODEL.MASK_ON,
            instance_mask_format=cfg.INPUT.MASK_FORMAT,
            recompute_boxes=cfg.MODEL.MASK_ON,
        )
        if cfg.INPUT.FORMAT not in ("BGR", "RGB"):
            raise LesionsegError(f"INPUT.FORMAT is BGR or RGB, not {cfg.INPUT.FORMAT}")
        if targets and cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT != "bitmask":
            raise LesionsegError(
                f"INPUT.MASK_FORMAT is bitmask, not {cfg.INPUT.MASK_FORMAT}: prepared data sets hold masks as RLE. The configurations "
                "in configs/ have it; give --config-file, or add INPUT.MASK_FORMAT bitmask"
            )

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Dataset dict -> dict with `image` uint8 (3, H, W) and, in training, `instances`.

        Raises:
            ImageError: the image cannot be read.
            SizeMismatchError: its size is not the one in the json.
        """
        record = copy.deepcopy(dataset_dict)
        image = read_image(record["file_name"])
        utils.check_image_size(record, image)
        annotations = record.get("annotations", [])
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
        inputs = T.AugInput(image, boxes=np.array(boxes, dtype=float).reshape(-1, 4))
        transforms = self.augmentations(inputs)
        image = inputs.image if self.image_format == "BGR" else inputs.image[:, :, ::-1]
        record["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if self.is_train:
            if annotations:
                self._transform_annotations(record, transforms, image.shape[:2])
            else:  # for which Detectron2's mapper makes no masks, and then misses them
                record["instances"] = _no_lesion(*image.shape[:2])
        else:
            record.pop("annotations", None)
        return record
