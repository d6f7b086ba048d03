"""Memory of the training loader's worker processes, with a small data set and with one of 100,000 images."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import islice
from multiprocessing import active_children
from pathlib import Path

import pytest
from conftest import ROOT
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


def worker_memory(root: Path, output: Path) -> float:
    """Of the larger of two loader processes, after 40 batches, in MiB."""
    cfg = training_cfg(root, output, "DATALOADER.NUM_WORKERS", "2")
    loader = iter(LesionTrainer.build_train_loader(cfg))
    for _ in range(40):
        next(loader)
    workers = active_children()
    assert len(workers) == 2
    return max(private_mib(process.pid) for process in workers)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_worker_does_not_grow_with_the_data_set(lesion_root: Path, tmp_path: Path) -> None:
    used = {}
    for count in (1_000, 100_000):
        root = multiply(lesion_root, tmp_path / str(count), count)
        # In a fresh process: what earlier tests left in this one's memory, a worker would copy.
        command = [sys.executable, "-W", "ignore", __file__, str(root), str(tmp_path / "run")]
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": paths}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        used[count] = float(done.stdout.split()[-1])
    # 100,000 records take about 50 MiB as Detectron2 packs them, and ten times that as Python objects.
    assert used[100_000] - used[1_000] < 10, used


def test_order_is_detectron2s() -> None:
    for shuffle in (True, False):
        ours, theirs = (kind(50, shuffle, seed=7) for kind in (LeanTrainingSampler, TrainingSampler))
        assert list(islice(ours, 130)) == list(islice(theirs, 130))


if __name__ == "__main__":
    print(worker_memory(Path(sys.argv[1]), Path(sys.argv[2])))
