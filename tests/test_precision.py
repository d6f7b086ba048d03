"""bfloat16: where, and what stays in float32."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from tiny_run import tiny_cfg

from lesionseg.errors import LesionsegError
from lesionseg.precision import autocast, has_bf16, keep_outputs_float32, use_bf16


def test_settings() -> None:
    assert use_bf16("cpu", "on") and not use_bf16("cpu", "off")
    assert use_bf16("cpu", "auto") == has_bf16("cpu")
    with pytest.raises(LesionsegError, match="auto, on, off"):
        use_bf16("cpu", "yes")


def test_autocast_computes_in_bfloat16() -> None:
    layer, x = torch.nn.Linear(4, 4), torch.ones(1, 4)
    with autocast("cpu", "on"):
        assert layer(x).dtype == torch.bfloat16
    with autocast("cpu", "off"):
        assert layer(x).dtype == torch.float32


def test_outputs_stay_in_float32() -> None:
    model = build_model(tiny_cfg()).eval()
    image = {"image": torch.zeros(3, 64, 64, dtype=torch.uint8)}
    seen = []
    model.backbone.register_forward_hook(lambda _m, _i, features: seen.append(features["p2"].dtype))
    keep_outputs_float32(model)
    with torch.inference_mode(), autocast("cpu", "on"):
        (found,) = model.inference([image], do_postprocess=False)
    assert seen == [torch.bfloat16]
    assert len(found) > 0
    assert found.scores.dtype == found.pred_masks.dtype == found.pred_boxes.tensor.dtype == torch.float32
    assert not torch.equal(found.scores, found.scores.bfloat16().float())  # and were never rounded to 8 bits
