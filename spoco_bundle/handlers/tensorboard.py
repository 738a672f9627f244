"""TensorBoard: every loss term as a scalar."""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from monai.handlers import TensorBoardStatsHandler


class LossTermsHandler(TensorBoardStatsHandler):
    """Writes loss terms, learning rate and the teacher's momentum as scalars during training.

    Args:
        log_dir: folder of the TensorBoard files.
        optimizer: optimizer whose learning rate is written, or None.
        teacher: momentum teacher with ``momentum_at`` and ``n_averaged``, or None.
        interval: iterations between entries.
    """

    def __init__(
        self,
        log_dir: str = "./runs",
        optimizer: torch.optim.Optimizer | None = None,
        teacher: Any = None,
        interval: int = 10,
    ):
        super().__init__(
            log_dir=log_dir,
            iteration_log=interval,
            epoch_log=False,
            output_transform=self._scalars,
        )
        self.optimizer = optimizer
        self.teacher = teacher

    def attach(self, engine: Engine) -> None:
        """Registers the handler, on rank 0 only."""
        if idist.get_rank() == 0:
            super().attach(engine)

    def _scalars(self, output: Any) -> dict[str, float]:
        output = output[0] if isinstance(output, (list, tuple)) else output
        scalars = {f"train/{name}": float(value) for name, value in output["loss_terms"].items()}
        if self.optimizer is not None:
            scalars["train/learning_rate"] = float(self.optimizer.param_groups[0]["lr"])
        if self.teacher is not None:
            scalars["train/teacher_momentum"] = float(self.teacher.momentum_at(int(self.teacher.n_averaged)))
        return scalars
