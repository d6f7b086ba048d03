"""Cut lesions out of images: the crops that `predict.py` saves and that the classifier looks at. Pure functions."""

from __future__ import annotations

import math

import cv2
import numpy as np

from lesionseg.errors import LesionsegError

BACKGROUNDS = ("keep", "blur", "mean", "black")
BLUR_SHARE = 0.05  # standard deviation of the background blur, as a share of the crop's longer side


def crop_box(
    box: tuple[float, float, float, float] | np.ndarray,
    margin: float,
    height: int,
    width: int,
    square: bool = True,
) -> tuple[int, int, int, int]:
    """The pixel window of a lesion's crop.

    Args:
        box: (x0, y0, x1, y1) in px, as Detectron2's XYXY_ABS: x1 and y1 are the far edges.
        margin: added on each side, as a share of the box's longer side; 0.1 adds 10 % left, right, above and below.
        height, width: the image's, in px.
        square: grow the shorter side to the longer one. The window is then moved into the image where it sticks out;
            where the image itself is too small, the side is cut to the image's and the window is no longer square.

    Returns:
        (x0, y0, x1, y1), whole px inside the image, x1 and y1 exclusive, at least 1 px each way.

    Raises:
        LesionsegError: a box that is empty, not finite or wholly outside the image; a negative margin.
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    inside = x0 < width and y0 < height and x1 > 0 and y1 > 0
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or x1 <= x0 or y1 <= y0 or not inside or margin < 0:
        raise LesionsegError(
            f"cannot crop box {(x0, y0, x1, y1)} with margin {margin} from an image of {width}x{height} px: "
            "expected x0 < x1, y0 < y1, some of it inside the image, and a margin of 0 or more"
        )
    pad = margin * max(x1 - x0, y1 - y0)
    side_x, side_y = x1 - x0 + 2 * pad, y1 - y0 + 2 * pad
    if square:
        side_x = side_y = max(side_x, side_y)
    left, right = _span((x0 + x1) / 2, side_x, width, move=square)
    top, bottom = _span((y0 + y1) / 2, side_y, height, move=square)
    return left, top, right, bottom


def _span(centre: float, side: float, limit: int, move: bool) -> tuple[int, int]:
    """Whole px [start, stop) of about `side` px around `centre` within [0, limit)."""
    if not move:
        start, stop = max(0, math.floor(centre - side / 2)), min(limit, math.ceil(centre + side / 2))
        return min(start, limit - 1), max(stop, start + 1)
    length = min(limit, max(1, math.ceil(side)))
    start = min(max(0, round(centre - length / 2)), limit - length)
    return start, start + length


def crop(
    image: np.ndarray,
    mask: np.ndarray | None,
    box: tuple[float, float, float, float] | np.ndarray,
    margin: float,
    size: int | None = None,
    background: str = "keep",
    square: bool = True,
) -> np.ndarray:
    """A lesion's crop.

    Args:
        image: uint8 (H, W, 3).
        mask: bool (H, W), the lesion; needed unless the background is kept.
        box: (x0, y0, x1, y1) in px, see `crop_box`.
        margin: see `crop_box`.
        size: scale the longer side to this many px (area averaging down, cubic up); None keeps the image's resolution.
            With `square`, a crop that the image was too small for is then padded to size x size, centred, with black.
        background: what pixels outside the mask become: "keep" (unchanged), "blur" (smoothed skin), "mean" (the mean
            colour of the background within the crop) or "black".
        square: see `crop_box`.

    Returns:
        uint8 (h, w, 3), a new array; (size, size, 3) with `size` and `square`.

    Raises:
        LesionsegError: an unknown background, a mask that is missing or of another size, or see `crop_box`.
    """
    if background not in BACKGROUNDS:
        raise LesionsegError(f"background is one of {', '.join(BACKGROUNDS)}, not {background!r}")
    if background != "keep" and (mask is None or mask.shape != image.shape[:2]):
        found = "no mask" if mask is None else f"a mask of {mask.shape}"
        raise LesionsegError(f"background {background!r} needs a mask of {image.shape[:2]}, found {found}")
    height, width = image.shape[:2]
    x0, y0, x1, y1 = crop_box(box, margin, height, width, square)
    piece = image[y0:y1, x0:x1].copy()
    if mask is not None and background != "keep":
        outside = ~mask[y0:y1, x0:x1].astype(bool)
        piece[outside] = _background(piece, outside, background)
    return piece if size is None else _resize(piece, size, square)


def _background(piece: np.ndarray, outside: np.ndarray, background: str) -> np.ndarray | int:
    """Values for the pixels of `piece` where `outside` is True."""
    if background == "blur":
        return cv2.GaussianBlur(piece, (0, 0), sigmaX=max(1.0, BLUR_SHARE * max(piece.shape[:2])))[outside]
    if background == "mean" and outside.any():
        return np.rint(piece[outside].mean(axis=0)).astype(np.uint8)
    return 0


def _resize(piece: np.ndarray, size: int, pad_to_square: bool) -> np.ndarray:
    height, width = piece.shape[:2]
    scale = size / max(height, width)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    piece = cv2.resize(piece, (new_width, new_height), interpolation=method)
    if not pad_to_square:
        return piece
    top, left = (size - new_height) // 2, (size - new_width) // 2
    bottom, right = size - new_height - top, size - new_width - left
    return cv2.copyMakeBorder(piece, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(0, 0, 0))
