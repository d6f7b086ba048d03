"""LesionPredictor: a trained Detectron2 model; images in, instances out, one at a time or as a stream of batches."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from lesionseg.detections import Detections
from lesionseg.errors import LesionsegError
from lesionseg.loading import class_names, load_weights, prediction_cfg
from lesionseg.precision import autocast, keep_outputs_float32, store_bf16, use_bf16
from lesionseg.stream import ImageStream, Slot
from lesionseg.tta import TestTimeAugmentation


class LesionPredictor(ImageStream):
    """A trained model, ready to use.

    >>> predictor = LesionPredictor("output/isic_mrcnn")
    >>> instances = predictor(cv2.imread("ISIC_0000001.jpg"))
    >>> for record, result in predictor.predict(sorted(Path("imgs").glob("*.jpg")), batch_size=8): ...

    Images are resized and normalised as Detectron2's DefaultPredictor does it (cfg.INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST,
    FORMAT). Instances below cfg.LESION.SCORE_THRESHOLD are left out.

    What `__call__` and `predict` return are Detectron2's Instances on the CPU. Attributes: see ImageStream.

    Raises:
        LesionsegError: run folder, configuration or weights missing; weights that do not fit the configuration.
    """

    # Forked workers share the loaded model's memory and start at once.
    forkable = sys.platform == "linux"

    def __init__(
        self,
        cfg_or_run_folder: CfgNode | str | Path,
        weights: str | Path | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        """
        Args:
            cfg_or_run_folder: a configuration, or a run folder (config.yaml and model_best.pth or model_final.pth).
            weights: a checkpoint; by default the run folder's, or cfg.MODEL.WEIGHTS.
            device: "cpu", "cuda" ...; by default cfg.MODEL.DEVICE.
        """
        self.cfg = prediction_cfg(cfg_or_run_folder, weights, device)
        self.device = torch.device(self.cfg.MODEL.DEVICE)
        self.on_cpu = self.device.type == "cpu"
        self.metadata = Metadata(thing_classes=class_names(self.cfg))
        self._model = build_model(self.cfg).eval().to(memory_format=torch.channels_last)
        load_weights(self._model, self.cfg.MODEL.WEIGHTS)
        keep_outputs_float32(self._model)
        if use_bf16(self.device, self.cfg.LESION.BF16):
            store_bf16(self._model)
        self.multiple = max(1, self._model.backbone.size_divisibility)
        if self.cfg.LESION.TTA.ENABLED:
            self._model = TestTimeAugmentation(self._model, self.cfg)

    def __reduce__(self) -> tuple[Any, ...]:
        return LesionPredictor, (self.cfg,)

    def to_instances(self, detections: Detections) -> Instances:
        """Detectron2's Instances on the CPU."""
        found = detections.instances(self.cfg.LESION.MASK_THRESHOLD)
        return Instances(
            found.image_size,
            pred_boxes=Boxes(torch.from_numpy(found.pred_boxes)),
            scores=torch.from_numpy(found.scores),
            pred_classes=torch.from_numpy(found.pred_classes),
            pred_masks=torch.from_numpy(found.pred_masks),
        )

    def use_threads(self, count: int) -> None:
        """As ImageStream's, and for torch."""
        super().use_threads(count)
        torch.set_num_threads(count)

    @torch.inference_mode()
    def network(self, batch: Sequence[Slot]) -> list[Detections]:
        """The Mask R-CNN on images of one padded size."""
        images = [slot.pixels for slot in batch if slot.pixels is not None]
        inputs = [{"image": torch.from_numpy(image.transpose(2, 0, 1).copy())} for image in images]
        try:
            with autocast(self.device, self.cfg.LESION.BF16):
                outputs = self._model.inference(inputs, do_postprocess=False)
        except torch.cuda.OutOfMemoryError as error:
            raise LesionsegError(
                f"{len(batch)} images of {inputs[0]['image'].shape[1:]} px do not fit the GPU's memory: use a smaller "
                "--batch-size or INPUT.MIN_SIZE_TEST"
            ) from error
        return [
            _detections(output, slot.height, slot.width) for slot, output in zip(batch, outputs, strict=True)
        ]


def _detections(output: Instances, height: int, width: int) -> Detections:
    """The network's raw output for one image, scaled to the original image's px."""
    boxes = output.pred_boxes.clone()
    boxes.scale(width / output.image_size[1], height / output.image_size[0])
    boxes.clip((height, width))
    whole = boxes.nonempty()
    order = torch.argsort(output.scores[whole], descending=True, stable=True)

    def as_numpy(values: torch.Tensor) -> np.ndarray:
        return values[whole][order].cpu().numpy()

    masks = output.pred_masks[:, 0].float()
    return Detections(
        as_numpy(boxes.tensor.float()),
        as_numpy(output.scores.float()),
        as_numpy(output.pred_classes),
        as_numpy(masks),
        height,
        width,
    )
