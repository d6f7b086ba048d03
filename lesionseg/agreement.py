"""Does an exported model find what the original finds? On real images, at full resolution, through both predictors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from lesionseg.detections import LesionInstances, box_iou
from lesionseg.evaluation import reference_mask
from lesionseg.images import read_image
from lesionseg.masks import configured_lesion_mask
from lesionseg.metrics import confusion, jaccard
from lesionseg.stream import ImageStream

MATCH_IOU = 0.5  # of masks, from which on two instances are the same lesion


@dataclass(frozen=True)
class Limits:
    """What an exported model may differ from the original, by the precision it computes in.

    Attributes:
        score: largest difference of an instance's score, in [0, 1].
        box, mask: smallest mean IoU of an instance's box and mask, in [0, 1].
        missing: largest share of instances that only one of the two finds.
        lesion: smallest mean Jaccard index of the two lesion masks of an image.
        jaccard_drop: largest loss of mean Jaccard index against the reference masks.
    """

    score: float
    box: float
    mask: float
    missing: float
    lesion: float
    jaccard_drop: float


# float32 differs by the order of its sums only. The others round: bfloat16 to 8 bits, int8 to 256 steps.
LIMITS = {
    "float32": Limits(score=0.01, box=0.99, mask=0.99, missing=0.0, lesion=0.995, jaccard_drop=0.001),
    "bf16": Limits(score=0.1, box=0.95, mask=0.95, missing=0.05, lesion=0.98, jaccard_drop=0.005),
    "int8": Limits(score=0.3, box=0.90, mask=0.90, missing=0.10, lesion=0.95, jaccard_drop=0.01),
}


@dataclass(frozen=True)
class Agreement:
    """How two predictors agree on some images.

    Attributes:
        images, instances: numbers; instances are those that the original finds.
        missing: instances that only one of the two finds. Those within `Limits.score` of the score threshold, or of the
            last place of as many as an image may have, do not count.
        score_difference: the largest of a pair's.
        box_iou, mask_iou: means over pairs, in [0, 1]; 1 without pairs. mask_iou_least: the smallest.
        lesion_jaccard: mean Jaccard index of the two lesion masks over images; 1 where both are empty.
        jaccard_original, jaccard_exported: means against the reference masks; None where there are none.
    """

    images: int
    instances: int
    missing: int
    score_difference: float
    box_iou: float
    mask_iou: float
    mask_iou_least: float
    lesion_jaccard: float
    jaccard_original: float | None
    jaccard_exported: float | None

    def problems(self, limits: Limits) -> list[str]:
        """In what the agreement falls short of `limits`; empty where it does not."""
        share = self.missing / max(1, self.instances)
        drop = (self.jaccard_original or 0.0) - (self.jaccard_exported or 0.0)
        tests = [
            (
                share > limits.missing,
                f"{self.missing} of {self.instances} instances found by one of the two only",
            ),
            (self.score_difference > limits.score, f"scores differ by up to {self.score_difference:.4f}"),
            (
                self.box_iou < limits.box,
                f"mean IoU of boxes {self.box_iou:.4f}, at least {limits.box} expected",
            ),
            (
                self.mask_iou < limits.mask,
                f"mean IoU of masks {self.mask_iou:.4f}, at least {limits.mask} expected",
            ),
            (
                self.lesion_jaccard < limits.lesion,
                f"mean Jaccard index of lesion masks {self.lesion_jaccard:.4f}, at least {limits.lesion} expected",
            ),
            (
                drop > limits.jaccard_drop,
                f"mean Jaccard index against the reference masks falls by {drop:.4f}",
            ),
        ]
        return [text for failed, text in tests if failed]

    def rounded(self) -> dict[str, Any]:
        """As a dict for JSON."""
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(self).items()}


def agreement(
    original: ImageStream, exported: ImageStream, records: Sequence[dict[str, Any]], score_margin: float
) -> Agreement:
    """Predict images with both and compare.

    Args:
        records: dicts with "file_name", and, where there is a reference, "annotations", "height" and "width" as in
            registered data sets.
        score_margin: instances of a score so near to the threshold may be found by one of the two only.
    """
    least = original.cfg.LESION.SCORE_THRESHOLD + score_margin
    instances = missing = 0
    scores, boxes, masks, lesions, against = [0.0], [], [], [], []
    for record in records:
        image = read_image(record["file_name"])
        ours, theirs = (_arrays(predictor(image)) for predictor in (original, exported))
        pairs = _pairs(ours, theirs)
        paired = ({k for k, _ in pairs}, {k for _, k in pairs})
        for found, other, known in zip((ours, theirs), (theirs, ours), paired, strict=True):
            # What is the last of a full list for one may just have been left out by the other.
            full = len(other) >= original.cfg.TEST.DETECTIONS_PER_IMAGE
            sure = max(least, float(other.scores[-1]) + score_margin if full else 0.0)
            missing += sum(score > sure and k not in known for k, score in enumerate(found.scores.tolist()))
        instances += len(ours)
        for a, b in pairs:
            scores.append(abs(float(ours.scores[a]) - float(theirs.scores[b])))
            boxes.append(float(box_iou(ours.pred_boxes[[a]], theirs.pred_boxes[[b]])[0, 0]))
            masks.append(jaccard(confusion(ours.pred_masks[a], theirs.pred_masks[b])))
        lesion = [configured_lesion_mask(original.cfg, found) for found in (ours, theirs)]
        lesions.append(jaccard(confusion(*lesion)))
        if "annotations" in record:
            reference = reference_mask(record)
            against.append([jaccard(confusion(reference, mask)) for mask in lesion])
    means = np.mean(against, axis=0).tolist() if against else [None, None]
    return Agreement(
        len(records),
        instances,
        missing,
        max(scores),
        float(np.mean(boxes)) if boxes else 1.0,
        float(np.mean(masks)) if masks else 1.0,
        min(masks, default=1.0),
        float(np.mean(lesions)) if lesions else 1.0,
        *means,
    )


def _arrays(found: Any) -> LesionInstances:
    """Detectron2's Instances as arrays; LesionInstances as they are."""
    if isinstance(found, LesionInstances):
        return found
    fields = (found.pred_boxes.tensor, found.scores, found.pred_classes, found.pred_masks)
    return LesionInstances(found.image_size, *(field.numpy() for field in fields))


def _pairs(ours: LesionInstances, theirs: LesionInstances) -> list[tuple[int, int]]:
    """Indices of instances of one class that overlap most, each used once."""
    if not len(ours) or not len(theirs):
        return []
    encoded = [
        [mask_util.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in found.pred_masks]
        for found in (ours, theirs)
    ]
    overlap = np.asarray(mask_util.iou(encoded[0], encoded[1], [False] * len(theirs)))
    overlap = np.where(ours.pred_classes[:, None] == theirs.pred_classes[None, :], overlap, 0.0)
    pairs: list[tuple[int, int]] = []
    for place in np.argsort(-overlap, axis=None):
        a, b = divmod(int(place), len(theirs))
        if overlap[a, b] < MATCH_IOU:
            break
        if all(a != x and b != y for x, y in pairs):
            pairs.append((a, b))
    return pairs
