"""bfloat16: where, and what stays in float32."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from tiny_run import tiny_cfg

from lesionseg.errors import LesionsegError
from lesionseg.precision import autocast, has_bf16, keep_outputs_float32, store_bf16, use_bf16


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


def test_boxes_to_pool_from_are_not_rounded() -> None:
    """On a ramp, RoIAlign gives the coordinates of its sampling points: bfloat16 would move 301.3 px to 302."""
    model = build_model(tiny_cfg()).eval()
    keep_outputs_float32(model)
    x0, _, x1, _ = box = (301.3, 105.7, 349.3, 153.7)
    ramp = torch.arange(128.0).expand(1, 8, 64, 128)  # 0 to 127, which bfloat16 has exactly
    levels = [ramp[:, :, :: 2**level, :: 2**level].bfloat16() for level in range(4)]
    pooled = model.roi_heads.box_pooler(levels, [Boxes(torch.tensor([box]))])
    assert pooled.dtype == torch.bfloat16
    # p2, stride 4: the middle of the box lies at x / 4 - 0.5 cells.
    assert pooled.float().mean().item() == pytest.approx((x0 + x1) / 2 / 4 - 0.5, abs=0.05)


@pytest.mark.parametrize("norm", ["FrozenBN", "GN"])
def test_stored_bfloat16_weights_change_no_result(norm: str) -> None:
    torch.manual_seed(0)
    model = build_model(tiny_cfg("MODEL.FPN.NORM", norm, "MODEL.FPN.OUT_CHANNELS", "32")).eval()
    picture = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    keep_outputs_float32(model)
    results = []
    for _ in range(2):
        with torch.inference_mode(), autocast("cpu", "on"):
            (found,) = model.inference([{"image": picture}], do_postprocess=False)
        results.append(found)
        store_bf16(model)
    before, after = results
    assert len(before) > 0
    for field in ("scores", "pred_masks", "pred_classes"):
        assert torch.equal(before.get(field), after.get(field))
    assert torch.equal(before.pred_boxes.tensor, after.pred_boxes.tensor)
    kinds = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert (
        kinds["backbone.bottom_up.stem.conv1.weight"]
        == kinds["roi_heads.box_head.fc1.bias"]
        == torch.bfloat16
    )
    assert kinds["roi_heads.mask_head.predictor.weight"] == torch.float32
    assert all(kind == torch.float32 for name, kind in kinds.items() if "norm" in name)
