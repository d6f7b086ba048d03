"""The sizes that a stream brings images to, against Detectron2."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import transforms as T

from lesionseg.stream import network_size


@pytest.mark.parametrize("shortest, longest", [(192, 320), (512, 1024), (800, 1333), (7, 7)])
def test_network_size_is_detectron2s(shortest: int, longest: int) -> None:
    rng = np.random.default_rng(0)
    sizes = [
        (1, 1),
        (1, 5000),
        (767, 1022),
        (1022, 767),
        (2304, 3072),
        *rng.integers(1, 5000, (500, 2)).tolist(),
    ]
    for height, width in sizes:
        expected = T.ResizeShortestEdge.get_output_shape(height, width, shortest, longest)
        assert network_size(height, width, shortest, longest) == expected
