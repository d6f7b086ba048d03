"""make bench: every benchmark, one after the other; figures to this machine's folder in benchmarks/results, tables to its README.

python benchmarks/run.py [--data DIR] [--model RUN] [--device cpu] [--rounds N] [--only NAME ...]

DIR holds images/ and masks/ (default: the original ISIC 2017 photographs of the shared data, else the drawn images of
`make demo`); RUN is a trained run (default: the newest under output/; without one, what needs it is left out, and said so).
What can use a GPU does where there is one.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import table
from common import machine_folder

from lesionseg.config import available_device
from lesionseg.errors import LesionsegError, run_tool
from lesionseg.runs import newest_run

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


@dataclass(frozen=True)
class Job:
    """A benchmark: its script and arguments, what must be importable, whether it needs a trained model."""

    script: str
    arguments: tuple[str, ...]
    packages: tuple[str, ...] = ()
    model: bool = False


def all_jobs(data: Path, rounds: int, device: str) -> dict[str, Job]:
    """By the name of their result, in the order of running."""
    images, masks = ("--images", str(data / "images")), ("--masks", str(data / "masks"))
    copies = ("--copies", "2") if device == "cpu" else ()  # R50 on a CPU takes its time
    turns, where = ("--rounds", str(rounds)), ("--device", device)
    return {
        "data_prep": Job("data_prep.py", ("--data", str(data), *turns)),
        "train": Job("train.py", ("--data", str(data), *turns, *where)),
        "predict": Job("predict.py", (*images, *masks, *turns, *where), model=True),
        "predict_r50": Job("predict.py", (*images, *turns, *where, *copies)),
        "runtimes": Job(
            "runtimes.py",
            (*images, *masks, *turns),
            packages=("nncf", "onnx", "onnxruntime", "openvino"),
            model=True,
        ),
        "peers": Job("peers.py", (*images, *turns, *where)),
        "profile": Job("profile_predict.py", (*images, *where)),
    }


def default_data() -> Path:
    """The first folder of images and masks that is there."""
    shared = Path(os.environ.get("LESIONSEG_DATA", HERE.parent.parent / "shared/data"))
    for folder in (shared / "isic2017_originals", Path("output/demo_images")):
        if (folder / "images").is_dir():
            return folder
    raise LesionsegError(
        "no images to measure with: run `make demo` first, or give --data DIR with images/ and masks/"
    )


def trained_model(given: Path | None) -> tuple[tuple[str, ...], str]:
    """The argument that names the model, and why there is none."""
    try:
        return ("--model", str(given or newest_run())), ""
    except LesionsegError as error:
        return (), str(error)


def run(name: str, job: Job, model: tuple[str, ...], no_model: str, results: Path) -> bool:
    """Whether the benchmark ran, or could not be expected to: then it says why."""
    missing = [package for package in job.packages if not importlib.util.find_spec(package)]
    why = f"not installed: {', '.join(missing)}" if missing else no_model if job.model else ""
    if why:
        print(f"== {name} is left out: {why}", flush=True)
        return True
    print(f"== {name}", flush=True)
    command = [sys.executable, "-W", "ignore", str(HERE / job.script), *job.arguments]
    command += [*(model if job.model else ()), "--out", str(results / f"{name}.json")]
    # torch's profiler complains where there is no GPU.
    return subprocess.run(command, env={**os.environ, "KINETO_LOG_LEVEL": "99"}).returncode == 0


def main() -> int:
    names = table.NAMES
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names)
    )
    args = parser.parse_args()
    device = available_device(args.device or "cuda")
    results = RESULTS / machine_folder(device)
    results.mkdir(parents=True, exist_ok=True)
    jobs = all_jobs(args.data or default_data(), args.rounds, device)
    model = trained_model(args.model)
    failed = [name for name in names if name in args.only and not run(name, jobs[name], *model, results)]
    table.write(RESULTS, HERE / "README.md")
    print(f"figures are in {results}, tables in {HERE / 'README.md'}")
    if failed:
        print(f"error: failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    run_tool(main)
