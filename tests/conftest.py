"""Fixtures: real images where they are at hand, and small drawn ones that train in seconds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

import lesionseg  # noqa: F401 - makes `import detectron2` work in every test
from lesionseg.prepare import prepare
from lesionseg.prepared import PrepareOptions

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real dermoscopy images; the test is skipped where it is absent."""
    folder = Path(os.environ.get("LESIONSEG_DATA", ROOT.parent / "shared/data"))
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder} (set LESIONSEG_DATA)")
    return folder


def leave_half_written(path: Path) -> Path:
    """What a process leaves that is killed while it writes `path`."""
    program = (
        "import os, sys; from lesionseg.images import atomic_write; writing = atomic_write(sys.argv[1]); "
        "writing.__enter__().write_bytes(b'half'); os.kill(os.getpid(), 9)"
    )
    before = set(path.parent.iterdir())
    subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT, check=False)
    (leftover,) = set(path.parent.iterdir()) - before
    return leftover


def draw_lesions(folder: Path, count: int, size: int = 64, seed: int = 0) -> Path:
    """Write `count` pairs of a brown ellipse on noisy skin: <folder>/images and <folder>/masks."""
    rng = np.random.default_rng(seed)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        mask = np.zeros((size, size), np.uint8)
        centre = rng.integers(size * 3 // 8, size * 5 // 8, 2).tolist()
        axes = rng.integers(size // 6, size // 3, 2).tolist()
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
        image = np.where(mask[..., None] > 0, (50, 70, 110), (160, 180, 220)) + rng.normal(
            0, 8, (size, size, 3)
        )
        name = f"ISIC_{9_900_000 + index}"
        cv2.imwrite(str(folder / "images" / f"{name}.png"), np.clip(image, 0, 255).astype(np.uint8))
        cv2.imwrite(str(folder / "masks" / f"{name}_segmentation.png"), mask)
    return folder


def write_pictures(folder: Path, shapes: Sequence[tuple[int, int]]) -> list[Path]:
    """Write smooth random pictures of (height, width) px: <folder>/0.png, 1.png ..."""
    rng = np.random.default_rng(0)
    for index, (height, width) in enumerate(shapes):
        small = rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)
        image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{index}.png"), image)
    return sorted(folder.iterdir())


def worker_processes(pid: int) -> list[str]:
    """The ids of a process's children, as Linux lists them."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def wait_for_end(processes: list[str]) -> None:
    """Fail where a process is still running after a minute; one that ended but was not fetched counts as ended."""
    deadline = time.monotonic() + 60
    while any(map(_is_running, processes)):
        assert time.monotonic() < deadline, "workers outlive the process that they work for"
        time.sleep(0.1)


def _is_running(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture(scope="session")
def lesion_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of prepared data sets that holds `tiny`: 32 training and 8 validation images of 64 px."""
    base = tmp_path_factory.mktemp("lesions")
    drawn = draw_lesions(base / "drawn", 40)
    prepare(
        PrepareOptions(images=drawn / "images", masks=drawn / "masks", out=base / "datasets/tiny", workers=1)
    )
    return base / "datasets"
