"""Use a trained classifier: class probabilities for a lesion in an image, or for exported crops."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode

from lesionseg import classifier_features
from lesionseg.classifier_calibration import pool
from lesionseg.classifier_config import classifier_cfg
from lesionseg.classifier_data import MODEL_FEATURES, Crop, feature_table, network_input
from lesionseg.classifier_loop import BEST, image_logits, network_logits
from lesionseg.classifier_network import CropNetwork
from lesionseg.classifier_results import label_of
from lesionseg.config import available_device, setup_cfg
from lesionseg.crop_export import CropSettings
from lesionseg.crops import crop
from lesionseg.errors import LesionsegError
from lesionseg.features import Abcd, measure
from lesionseg.runs import CONFIG

MODEL = "classifier.json"


@dataclass(frozen=True)
class Opinion:
    """What the classifier says of one lesion.

    Attributes:
        probabilities: by class, adding up to 1; for equally common classes, see `classifier_calibration`.
        label: the most probable class, or "uncertain" where its probability is below the run's threshold.
        abcd: measurements of the lesion; None where the route does not need them.
    """

    probabilities: dict[str, float]
    label: str
    abcd: Abcd | None


class CropClassifier:
    """A trained classifier, ready to use.

    >>> classifier = CropClassifier("output/classifier")
    >>> classifier(image_bgr, mask).probabilities
    {'nevus': 0.81, 'melanoma': 0.12, ...}
    """

    def __init__(self, run: str | Path, route: str | None = None, device: str | None = None) -> None:
        """
        Args:
            run: folder that tools/train_classifier.py wrote.
            route: one of the run's routes; by default the one it was trained for.
            device: "cpu", "cuda" ...; by default the run's.

        Raises:
            LesionsegError: no such run or route.
        """
        self.folder = Path(run)
        if not (self.folder / MODEL).is_file():
            raise LesionsegError(
                f"{self.folder} is no finished classifier run: expected {MODEL} in it. Train one with tools/train_classifier.py"
            )
        self.model: dict[str, Any] = json.loads((self.folder / MODEL).read_text(encoding="utf-8"))
        self.route = route or self.model["route"]
        if self.route not in self.model["routes"]:
            raise LesionsegError(
                f"{self.folder} has the routes {', '.join(self.model['routes'])}, not {self.route!r}"
            )
        self.classes: list[str] = self.model["classes"]
        self.settings = CropSettings(**self.model["crops"])
        chosen = self.model["routes"][self.route]
        self.members, self.exponents, self.abstain_below = (
            chosen[key] for key in ("members", "exponents", "abstain_below")
        )
        cfg = setup_cfg(self.folder / CONFIG, base=classifier_cfg())
        cfg.DEVICE = available_device(device or cfg.DEVICE)
        self.models = Models(self.folder, cfg, len(self.classes))

    @property
    def files(self) -> list[Path]:
        """What the answers come from."""
        names = [MODEL, *([BEST] if "network" in self.members else [])]
        names += [classifier_features.FILE] if self.members != ["network"] else []
        return [self.folder / name for name in names]

    def __call__(self, image: np.ndarray, mask: np.ndarray) -> Opinion:
        """Classify one lesion.

        Args:
            image: uint8 (H, W, 3) BGR.
            mask: bool (H, W), not empty.
        """
        x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
        settings, box = self.settings, (x, y, x + width, y + height)
        abcd = measure(image, mask) if any(member != "network" for member in self.members) else None
        logs = []
        for member in self.members:
            if member == "network":
                piece = crop(image, mask, box, settings.margin, settings.size, settings.background)
                logs.append(self.models.network_log_probabilities(piece))
            else:
                assert abcd is not None
                row = np.array([[abcd.values[name] for name in MODEL_FEATURES]])
                logs.append(classifier_features.log_probabilities(self.models.features[member], row))
        probabilities = pool(logs, self.exponents)[0]
        named = dict(zip(self.classes, probabilities.tolist(), strict=True))
        return Opinion(named, label_of(probabilities, self.classes, self.abstain_below), abcd)

    def predict(self, crops: Sequence[Crop]) -> np.ndarray:
        """Probabilities of exported crops, float (n, classes).

        Raises:
            LesionsegError: a crop cannot be read.
        """
        return pool([self.models.log_probabilities(member, crops) for member in self.members], self.exponents)


class Models:
    """The models of a run, loaded when first asked for: "network", and "logistic" and "boosting" on ABCD features."""

    def __init__(self, folder: Path, cfg: CfgNode, classes: int) -> None:
        self.folder, self.cfg, self.classes = folder, cfg, classes

    @cached_property
    def network(self) -> CropNetwork:
        path = self.folder / BEST
        model = CropNetwork(self.cfg.CLASSIFIER.ARCH, self.classes).to(memory_format=torch.channels_last)
        try:
            model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except (OSError, RuntimeError) as error:
            raise LesionsegError(
                f"{path} does not fit {self.folder / CONFIG}: {error}. Train again"
            ) from error
        return model.to(self.cfg.DEVICE).eval()

    @cached_property
    def features(self) -> dict[str, Any]:
        return classifier_features.load(self.folder)

    def log_probabilities(self, member: str, crops: Sequence[Crop]) -> np.ndarray:
        """Logits or log probabilities of crops, float (n, classes)."""
        if member == "network":
            return network_logits(self.network, crops, self.cfg.CLASSIFIER.INPUT_SIZE, self.cfg)
        return classifier_features.log_probabilities(self.features[member], feature_table(crops))

    def network_log_probabilities(self, piece: np.ndarray) -> np.ndarray:
        """Logits (1, classes) of one crop, uint8 (h, w, 3) BGR."""
        pixels = network_input(piece, self.cfg.CLASSIFIER.INPUT_SIZE)[:, :, ::-1].transpose(2, 0, 1)
        return image_logits(self.network, torch.from_numpy(np.ascontiguousarray(pixels))[None], self.cfg)
