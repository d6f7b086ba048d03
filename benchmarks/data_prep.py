"""Data preparation against the usual script: one process, cv2.imread for the size, cv2.findContours for polygons.

python benchmarks/data_prep.py --data DIR [--copies N] [--rounds N]

DIR holds images/ and masks/. Both read and write the same files, one after the other, alternating; medians are reported.
The usual script is that of Detectron2's own tutorial for a data set of one's own, with masks in place of its annotations.
Ours does more in that time: it checks both files, looks for duplicates, splits, and keeps every pixel and hole.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from lesionseg.prepare import prepare
from lesionseg.prepared import PrepareOptions


def usual_script(images: Path, masks: Path, out: Path) -> None:
    """Polygon COCO json of a folder, the way most tutorials do it."""
    entries, annotations = [], []
    for number, image_path in enumerate(sorted(images.iterdir())):
        height, width = cv2.imread(str(image_path)).shape[:2]  # type: ignore[union-attr]
        entries.append({"id": number, "file_name": image_path.name, "height": height, "width": width})
        mask = cv2.imread(str(masks / f"{image_path.stem}_segmentation.png"), cv2.IMREAD_GRAYSCALE)
        _, mask = cv2.threshold(mask, 128, 255, cv2.THRESH_BINARY)  # type: ignore[arg-type]
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        contours = [contour for contour in contours if len(contour) >= 3]
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": list(cv2.boundingRect(np.vstack(contours))),
                "area": sum(cv2.contourArea(contour) for contour in contours),
                "segmentation": [contour.flatten().astype(float).tolist() for contour in contours],
            }
        )
    categories = [{"id": 1, "name": "lesion"}]
    coco = {"images": entries, "annotations": annotations, "categories": categories}
    (out / "polygons.json").write_text(json.dumps(coco))


def linked_copies(data: Path, folder: Path, copies: int) -> int:
    """Fill ``folder`` with links to each pair, ``copies`` times under other names; the number of pairs."""
    count = 0
    for image in sorted((data / "images").iterdir()):
        for _ in range(copies):
            name = f"ISIC_{count:07d}" if copies > 1 else image.stem
            for source, target in (
                (image, folder / "images" / f"{name}{image.suffix}"),
                (
                    data / "masks" / f"{image.stem}_segmentation.png",
                    folder / "masks" / f"{name}_segmentation.png",
                ),
            ):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(source.resolve())
            count += 1
    return count


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(data: Path, copies: int = 1, rounds: int = 3) -> dict[str, float]:
    """Median pairs/s of both, their ratio, and the seconds a second run on unchanged input takes."""
    usual, ours, again = [], [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        count = linked_copies(data, folder, copies)
        for number in range(rounds):
            options = PrepareOptions(folder / "images", folder / "masks", folder / f"out{number}")
            usual.append(seconds(lambda: usual_script(folder / "images", folder / "masks", folder)))
            ours.append(seconds(lambda made=options: prepare(made)))  # type: ignore[misc]
            again.append(seconds(lambda made=options: prepare(made)))  # type: ignore[misc]
    return {
        "pairs": count,
        "usual_pairs_per_s": round(count / statistics.median(usual), 2),
        "prepare_pairs_per_s": round(count / statistics.median(ours), 2),
        "ratio": round(statistics.median(usual) / statistics.median(ours), 2),
        "second_run_s": round(statistics.median(again), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--copies", type=int, help="take each pair so many times (default: for about 2,000)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    arguments = parser.parse_args()
    from common import image_files, write_result  # brings torch, which worker processes would load, too

    cv2.setNumThreads(1)
    copies = arguments.copies or max(1, 2000 // len(image_files(arguments.data / "images")))
    figures = measure(arguments.data, copies, arguments.rounds)
    write_result(arguments.out, {"data": arguments.data.name, "copies": copies, **figures})


if __name__ == "__main__":
    main()
