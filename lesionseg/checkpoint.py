"""Checkpoints that survive a kill, and weights that give a useful error when they cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager

from lesionseg.errors import LesionsegError

BEST, FINAL = "model_best", "model_final"


class LesionCheckpointer(DetectionCheckpointer):
    """DetectionCheckpointer that never leaves a half-written file."""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `<save_dir>/<name>.pth` under a temporary name, then rename; then make it the last checkpoint."""
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: item.state_dict() for key, item in self.checkpointables.items()}
        self._write(name, {"model": self.model.state_dict(), **states, **kwargs})
        self.tag_last_checkpoint(f"{name}.pth")

    def save_best(self, **kwargs: Any) -> None:
        """Write model_best.pth: weights and `kwargs` only, and never the checkpoint to resume from."""
        if self.save_dir and self.save_to_disk:
            self._write(BEST, {"model": self.model.state_dict(), **kwargs})

    def _write(self, name: str, data: dict[str, Any]) -> None:
        path = Path(self.save_dir) / f"{name}.pth"
        temporary = path.with_suffix(".tmp")
        torch.save(data, temporary)
        temporary.replace(path)


def read_best(output_dir: str | Path) -> dict[str, Any]:
    """What model_best.pth says of itself besides weights (`metric`, `value`, `iteration`); {} without the file."""
    path = Path(output_dir) / f"{BEST}.pth"
    if not path.is_file():
        return {}
    data = torch.load(path, map_location="cpu", weights_only=True)
    return {key: value for key, value in data.items() if key != "model"}


def require_weights(weights: str) -> None:
    """Fetch MODEL.WEIGHTS into Detectron2's cache, so that training starts with them or not at all.

    Raises:
        LesionsegError: file missing, or download impossible; says what to fetch, from where, and where to put it.
    """
    if not weights:
        return
    remote = "://" in weights
    try:
        path = Path(PathManager.get_local_path(weights))
        if path.is_file():
            return
        reason = "no such file"
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    if not remote:
        raise LesionsegError(f"MODEL.WEIGHTS {weights}: {reason}. Give the path of a .pth or .pkl file")
    prefix = "https://dl.fbaipublicfiles.com/detectron2/"
    url = weights.replace("detectron2://", prefix)
    raise LesionsegError(
        f"cannot download the pretrained weights {weights} ({reason}). On a machine with network access fetch {url} , "
        f"copy the file here and add `MODEL.WEIGHTS /path/to/{url.rsplit('/', 1)[-1]}` to the command; or train "
        "without pretrained weights: --config-file configs/isic_mrcnn_scratch.yaml"
    )
