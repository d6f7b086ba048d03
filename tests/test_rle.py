"""Run-length encoding against pycocotools."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util

from lesionseg.rle import encode_rle


def test_rle_is_that_of_pycocotools():
    rng = np.random.default_rng(0)
    whole = slice(0, 9), slice(0, 7)
    cases = [(np.zeros((9, 7), bool), whole), (np.ones((9, 7), bool), whole)]
    for _ in range(60):
        top, left = rng.integers(0, 5, 2)
        window = (
            slice(int(top), int(rng.integers(top + 1, 10))),
            slice(int(left), int(rng.integers(left + 1, 8))),
        )
        mask = np.zeros((9, 7), bool)
        mask[window] = rng.random(mask[window].shape) > 0.4
        cases.append((mask, window))
    cases.append((np.zeros((9, 7), bool), (slice(0, 0), slice(0, 0))))
    for mask, window in cases:
        expected = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
        assert encode_rle(mask, window) == {"size": [9, 7], "counts": expected["counts"].decode()}
