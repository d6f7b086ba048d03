"""Drawn dermoscopy: images, masks and labels that look the part, for demos and tests without any download.

Every image depends on (seed, index) alone. Every tenth image is a second view of the lesion before it: turned,
moved and lit differently, with other hair.

The label follows a rule that can be seen, after the ABCD rule's criteria (Stolz et al. 1994). A lesion is malignant
when at least two of these three hold:

- asymmetry: the outline is far from symmetric about both principal axes;
- border: pigment ends abruptly, at an uneven edge (otherwise it fades out softly);
- colours: four or more colours among light brown, dark brown, black, blue-grey, red and white (otherwise one or two).

Malignant lesions have colours and one or both of the others; of the benign ones, one in six has asymmetry or an
abrupt border alone, the rest none. This is a rule for drawings. It diagnoses nothing.
"""

from __future__ import annotations

import csv
import json
import logging
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from lesionseg.errors import LesionsegError
from lesionseg.images import atomic_write, write_image
from lesionseg.workers import cores, died, each, in_processes

logger = logging.getLogger(__name__)

SECOND_VIEW_EVERY = 10
LABEL_COLUMNS = ("isic_id", "benign_malignant", "diagnosis", "lesion_id", "patient_id")
SIZES = (64, 2048)
# CIELAB (L* 0-100, a*, b*) of the pigment colours as they appear on light skin; our own choice, by eye.
LIGHT_BROWN, DARK_BROWN, BLACK = (52, 17, 29), (30, 14, 20), (13, 4, 5)
BLUE_GREY, RED, WHITE = (45, -1, -10), (47, 32, 19), (79, 6, 9)


@dataclass(frozen=True)
class Lesion:
    """What is the same in every view of a lesion. Lengths are shares of its mean radius."""

    asymmetric: bool
    abrupt: bool
    many_colours: bool
    area: float  # share of the image
    waves: tuple[tuple[int, float, float], ...]  # outline: (order, amplitude, phase)
    squeeze: float  # short over long axis
    network: bool
    globules: int
    texture_seed: int

    @property
    def malignant(self) -> bool:
        """The rule: at least two of the three criteria."""
        return self.asymmetric + self.abrupt + self.many_colours >= 2


@dataclass(frozen=True)
class Drawing:
    """image: uint8 (S, S, 3) BGR; mask: bool (S, S); and the lesion it shows."""

    image: np.ndarray
    mask: np.ndarray
    lesion: Lesion


def lesion_number(index: int) -> int:
    """The lesion that image `index` shows, as the index of its first image."""
    return index - 1 if index % SECOND_VIEW_EVERY == SECOND_VIEW_EVERY - 1 else index


def draw_criteria(rng: np.random.Generator) -> tuple[bool, bool, bool]:
    """(asymmetric, abrupt, many colours); both classes are equally likely."""
    if rng.random() < 0.5:
        asymmetric, abrupt = ((True, True), (True, True), (True, False), (False, True))[rng.integers(4)]
        return asymmetric, abrupt, True
    if rng.random() < 1 / 6:
        asymmetric = bool(rng.random() < 0.5)
        return asymmetric, not asymmetric, False
    return False, False, False


def draw_lesion(seed: int, number: int) -> Lesion:
    """The lesion of image `number`."""
    rng = np.random.default_rng([seed, number, 1])
    asymmetric, abrupt, many = draw_criteria(rng)
    # Waves of order 2 are the ellipse's own; odd orders break the symmetry, even ones with a free phase as well.
    waves = [(order, rng.uniform(0.01, 0.1) / order, rng.uniform(0, 2 * math.pi)) for order in (2, 3, 4, 5)]
    if asymmetric:
        waves += [(1, 0.25 * rng.uniform(0.7, 1.2), rng.uniform(0, 2 * math.pi))]
        waves += [(k, 0.45 * rng.uniform(0.5, 1) / k, rng.uniform(0, 2 * math.pi)) for k in (2, 3, 4)]
    if abrupt:
        waves += [(k, 0.35 * rng.uniform(0.4, 1) / k, rng.uniform(0, 2 * math.pi)) for k in range(7, 13)]
    return Lesion(
        asymmetric,
        abrupt,
        many,
        area=float(np.clip(rng.lognormal(math.log(0.16), 0.6), 0.02, 0.6)),
        waves=tuple((int(order), float(amplitude), float(phase)) for order, amplitude, phase in waves),
        squeeze=float(rng.uniform(0.7, 1.0)),
        network=bool(rng.random() < 0.5),
        globules=int(rng.integers(8, 40)) if rng.random() < 0.35 else 0,
        texture_seed=int(rng.integers(2**31)),
    )


def draw(seed: int, index: int, size: int) -> Drawing:
    """Draw image `index` of a series.

    Args:
        size: side of the square image in px.
    """
    lesion = draw_lesion(seed, lesion_number(index))
    rng = np.random.default_rng([seed, index, 2])
    skin, tone = _skin(rng, size)
    field, along, across = _shape(lesion, rng, size)
    mask = field > 0
    image = _pigment(skin, tone, lesion, field, along, across, size)
    image = _artefacts(image, rng, size)
    image += rng.normal(0, 2.0, image.shape).astype(np.float32)
    return Drawing(np.clip(image, 0, 255).astype(np.uint8), mask, lesion)


def _noise(rng: np.random.Generator, size: int, scale: float) -> np.ndarray:
    """Smooth noise of mean 0 and deviation 1; `scale` is the size of its blobs as a share of the image."""
    cells = max(2, round(1 / scale))
    coarse = rng.standard_normal((cells + 2, cells + 2)).astype(np.float32)
    smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return (smooth - smooth.mean()) / (smooth.std() + 1e-6)


def _bgr(lab: tuple[float, float, float] | np.ndarray) -> np.ndarray:
    """One CIELAB colour as BGR, float32 in 0-255."""
    pixel = cv2.cvtColor(np.array([[lab]], dtype=np.float32), cv2.COLOR_LAB2BGR)
    return pixel[0, 0] * 255


def _skin(rng: np.random.Generator, size: int) -> tuple[np.ndarray, float]:
    """Skin as float32 (S, S, 3) BGR, and its tone from 0 (dark) to 1 (light)."""
    tone = float(rng.beta(1.7, 1.1))
    lab = np.array([42 + 36 * tone, rng.uniform(10, 17) + 3 * (1 - tone), rng.uniform(13, 21)])
    image = np.broadcast_to(_bgr(lab), (size, size, 3)).astype(np.float32).copy()
    light = (
        1 + 0.05 * _noise(rng, size, 0.6) + 0.02 * _noise(rng, size, 0.08) + 0.012 * _noise(rng, size, 0.02)
    )
    image *= light[..., None]
    image[..., 2] += 2.5 * _noise(rng, size, 0.15)  # blood shows through here more, there less
    # The skin's own furrows: two sets of faint wavy lines across each other.
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    angle = rng.uniform(0, math.pi)
    for turn in (0.0, rng.uniform(0.9, 1.4)):
        run = x * math.cos(angle + turn) + y * math.sin(angle + turn) + 0.012 * _noise(rng, size, 0.12)
        image *= (1 - 0.025 * np.clip(np.sin(run * rng.uniform(150, 220)), 0.6, 1) * 1.5 + 0.0225)[..., None]
    return image, tone


def _shape(lesion: Lesion, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(field, along, across): depth inside the lesion in units of its radius, > 0 inside; and its own axes."""
    radius = math.sqrt(lesion.area / math.pi / lesion.squeeze)
    reach = 0.38 if rng.random() < 0.12 else 0.08  # some are cut by the border
    centre = 0.5 + rng.uniform(-reach, reach, 2)
    turn = rng.uniform(0, 2 * math.pi)
    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size
    dx, dy = x - centre[0], y - centre[1]
    along = (dx * math.cos(turn) + dy * math.sin(turn)) / radius
    across = (-dx * math.sin(turn) + dy * math.cos(turn)) / radius / lesion.squeeze
    theta = np.arctan2(across, along)
    outline = np.ones_like(theta)
    for order, amplitude, phase in lesion.waves:
        outline += amplitude * np.cos(order * theta + phase)
    field = outline - np.hypot(along, across)
    return field, along, across


def _on_lesion(texture: np.ndarray, along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """A texture fixed to the lesion's own axes (so that it turns with it), covering -2..2 radii."""
    side = texture.shape[0]
    map_x, map_y = ((values + 2) / 4 * (side - 1) for values in (along, across))
    return cv2.remap(
        texture,
        map_x.astype(np.float32),
        map_y.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )


def _pigment(
    skin: np.ndarray,
    tone: float,
    lesion: Lesion,
    field: np.ndarray,
    along: np.ndarray,
    across: np.ndarray,
    size: int,
) -> np.ndarray:
    """Lay the lesion's colours and structures over the skin."""
    rng = np.random.default_rng(lesion.texture_seed)
    fine = max(128, size)

    def texture(scale: float) -> np.ndarray:
        return _on_lesion(_noise(rng, fine, scale), along, across)

    # On darker skin all pigment is darker.
    shade = 0.6 + 0.4 * tone

    def colour(lab: tuple[float, float, float]) -> np.ndarray:
        return _bgr((lab[0] * shade, lab[1], lab[2]))

    depth = np.clip(field * 1.6 + 0.18 * texture(0.12), 0, 1)[..., None]
    core = DARK_BROWN if rng.random() < 0.6 or lesion.many_colours else (40, 17, 25)
    paint = colour(LIGHT_BROWN) * (1 - depth) + colour(core) * depth
    if lesion.many_colours:
        # Blotches, each in a place of its own around the centre.
        start = rng.uniform(0, 2 * math.pi)
        for step, lab in enumerate(rng.permutation([BLACK, BLUE_GREY, RED, WHITE])):
            angle = start + (step + rng.uniform(-0.25, 0.25)) * math.pi / 2
            away, reach = rng.uniform(0.35, 0.55), rng.uniform(0.28, 0.42)
            distance = np.hypot(along - away * math.cos(angle), across - away * math.sin(angle))
            ragged = 0.09 * texture(0.12) + 0.05 * texture(0.05)
            patch = 0.92 / (1 + np.exp(np.clip((distance - reach + ragged) / 0.06, -30, 30)))
            paint = paint * (1 - patch[..., None]) + colour(tuple(lab)) * patch[..., None]
    paint *= (1 + 0.06 * texture(0.05))[..., None]
    if lesion.network:
        # The ridges of a warped grid, strongest towards the edge.
        # Its mesh has the same width in small lesions and in large ones.
        frequency = 2 * math.pi * math.sqrt(lesion.area / math.pi) / rng.uniform(0.026, 0.034)
        bend_x, bend_y = 3 / frequency * texture(0.1), 3 / frequency * texture(0.1)
        u, v = (along + across * 0.5 + bend_x) * frequency, (across * 0.87 + bend_y) * frequency
        ridges = 1 - np.clip(np.cos(u) + np.cos(v) + np.cos(u - v) + 1.5, 0, 1.6) / 1.6  # honeycomb
        paint *= (1 - 0.28 * ridges * np.clip(1.3 - depth[..., 0], 0, 1))[..., None]
    for _ in range(lesion.globules):
        x, y = rng.uniform(-0.75, 0.75, 2)
        dot = np.exp(-((along - x) ** 2 + (across - y) ** 2) / rng.uniform(0.03, 0.06) ** 2)
        paint *= (1 - 0.55 * dot)[..., None]
    softness = np.full_like(field, 0.012) if lesion.abrupt else 0.07 + 0.02 * texture(0.2)
    density = 0.97 if lesion.abrupt else 0.88
    # Half of the pigment is there at the mask's edge.
    alpha = density / (1 + np.exp(np.clip(-field / softness, -30, 30)))
    return skin * (1 - alpha[..., None]) + paint * alpha[..., None]


def _artefacts(image: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """Hair, ruler, gel bubbles and the dermatoscope's dark corners, each in some of the images."""
    image = np.ascontiguousarray(image, dtype=np.float32)
    if rng.random() < 0.15:
        _bubbles(image, rng, size)
    if rng.random() < 0.12:
        _ruler(image, rng, size)
    if rng.random() < 0.4:
        _hair(image, rng, size)
    if rng.random() < 0.2:
        y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
        distance = np.hypot(x - rng.normal(0, 0.02), y - rng.normal(0, 0.02))
        edge = (rng.uniform(0.52, 0.62) - distance) / 0.015
        image *= (0.04 + 0.96 / (1 + np.exp(-np.clip(edge, -30, 30))))[..., None]
    return image


def _hair(image: np.ndarray, rng: np.random.Generator, size: int) -> None:
    along = np.linspace(0, 1, 24)[:, None]
    heading = rng.uniform(0, math.pi)
    for _ in range(rng.integers(2, 18)):
        # Quadratic Bezier curves that lie roughly one way, as hair does.
        middle = rng.uniform(0, size, 2)
        angle = heading + rng.normal(0, 0.35)
        half = np.array([math.cos(angle), math.sin(angle)]) * rng.uniform(0.2, 0.7) * size
        start, end, bend = middle - half, middle + half, middle + rng.normal(0, 0.1 * size, 2)
        points = (1 - along) ** 2 * start + 2 * along * (1 - along) * bend + along**2 * end
        layer = np.zeros(image.shape[:2], np.uint8)
        thickness = max(1, round(size * rng.uniform(0.002, 0.006)))
        cv2.polylines(
            layer, [np.round(points * 16).astype(np.int32)], False, 255, thickness, cv2.LINE_AA, shift=4
        )
        alpha = (layer.astype(np.float32) / 255 * rng.uniform(0.6, 0.95))[..., None]
        image[:] = image * (1 - alpha) + alpha * rng.uniform(12, 60) * np.array([0.8, 0.9, 1.1])


def _ruler(image: np.ndarray, rng: np.random.Generator, size: int) -> None:
    step, offset = size * rng.uniform(0.03, 0.05), size * rng.uniform(0.02, 0.06)
    upright = rng.random() < 0.5
    for tick in range(int(size / step) + 1):
        length = size * (0.07 if tick % 10 == 0 else 0.05 if tick % 5 == 0 else 0.03)
        ends = [(round(tick * step), round(offset)), (round(tick * step), round(offset + length))]
        start, end = (point[::-1] if upright else point for point in ends)
        cv2.line(image, start, end, (35.0, 35.0, 40.0), max(1, size // 256), cv2.LINE_AA)


def _bubbles(image: np.ndarray, rng: np.random.Generator, size: int) -> None:
    y, x = np.mgrid[:size, :size].astype(np.float32)
    for _ in range(rng.integers(2, 12)):
        centre, radius = rng.uniform(0, size, 2), size * rng.uniform(0.008, 0.05)
        distance = np.hypot(x - centre[0], y - centre[1]) / radius
        rim = np.exp(-(((distance - 1) / 0.12) ** 2))
        image *= (1 + 0.07 * (distance < 1) - 0.25 * rim)[..., None]
        glint = np.hypot(x - centre[0] + 0.4 * radius, y - centre[1] + 0.4 * radius) / radius
        image += (150 * np.exp(-((glint / 0.22) ** 2)))[..., None]


def image_id(index: int) -> str:
    """An id of the ISIC archive's form, from a range that the archive does not use."""
    return f"ISIC_{9_000_000 + index:07d}"


def _label_row(seed: int, index: int) -> dict[str, str]:
    number = lesion_number(index)
    malignant = draw_lesion(seed, number).malignant
    return {
        "isic_id": image_id(index),
        "benign_malignant": "malignant" if malignant else "benign",
        "diagnosis": "melanoma" if malignant else "nevus",
        "lesion_id": f"IL_{number:07d}",
        "patient_id": f"IP_{number:07d}",
    }


def _write_pair(index: int, seed: int, size: int, folder: Path) -> None:
    image = folder / "images" / f"{image_id(index)}.jpg"
    mask = folder / "masks" / f"{image_id(index)}_segmentation.png"
    if image.is_file() and mask.is_file():
        return  # written whole, by a run that was stopped
    drawing = draw(seed, index, size)
    write_image(mask, drawing.mask.astype(np.uint8) * 255)
    write_image(image, drawing.image)


def _died(index: int) -> None:
    raise died(image_id(index))


def make_synthetic(folder: Path, count: int, size: int, seed: int, workers: int | None = None) -> int:
    """Write `count` pairs to `folder`: images/*.jpg, masks/*_segmentation.png, labels.csv, synthetic.json.

    Returns:
        The number of malignant images.

    Raises:
        LesionsegError: count or size out of range; `folder` holds something else.
    """
    if count < 1 or count > 1_000_000:
        raise LesionsegError(f"--count {count}: expected 1 to 1000000 images")
    if not SIZES[0] <= size <= SIZES[1]:
        raise LesionsegError(f"--size {size}: expected {SIZES[0]} to {SIZES[1]} px")
    settings = {"count": count, "size": size, "seed": seed}
    _claim(folder, settings)
    for part in ("images", "masks"):
        (folder / part).mkdir(exist_ok=True)
    # A forked copy of a process with threads (a notebook, a test with torch) can stand still; a fresh one cannot.
    write = partial(_write_pair, seed=seed, size=size, folder=folder)
    written = in_processes(each, write, range(count), workers or cores(), _died, together=8)
    for _ in tqdm(written, total=count, unit="image", desc="drawing", disable=None):
        pass
    rows = [_label_row(seed, index) for index in range(count)]
    labels = folder / "labels.csv"
    if not labels.is_file():  # a data set prepared from these files knows them by their time of change
        with atomic_write(labels) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, LABEL_COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    return sum(row["benign_malignant"] == "malignant" for row in rows)


def _claim(folder: Path, settings: dict[str, int]) -> None:
    """Make `folder` ours, or continue in it when it was begun with the same settings."""
    record = folder / "synthetic.json"
    if record.is_file():
        found = json.loads(record.read_text())
        if found != settings:
            raise LesionsegError(
                f"{folder} holds synthetic images made with {found}, not {settings}; choose another --out"
            )
        return
    if folder.exists() and any(folder.iterdir()):
        raise LesionsegError(f"{folder} is not empty, and not of this tool's making; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(record) as temporary:
        Path(temporary).write_text(json.dumps(settings) + "\n")
