"""What is said of an outlined lesion beyond its outline, on request: ABCD measurements and class probabilities."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lesionseg.features import FEATURES, Abcd, measure

if TYPE_CHECKING:  # scikit-learn and torchvision's networks are loaded only where a classifier is asked for
    from lesionseg.classifier import CropClassifier, Opinion

# Without area_px: predictions.csv has a column of that name, with the area of the whole mask.
ABCD_COLUMNS = tuple(name for name in FEATURES if name != "area_px")


@dataclass(frozen=True)
class Annotation:
    """Of one instance: measurements and opinion, None where not asked for, or where the instance has no pixels."""

    abcd: Abcd | None = None
    opinion: Opinion | None = None

    @property
    def text(self) -> str:
        """For the overlay: class and probability; "" without an opinion."""
        if self.opinion is None:
            return ""
        return f"{self.opinion.label} {max(self.opinion.probabilities.values()):.0%}"


class Annotator:
    """Annotates instances; what it is asked for is the same for all images of a run."""

    def __init__(self, abcd: bool = False, classifier: CropClassifier | None = None) -> None:
        """
        Args:
            abcd: measure the ABCD features.
            classifier: ask it for each instance.
        """
        self.abcd, self.classifier = abcd, classifier

    @property
    def columns(self) -> tuple[str, ...]:
        """Of predictions.csv: diagnosis ("uncertain" where the classifier abstains), p_<class>, and ABCD_COLUMNS."""
        classes = () if self.classifier is None else self.classifier.classes
        opinion = ("diagnosis", *(f"p_{name}" for name in classes)) if self.classifier else ()
        return (*opinion, *(ABCD_COLUMNS if self.abcd else ()))

    @property
    def keys(self) -> tuple[str, ...]:
        """What `row` holds."""
        return (
            *(("diagnosis", "probabilities") if self.classifier else ()),
            *(("abcd",) if self.abcd else ()),
        )

    def fingerprint(self) -> dict[str, str]:
        """What identifies the classifier, for the journal: results of two never mix. Empty without one."""
        if self.classifier is None:
            return {}
        model = hashlib.sha256(b"".join(path.read_bytes() for path in self.classifier.files)).hexdigest()
        return {"classifier (SHA-256)": model, "classifier route": self.classifier.route}

    def __call__(self, image: np.ndarray, masks: Iterable[np.ndarray]) -> list[Annotation]:
        """
        Args:
            image: uint8 (H, W, 3) BGR.
            masks: of the instances, bool (H, W).
        """
        return [self._annotate(image, mask) if mask.any() else Annotation() for mask in masks]

    def _annotate(self, image: np.ndarray, mask: np.ndarray) -> Annotation:
        opinion = self.classifier(image, mask) if self.classifier else None
        known = opinion.abcd if opinion else None
        return Annotation((known or measure(image, mask)) if self.abcd else None, opinion)

    def row(self, annotation: Annotation) -> dict[str, Any]:
        """For JSON: diagnosis, probabilities by class, abcd by feature (None where not measured); see `keys`."""
        row: dict[str, Any] = dict.fromkeys(self.keys)
        if annotation.opinion is not None:
            row["diagnosis"] = annotation.opinion.label
            row["probabilities"] = {name: round(p, 6) for name, p in annotation.opinion.probabilities.items()}
        if annotation.abcd is not None:
            values = annotation.abcd.values
            row["abcd"] = {name: None if np.isnan(v) else float(f"{v:.6g}") for name, v in values.items()}
        return row


def load_classifier(run: str | Path) -> CropClassifier:
    """A classifier for `Annotator`, on the CPU: it works in the processes that write, while a GPU finds the next lesions."""
    from lesionseg.classifier import CropClassifier

    return CropClassifier(run, device="cpu")


def csv_cells(row: dict[str, Any]) -> dict[str, Any]:
    """`Annotator.row` as cells of predictions.csv, by column."""
    cells = {"diagnosis": row["diagnosis"]} if "diagnosis" in row else {}
    cells |= {f"p_{name}": p for name, p in (row.get("probabilities") or {}).items()}
    abcd = row.get("abcd") or {}
    return cells | {name: abcd[name] for name in ABCD_COLUMNS if name in abcd}
