"""lesionseg: dermoscopy lesion segmentation with Detectron2's Mask R-CNN. Research software, no medical device."""

from __future__ import annotations

from typing import Any

from lesionseg._detectron2 import install_fallback, quiet_complaints

__version__ = "0.1.0"
__all__ = ["LesionPredictor", "__version__"]

install_fallback()
quiet_complaints()


def __getattr__(name: str) -> Any:
    # Loaded on first use: data preparation and the Detectron2-free runtime must not pay for (or need) torch.
    if name == "LesionPredictor":
        from lesionseg.predictor import LesionPredictor

        return LesionPredictor
    raise AttributeError(f"module 'lesionseg' has no attribute '{name}'")
