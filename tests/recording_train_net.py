"""tools/train_net.py with a trainer that ends by writing <OUTPUT_DIR>/weights.rank<N>, the hash of what it holds."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

from lesionseg import stages  # first: it makes detectron2 importable
from lesionseg.errors import run_tool

from detectron2.utils import comm  # isort: skip

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
import train_net


class RecordingTrainer(stages.LesionTrainer):
    def train(self) -> dict[str, Any] | None:
        results = super().train()
        weights = hashlib.sha256()
        for value in self.model.state_dict().values():
            weights.update(value.cpu().numpy().tobytes())
        folder = Path(self.cfg.OUTPUT_DIR)
        (folder / f"weights.rank{comm.get_rank()}").write_text(weights.hexdigest())
        return results


stages.LesionTrainer = RecordingTrainer  # type: ignore[misc]

if __name__ == "__main__":
    run_tool(train_net.main)
