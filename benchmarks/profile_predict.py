"""Where the time of a prediction goes, and how near it is to what the processor can do.

python benchmarks/profile_predict.py --images DIR [--device cuda] [--size PX] [--limit N] [--out FILE.json]

LesionPredictor with random weights (see peers.py), on decoded photographs, one at a time, on one core and on all, or on a
GPU, in float32 and, where the device has it, bfloat16. For every stage: milliseconds an image, billions of
multiply-accumulates (GMAC), and their rate as a share of the peak: the best that a large matrix product or
convolution reaches on the same cores, or GPU, in the same precision. torch.profiler names the operators. Stages of a GPU
are waited for one by one, which costs what the processor would else have prepared meanwhile.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import cores, image_files, spread, write_result
from peers import random_predictors
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from lesionseg import LesionPredictor
from lesionseg.errors import run_tool
from lesionseg.images import read_image
from lesionseg.precision import has_bf16

# Side of the matrices of the peak's product: large enough to be limited by arithmetic alone.
MATRIX = {"cpu": 2048, "cuda": 8192}
CHANNELS = 256  # of the peak's convolution, 3x3 over 128x128 px: FPN's and RPN's own shape
TOP = 12  # operators that are listed
REST = "rest"
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


class Stages:
    """Seconds and operations spent in methods of a predictor; a stage inside another counts for itself alone.

    Attributes:
        seconds, operations: stage -> sum over all calls. Operations (additions and multiplications) are known while a
            FlopCounterMode is `counter`.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.operations: dict[str, int] = defaultdict(int)
        self.counter: FlopCounterMode | None = None

    def call(self, name: str, around: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function as stage `name`, which stage `around` encloses ("": none)."""
        wait_for_gpu()
        start, before = time.perf_counter(), self._total()
        result = function(*args, **kwargs)
        wait_for_gpu()
        seconds, operations = time.perf_counter() - start, self._total() - before
        self.seconds[name] += seconds
        self.operations[name] += operations
        if around:
            self.seconds[around] -= seconds
            self.operations[around] -= operations
        return result

    def watch(self, owner: Any, method: str, name: str, around: str) -> None:
        """From now on, calls of `owner.method` are stage `name`."""
        setattr(owner, method, partial(self.call, name, around, getattr(owner, method)))

    def _total(self) -> int:
        return self.counter.get_total_flops() if self.counter else 0


def wait_for_gpu() -> None:
    """Until what was asked of it is done: torch only puts work into its queue."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def watch_stages(predictor: LesionPredictor) -> Stages:
    """`REST` is what is left of the whole call: normalising, padding, picking boxes."""
    stages, model = Stages(), predictor._model
    stages.watch(predictor, "_prepare", "resize", REST)
    stages.watch(model.backbone.bottom_up, "forward", "ResNet-50", "FPN")
    stages.watch(model.backbone, "forward", "FPN", REST)
    stages.watch(model.proposal_generator, "forward", "RPN", REST)
    stages.watch(model.roi_heads, "_forward_box", "box head", REST)
    stages.watch(model.roi_heads, "_forward_mask", "mask head", REST)
    stages.watch(predictor, "to_instances", "mask at full size", REST)
    return stages


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--device", default="cpu", help="cpu (default), or cuda")
    parser.add_argument("--size", type=int, default=512, help="shorter side at the network's input, px")
    parser.add_argument("--limit", type=int, default=5, help="so many images, spread over the folder; 0: all")
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    images = [read_image(path) for path in spread(image_files(args.images), args.limit)]
    write_result(args.out, {"folder": args.images.name, **measure(images, args.size, args.device)})
    return 0


def measure(images: Sequence[np.ndarray], size: int, device: str) -> dict[str, Any]:
    """Stages and peaks on one core and on all, or on a GPU, and the operators that take most of the processor's time on one."""
    with tempfile.TemporaryDirectory() as folder:
        _, predictors = random_predictors(size, images[0], Path(folder), device)
    kinds = ["float32"] + ["bf16"] * has_bf16(device)
    stages = {kind: watch_stages(predictors[kind]) for kind in kinds}
    work = count_operations(predictors["float32"], stages["float32"], images)
    runs = []
    for threads in sorted({1, cores()}) if device == "cpu" else [cores()]:
        torch.set_num_threads(threads)
        for kind in kinds:
            peak = peak_gmac_per_second(DTYPES[kind], device)
            seconds = time_stages(predictors[kind], stages[kind], images)
            runs.append({"cores": threads, "precision": kind, **against_peak(seconds, work, peak)})
    torch.set_num_threads(1)
    top = {kind: top_operators(predictors[kind], images[0]) for kind in kinds}
    return {
        "images": len(images),
        "shorter_side": size,
        "device": device,
        "runs": runs,
        "top_operators": top,
    }


def count_operations(
    predictor: LesionPredictor, stages: Stages, images: Sequence[np.ndarray]
) -> dict[str, float]:
    """GMAC an image of every stage: convolutions and matrix products."""
    with FlopCounterMode(display=False) as stages.counter:
        for image in images:
            stages.call(REST, "", predictor, image)
    stages.counter = None
    return {name: total / 2e9 / len(images) for name, total in stages.operations.items()}


def time_stages(predictor: LesionPredictor, stages: Stages, images: Sequence[np.ndarray]) -> dict[str, float]:
    """Seconds an image of every stage, after one image of warming up."""
    predictor(images[0])
    stages.seconds.clear()
    for image in images:
        stages.call(REST, "", predictor, image)
    return {name: total / len(images) for name, total in stages.seconds.items()}


def peak_gmac_per_second(dtype: torch.dtype, device: str, tries: int = 5) -> float:
    """The best rate of a large matrix product or convolution, with torch's present number of threads or on a GPU.

    Both, because they come from different libraries, and either may know a processor better.
    """
    side = MATRIX[torch.device(device).type]
    left, right = (torch.randn(side, side).to(device, dtype) for _ in range(2))
    pixels = torch.randn(1, CHANNELS, 128, 128).to(device, dtype, memory_format=torch.channels_last)
    layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False).to(
        device, dtype, memory_format=torch.channels_last
    )
    with torch.inference_mode():
        product = side**3 / best_seconds(lambda: left @ right, tries)
        convolution = CHANNELS**2 * 9 * 128**2 / best_seconds(lambda: layer(pixels), tries)
    return max(product, convolution) / 1e9


def best_seconds(work: Callable[[], object], tries: int) -> float:
    times = []
    for _ in range(tries):
        wait_for_gpu()
        start = time.perf_counter()
        work()
        wait_for_gpu()
        times.append(time.perf_counter() - start)
    return min(times)


def against_peak(seconds: dict[str, float], work: dict[str, float], peak: float) -> dict[str, Any]:
    """One row a stage and one for the whole."""
    whole, total = sum(seconds.values()), sum(work.values())
    return {
        "peak_gmac_per_second": round(peak, 1),
        "milliseconds": round(1000 * whole, 1),
        "gmac": round(total, 2),
        "peak_share": round(total / whole / peak, 3),
        "limit_milliseconds": round(1000 * total / peak, 1),
        "stages": [
            {
                "stage": name,
                "milliseconds": round(1000 * taken, 2),
                "share": round(taken / whole, 3),
                "gmac": round(work[name], 2),
                "peak_share": round(work[name] / taken / peak, 3),
            }
            for name, taken in sorted(seconds.items(), key=lambda pair: -pair[1])
        ],
    }


def top_operators(predictor: LesionPredictor, image: np.ndarray) -> list[dict[str, Any]]:
    """The operators that take most of one prediction, by their own time."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        predictor(image)
    events = recorded.key_averages()
    whole = sum(event.self_cpu_time_total for event in events)
    events = sorted(events, key=lambda event: -event.self_cpu_time_total)[:TOP]
    return [
        {
            "operator": event.key,
            "share": round(event.self_cpu_time_total / whole, 3),
            "calls": event.count,
            "milliseconds": round(event.self_cpu_time_total / 1000, 2),
        }
        for event in events
    ]


if __name__ == "__main__":
    run_tool(main)
