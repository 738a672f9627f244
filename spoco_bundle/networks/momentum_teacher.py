"""Momentum teacher: an exponential moving average of the student."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from spoco_bundle.core.errors import SpocoError


class MomentumTeacher(AveragedModel):
    """Exponential moving average of a network, parameters and buffers alike.

    The first step, t = 0, copies the student f. After any other the teacher g follows it as g = m_t g + (1 - m_t) f
    with the warm-up

        m_t = min(momentum, (1 + t) / (10 + t)),

    so that a short run is not left with a teacher from its first minutes. Integer buffers are copied. The inner network
    is ``teacher.module``: save and load that one, because the state dict of the wrapper carries a prefix.

    Args:
        student: the network to follow; copied, then left alone.
        momentum: m in [0, 1); 0.999 in the paper.
        warm_up: whether m_t rises as above; otherwise m_t = momentum throughout.

    Raises:
        SpocoError: if momentum is outside [0, 1).
    """

    def __init__(self, student: nn.Module, momentum: float = 0.999, warm_up: bool = True):
        if not 0 <= momentum < 1:
            raise SpocoError(f"momentum must lie in [0, 1), got {momentum}")
        self.momentum = momentum
        self.warm_up = warm_up
        super().__init__(student, multi_avg_fn=self._average, use_buffers=True)
        self.requires_grad_(False)
        self.eval()

    def momentum_at(self, step: int) -> float:
        """The momentum m_t of step t = 1, 2, ..."""
        return min(self.momentum, (1 + step) / (10 + step)) if self.warm_up else self.momentum

    def train(self, mode: bool = True) -> MomentumTeacher:
        """Stays in evaluation mode: its batch norm statistics are averages of the student's, never its own."""
        return super().train(False)

    def copy_from(self, student: nn.Module) -> None:
        """Sets the teacher to the student, as before the first step; to be called after weights were loaded."""
        self.module.load_state_dict(student.state_dict())
        self.n_averaged.zero_()

    @torch.no_grad()
    def _average(self, teacher: list[torch.Tensor], student: list[torch.Tensor], step: torch.Tensor | int) -> None:
        if not teacher[0].is_floating_point():
            for mine, theirs in zip(teacher, student):
                mine.copy_(theirs)
            return
        torch._foreach_lerp_(teacher, student, 1 - self.momentum_at(int(step)))
