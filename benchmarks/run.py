"""make bench: every benchmark, one after the other, on one machine; figures to benchmarks/results/*.json.

python benchmarks/run.py [--data DIR] [--model RUN] [--rounds N]

DIR holds images/ and masks/ (default: the original ISIC 2017 photographs of the shared data, else the drawn images of
`make demo`); RUN is a trained run (default: the newest under output/; without one, prediction is left out, and said so).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from lesionseg.errors import LesionsegError, run_tool
from lesionseg.runs import newest_run

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def default_data() -> Path:
    """The first folder of images and masks that is there."""
    shared = Path(os.environ.get("LESIONSEG_DATA", HERE.parent.parent / "shared/data"))
    for folder in (shared / "isic2017_originals", Path("output/demo_images")):
        if (folder / "images").is_dir():
            return folder
    raise LesionsegError(
        "no images to measure with: run `make demo` first, or give --data DIR with images/ and masks/"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    data = args.data or default_data()
    RESULTS.mkdir(exist_ok=True)
    rounds = ["--rounds", str(args.rounds)]
    jobs = [["data_prep.py", "--data", str(data), *rounds, "--out", str(RESULTS / "data_prep.json")]]
    try:
        model = args.model or newest_run()
        jobs.append(
            [
                "predict.py",
                "--model",
                str(model),
                "--images",
                str(data / "images"),
                "--masks",
                str(data / "masks"),
            ]
            + [*rounds, "--out", str(RESULTS / "predict.json")]
        )
    except LesionsegError as error:
        print(f"prediction is left out: {error}")
    failed = 0
    for script, *arguments in jobs:
        print(f"== {script}", flush=True)
        failed += (
            subprocess.run([sys.executable, "-W", "ignore", str(HERE / script), *arguments]).returncode != 0
        )
    print(f"figures are in {RESULTS}")
    return failed


if __name__ == "__main__":
    run_tool(main)
