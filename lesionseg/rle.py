"""COCO's run-length encoding of a mask that covers a part of the image only."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util


def encode_rle(mask: np.ndarray, window: tuple[slice, slice]) -> dict[str, Any]:
    """COCO's compressed RLE of a mask that is empty beyond a window: as pycocotools encodes it, without the rest.

    Args:
        mask: bool (H, W).
        window: its rows and columns that can hold anything.

    Returns:
        {"size": [H, W], "counts": str}.
    """
    (height, width), (rows, columns) = mask.shape, window
    part = mask[rows, columns].view(np.uint8)
    # RLE counts down the columns, here lines with a 0 before each and one after all, so that each begins and ends outside.
    pixels = np.zeros(part.shape[1] * (part.shape[0] + 1) + 1, dtype=np.uint8)
    if part.size:
        lines = pixels[:-1].reshape(part.shape[1], part.shape[0] + 1)
        cv2.transpose(part, lines[:, 1:])  # several times as fast as NumPy
    line, turn = np.divmod(np.flatnonzero(pixels[1:] != pixels[:-1]), part.shape[0] + 1)
    turns = (line + columns.start) * height + turn + rows.start
    starts, stops = turns[0::2], turns[1::2]
    # A run to the foot of one column goes on at the head of the next.
    apart = starts[1:] != stops[:-1]
    starts, stops = starts[np.append(True, apart)[: len(starts)]], stops[np.append(apart, True)[: len(stops)]]
    turns = np.stack([starts, stops], axis=1).ravel()
    counts = np.diff(np.concatenate([[0], turns, [height * width]]))
    if len(turns) and turns[-1] == height * width:
        counts = counts[:-1]
    encoded = mask_util.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": encoded["counts"].decode()}
