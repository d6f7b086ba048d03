"""Decode a large JPEG photograph at a fraction of its size, when a reduced image is all that is needed.

libjpeg can leave out the high frequencies of each 8x8 block and so decode straight to 1/2, 1/4 or 1/8 of the size,
in a fraction of the time and memory.
"""

from __future__ import annotations

import os

from PIL import Image

from lesionseg.images import turn_upright


def read_reduced_jpeg(
    path: str | os.PathLike[str], least_side: int
) -> tuple[Image.Image, tuple[int, int]] | None:
    """A JPEG file, reduced and upright.

    Args:
        least_side: neither side becomes shorter than this, in px.

    Returns:
        The picture, of mode RGB, and the (height, width) of the full image; None for every file that this is not for or
        that is damaged, to be read (or refused) by `lesionseg.images.read_image`.
    """
    try:
        with Image.open(path) as image:
            if image.format != "JPEG" or image.mode not in ("RGB", "L") or min(image.size) < 2 * least_side:
                return None
            width, height = image.size
            image.draft("RGB", (least_side, least_side))
            image.load()
            upright = turn_upright(image)
            if (upright.width < upright.height) != (image.width < image.height):
                width, height = height, width
            return upright if upright.mode == "RGB" else upright.convert("RGB"), (height, width)
    except Exception:
        return None
