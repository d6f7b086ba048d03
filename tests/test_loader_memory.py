"""Memory of the training loader's worker processes, with a small data set and with one of 100,000 images."""

from __future__ import annotations

import json
import re
import sys
from itertools import islice
from multiprocessing import active_children
from pathlib import Path

import pytest
from detectron2.data.samplers import TrainingSampler
from training import training_cfg

from lesionseg.register import read_coco
from lesionseg.sampling import LeanTrainingSampler
from lesionseg.trainer import LesionTrainer


def multiply(root: Path, out: Path, count: int) -> Path:
    """The prepared data set `tiny` with `count` training records, which share the images' files."""
    folder = out / "datasets/tiny"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text((root / "tiny/summary.json").read_text())
    for split in ("train", "val"):
        coco = read_coco(root / f"tiny/{split}.json")
        coco["info"]["image_root"] = str((root / "tiny" / coco["info"]["image_root"]).resolve())
        if split == "train":
            images, annotations = coco["images"], coco["annotations"]
            coco["images"] = [{**images[n % len(images)], "id": n} for n in range(count)]
            coco["annotations"] = [
                {**annotations[n % len(images)], "id": n, "image_id": n} for n in range(count)
            ]
        (folder / f"{split}.json").write_text(json.dumps(coco))
    (folder / "split.csv").write_text((root / "tiny/split.csv").read_text())
    return out / "datasets"


def private_mib(pid: int | None) -> float:
    """Memory of a process that it shares with no other, in MiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kib) for kib in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE)) / 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_worker_does_not_grow_with_the_data_set(lesion_root: Path, tmp_path: Path) -> None:
    used = {}
    for count in (1_000, 100_000):
        root = multiply(lesion_root, tmp_path / str(count), count)
        cfg = training_cfg(root, tmp_path / "run", "DATALOADER.NUM_WORKERS", "2")
        before = {process.pid for process in active_children()}
        loader = iter(LesionTrainer.build_train_loader(cfg))
        for _ in range(40):
            next(loader)
        workers = [process.pid for process in active_children() if process.pid not in before]
        assert len(workers) == 2
        used[count] = max(map(private_mib, workers))
        del loader
    # 100,000 records take about 50 MiB as Detectron2 packs them, and ten times that as Python objects.
    assert used[100_000] - used[1_000] < 8, used


def test_order_is_detectron2s() -> None:
    for shuffle in (True, False):
        ours, theirs = (kind(50, shuffle, seed=7) for kind in (LeanTrainingSampler, TrainingSampler))
        assert list(islice(ours, 130)) == list(islice(theirs, 130))
