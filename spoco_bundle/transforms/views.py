"""Two views of one image for the student and its momentum teacher."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import deepcopy

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Randomizable, Transform

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.crop_dataset import seed_together


class TwoViewsd(Transform, Randomizable):
    """Makes two views of an image: same geometry, independent intensity augmentation.

    Put it after every spatial transform. The view for the student replaces "image"; the one for the teacher goes to
    ``teacher_key``. Each view has a random state of its own, drawn from that of this transform, so that
    ``set_random_state`` of an enclosing ``Compose`` fixes both.

    Args:
        teacher_key: where the teacher's view goes; None makes none, where no term compares the two.
        student: array transforms of the intensity, such as MONAI's ``RandGaussianNoise`` (not the dictionary ones).
        teacher: the same for the teacher's view; None takes a copy of the student's.

    Raises:
        SpocoError: when called, if a view has another shape or affine than the image: such a transform belongs before.
    """

    def __init__(
        self,
        teacher_key: str | None = "teacher_view",
        student: Sequence[Callable] = (),
        teacher: Sequence[Callable] | None = None,
    ):
        self.teacher_key = teacher_key
        self.student = Compose(list(student))
        self.teacher = Compose(deepcopy(list(student)) if teacher is None else list(teacher))
        self.set_random_state(seed=int(self.student.R.randint(2**31)))

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> TwoViewsd:
        """Seeds the views, each with a seed drawn from the given one."""
        super().set_random_state(seed, state)
        seed_together(self.student.transforms, int(self.R.randint(2**31)))
        if self.teacher_key is not None:
            seed_together(self.teacher.transforms, int(self.R.randint(2**31)))
        return self

    def randomize(self, data: torch.Tensor | None = None) -> None:
        """Draws nothing: the transforms of the views draw as they run."""

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Returns a copy of the sample with the two views, float32, of the image's shape and affine."""
        image = data["image"].float()
        sample = {**data, "image": self._view(self.student, image.clone())}
        if self.teacher_key is not None:
            sample[self.teacher_key] = self._view(self.teacher, image.clone())
        return sample

    def _view(self, augment: Compose, image: torch.Tensor) -> torch.Tensor:
        view = augment(image)
        moved = (
            isinstance(view, MetaTensor)
            and isinstance(image, MetaTensor)
            and not torch.allclose(view.affine, image.affine)
        )
        if view.shape != image.shape or moved:
            raise SpocoError(
                "a view changed the geometry of 'image'; put spatial transforms before the two views, which share them"
            )
        return view
