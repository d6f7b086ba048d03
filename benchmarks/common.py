"""What every benchmark here shares: ways that take turns, processor seconds, and a description of the machine."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import lesionseg  # noqa: F401 - makes `import detectron2` work
from lesionseg.errors import LesionsegError
from lesionseg.images import atomic_write
from lesionseg.workers import cores

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "opencv-python",
    "Pillow",
    "segmentation-models-pytorch",
    "ultralytics",
    "onnxruntime",
    "openvino",
)
# Noted before a benchmark makes load of its own or changes the number of threads.
AT_START = {
    "load": [round(value, 2) for value in os.getloadavg()],
    "torch_threads": torch.get_num_threads(),
}
# Instructions that decide how fast convolutions and matrix products are, as /proc/cpuinfo names them.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


@dataclass
class Timing:
    """Seconds that each turn of a way took, and processor seconds over all its cores and finished children."""

    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def median(self) -> float:
        return statistics.median(self.seconds)

    def median_processor(self) -> float:
        return statistics.median(self.processor)


def processor_seconds() -> float:
    """Used up so far by this process and its finished children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def take_turns(ways: dict[str, Callable[[int], object]], rounds: int) -> dict[str, Timing]:
    """Time ways in turn, A B A B, so that whatever else the machine does meets all of them.

    Args:
        ways: name -> function of the round's number. Round 0 warms up and is not timed.
        rounds: timed ones.
    """
    timings = {name: Timing() for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start, before = time.perf_counter(), processor_seconds()
            way(number)
            if number:
                timings[name].seconds.append(time.perf_counter() - start)
                timings[name].processor.append(processor_seconds() - before)
    return timings


def spread(items: Sequence[Path], limit: int) -> list[Path]:
    """`limit` of the items, evenly from first to last; all of them when limit is 0."""
    count = min(limit or len(items), len(items))
    return [items[index * len(items) // count] for index in range(count)]


def image_files(folder: Path) -> list[Path]:
    """The photographs of a folder, sorted.

    Raises:
        LesionsegError: no such folder, or no JPEG or PNG in it.
    """
    found = sorted(folder.glob("*")) if folder.is_dir() else []
    images = [path for path in found if path.suffix.lower() in {".jpg", ".jpeg", ".png"}]
    if not images:
        raise LesionsegError(f"{folder}: expected a folder of JPEG or PNG images, found none")
    return images


def write_result(path: Path | None, figures: dict[str, Any]) -> None:
    """Print figures with the machine's description, and write them to a JSON file where one is named."""
    text = json.dumps({**figures, "machine": machine()}, indent=2)
    print(text)
    if path:
        with atomic_write(path) as temporary:
            temporary.write_text(text + "\n")


def machine_folder(device: str) -> str:
    """The name of the results' folder of this machine: that of its GPU, or of its processor and number of cores."""
    facts = machine()
    name = facts["gpu"] if device.startswith("cuda") else f"{facts['processor']} {facts['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def machine() -> dict[str, Any]:
    """Hardware, system, versions, date and load: what a figure depends on."""
    return {
        "date": f"{date.today()}",
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "instructions": [name for name in INSTRUCTIONS if name in _cpuinfo("flags").split()],
        "cores": cores(),
        "ram_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "detectron2": _detectron2(),
        "at_start": AT_START,
    }


def _cpuinfo(key: str) -> str:
    """A line of Linux's /proc/cpuinfo; "" on other systems."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == key), "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _detectron2() -> str:
    import detectron2

    copy = detectron2.__name__ != "detectron2"
    return (
        f"{detectron2.__version__} (copy in LabGym {_version('LabGym')})" if copy else detectron2.__version__
    )
