"""Training over machines: two processes of different rank on this one, as Detectron2 and as torchrun start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from training import training_opts

from lesionseg.config import argument_parser, setup_cfg
from lesionseg.errors import LesionsegError
from lesionseg.launching import start

SCRIPT = ROOT / "tests/recording_train_net.py"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def run_machines(*commands: list[str]) -> list[str]:
    """Run the commands side by side, as machines would; returns what each wrote to stderr."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    machines = [
        subprocess.Popen([sys.executable, "-W", "ignore", *command], env=environment, stderr=subprocess.PIPE,
                         stdout=subprocess.DEVNULL, text=True)
        for command in commands
    ]  # fmt: skip
    try:
        errors = [machine.communicate(timeout=300)[1] for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert [machine.returncode for machine in machines] == [0] * len(machines), "\n".join(errors)[-5000:]
    return errors


def machine_command(way: str, rank: int, port: int) -> list[str]:
    """What is typed on the machine of a rank, before the configuration."""
    if way == "torchrun":
        meeting = ["--master-addr", "127.0.0.1", "--master-port", str(port)]
        torchrun = ["-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(rank), *meeting]
        return [*torchrun, "--nproc-per-node", "1", str(SCRIPT), "--num-gpus", "0"]
    machines = ["--num-machines", "2", "--machine-rank", str(rank), "--dist-url", f"tcp://127.0.0.1:{port}"]
    return [str(SCRIPT), "--num-gpus", "0", *machines]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["launch", "torchrun"])
def test_two_machines_train_one_model(lesion_root: Path, tmp_path: Path, way: str) -> None:
    port = free_port()
    # Machines share their run folder; two folders here show who wrote what.
    folders = [tmp_path / "rank0", tmp_path / "rank1"]
    config = ["--config-file", str(ROOT / "configs/isic_mrcnn_scratch.yaml")]
    settings = ["SOLVER.REFERENCE_WORLD_SIZE", "0", "SOLVER.MAX_ITER", "3", "MODEL.RESNETS.NORM", "GN"]
    settings += ["TEST.EVAL_PERIOD", "3", "LESION.BEST_METRIC", "loss"]
    run_machines(
        *(
            [*machine_command(way, rank, port), *config, *training_opts(lesion_root, folder, *settings)]
            for rank, folder in enumerate(folders)
        )
    )
    assert "process 0 of 2" in (folders[0] / "log.txt").read_text()
    assert "process 1 of 2" in (folders[1] / "log.txt.rank1").read_text()
    assert (folders[0] / "model_final.pth").is_file() and (folders[0] / "model_best.pth").is_file()
    assert sorted(path.name for path in folders[1].iterdir()) == ["log.txt.rank1", "weights.rank1"]
    assert (folders[0] / "weights.rank0").read_text() == (folders[1] / "weights.rank1").read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--machine-rank", "2"], "the machines have the ranks 0 to 1"),
        (["--machine-rank", "1", "--dist-url", "auto"], "--dist-url auto is for one machine"),
    ],
)
def test_mistakes_are_told(monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    args = argument_parser("").parse_args(["--num-gpus", "0", "--num-machines", "2", *arguments])
    with pytest.raises(LesionsegError, match=expected):
        start(lambda _: pytest.fail("started"), args, setup_cfg())
