"""Which trained model a command uses. Light to import: a tool says which before anything slow starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lesionseg.errors import LesionsegError

CONFIG = "config.yaml"
WEIGHTS = ("model_best.pth", "model_final.pth")  # in order of preference
FORMATS = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "torchscript": ".torchscript",
}  # of exported models, and their suffixes


@dataclass(frozen=True)
class Model:
    """A configuration file and the weights that go with it; an exported model is both in one."""

    config: Path
    weights: Path
    why: str

    @property
    def exported(self) -> bool:
        """Whether this is a file of tools/export_model.py."""
        return self.weights.suffix in FORMATS.values()

    def __str__(self) -> str:
        if self.exported:
            return f"model: {self.weights} ({self.why})"
        return f"model: {self.weights}, configuration: {self.config} ({self.why})"


def run_weights(folder: str | Path) -> Path | None:
    """The weights of a run folder: model_best.pth, else model_final.pth; None where there is neither."""
    return next((path for name in WEIGHTS if (path := Path(folder) / name).is_file()), None)


def newest_run(root: str | Path = "output") -> Path:
    """The run folder under `root` whose weights were written last.

    Raises:
        LesionsegError: there is no folder with config.yaml and weights.
    """
    runs = [config.parent for config in Path(root).glob(f"*/{CONFIG}") if run_weights(config.parent)]
    if not runs:
        raise LesionsegError(
            f"no trained model found: expected a folder under {Path(root).absolute()} with {CONFIG} and "
            f"{' or '.join(WEIGHTS)}. Train one with tools/train_net.py, or give --weights and --config-file"
        )
    return max(runs, key=lambda run: (_weights_of(run).stat().st_mtime_ns, run.name))


def find_model(weights: str | Path = "", config_file: str | Path = "", root: str | Path = "output") -> Model:
    """The model meant by --weights and --config-file.

    With one of the two the other is looked for beside it; with neither, the newest run under `root` is taken. A run folder
    given as weights stands for its own. An exported model needs no configuration file.

    Raises:
        LesionsegError: a file does not exist or cannot be inferred.
    """
    if not weights and not config_file:
        run = newest_run(root)
        return Model(run / CONFIG, _weights_of(run), f"newest run under {root}")
    if Path(weights).suffix in FORMATS.values():
        if config_file:
            raise LesionsegError(f"{weights} holds its configuration: leave out --config-file {config_file}")
        if not Path(weights).is_file():
            raise LesionsegError(f"weights {weights} do not exist")
        return Model(Path(weights), Path(weights), "exported")
    if weights and Path(weights).is_dir():
        weights = _weights_of(Path(weights))
    config = Path(config_file) if config_file else Path(weights).parent / CONFIG
    if not config.is_file():
        hint = "" if config_file else f" beside {weights}; give it with --config-file"
        raise LesionsegError(f"configuration {config} does not exist{hint}")
    chosen = Path(weights) if weights else _weights_of(config.parent)
    if not chosen.is_file():
        raise LesionsegError(f"weights {chosen} do not exist")
    return Model(config, chosen, "as given" if weights and config_file else "found beside each other")


def _weights_of(run: Path) -> Path:
    weights = run_weights(run)
    if weights is None:
        raise LesionsegError(f"{run} holds neither {' nor '.join(WEIGHTS)}; give the weights with --weights")
    return weights
