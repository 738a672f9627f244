"""One training iteration of SPOCO: student, teacher, coordinates, loss, step, moving average."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys
from torch.nn.parallel import DistributedDataParallel

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.plain_tensors import plain
from spoco_bundle.core.precision import uses_bfloat16
from spoco_bundle.formats.geometry import batch_spacing
from spoco_bundle.networks import Decoder, MomentumTeacher


class SpocoTrainer(SupervisedTrainer):
    """Supervised trainer with a momentum teacher (Wolny et al. 2022, section 3).

    An iteration reads from the batch ``image`` (B, C, *spatial), ``label`` (B, 1, *spatial), ``sample_seed`` (B,),
    where the consistency term counts ``teacher_view`` (the same crop under another intensity augmentation), and, where
    objects are not annotated as a whole, ``scope`` (B, A, *spatial); voxel spacings come from the affines of
    ``image``. It leaves in ``engine.state.output`` a list, as MONAI's handlers expect it, of one dictionary for the
    whole batch: ``image``, ``label``, ``pred`` (raw student output), ``loss`` (scalar tensor) and ``loss_terms`` (name
    to float). Before the iteration is completed it is the dictionary itself.

    The data loader wraps a ``SparseCropDataset`` with an ``EpochSampler``; both are told the epoch here.

    Semi-convolutional embeddings get their coordinates by the decoder, after the network and after all spatial
    augmentation, over the ``coordinate_scale`` that the network carries as a buffer.

    Args:
        teacher: momentum teacher of the student, on the same device.
        decoder: adds coordinates to embeddings; without one they get none.
        precision: see ``uses_bfloat16``. With bfloat16 the network runs under autocast, which needs no scaling of the
            loss as float16 would. The loss is always computed in float32.
        max_grad_norm: the gradient is scaled down to this L2 norm where it is longer; None to leave it alone.
        seed: with the iteration it keys whatever a layer draws (dropout), so that a resumed run repeats an
            uninterrupted one.
        **kwargs: arguments of MONAI's ``SupervisedTrainer``; ``loss_function`` is a ``SpocoLoss``.

    Raises:
        SpocoError: if precision is unknown or not safe with the crops, or a loss value is not finite (the message names
            the images).
    """

    def __init__(
        self,
        *,
        teacher: MomentumTeacher,
        decoder: Decoder | None = None,
        precision: str = "float32",
        max_grad_norm: float | None = None,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(decollate=False, **kwargs)
        self.teacher = teacher
        self.decoder = Decoder() if decoder is None else decoder
        self.max_grad_norm = max_grad_norm
        self.seed = seed
        self.precision = precision
        uses_bfloat16(precision, self.state.device)  # a precision that there is not is refused before anything runs
        self.add_event_handler(Events.EPOCH_STARTED, SpocoTrainer._begin_epoch)

    @property
    def student(self) -> torch.nn.Module:
        """The student without the wrapper of distributed training."""
        return self.network.module if isinstance(self.network, DistributedDataParallel) else self.network

    def uses_bfloat16(self, crop: Sequence[int]) -> bool:
        """Whether the network learns from crops of this size in bfloat16."""
        stride = getattr(self.student, "total_stride", ())
        return uses_bfloat16(self.precision, self.state.device, crop, stride, learns=True)

    def _begin_epoch(self) -> None:
        """Tells dataset and sampler the epoch, and how many of its samples a resumed run has had already.

        The coordinate scale, which handlers fill at the start, is read from the network here, not in every iteration.
        """
        self._placing = Decoder(self.decoder.coordinate_channels, coordinate_scale=self.decoder.scale)
        epoch = self.state.epoch - 1
        done = self.state.iteration - epoch * self.state.epoch_length
        self.data_loader.dataset.set_epoch(epoch)
        self.data_loader.sampler.set_position(epoch, done * self.data_loader.batch_size)

    def _iteration(self, engine: SpocoTrainer, batchdata: dict[str, Any]) -> list[dict[str, Any]]:
        """Runs one optimisation step on a batch.

        Args:
            engine: this trainer.
            batchdata: collated samples as described for the class.

        Returns:
            The output dictionary described for the class.
        """
        device = self.state.device
        torch.manual_seed((self.seed << 32) + self.state.iteration)
        spacing = batch_spacing(batchdata[Keys.IMAGE], self.student.spatial_dims)  # stays on the CPU, where it is read
        compared = self.loss_function.weights["consistency"] > 0

        def on_device(key: str) -> torch.Tensor:
            return plain(batchdata[key]).to(device, non_blocking=self.non_blocking)

        image, label = on_device(Keys.IMAGE), on_device(Keys.LABEL)
        scope = on_device("scope") if "scope" in batchdata else None
        teacher_view = on_device("teacher_view") if compared else None
        seeds = batchdata["sample_seed"]
        output = self.state.output = {Keys.IMAGE: image, Keys.LABEL: label}

        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        half = self.uses_bfloat16(image.shape[2:])
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            student_raw = self.inferer(image, self.network)
            with torch.no_grad():
                teacher_raw = self.teacher(teacher_view) if compared else None
        output[Keys.PRED] = student_raw.detach()
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)

        student = self._placing.place(student_raw, spacing)
        teacher = None if teacher_raw is None else self._placing.place(teacher_raw, spacing)
        terms = self.loss_function(student, label, teacher, seeds=seeds, spacing=spacing, scope=scope)
        loss = output[Keys.LOSS] = terms["loss"]
        # all terms at once: each value read back makes the host wait for the device
        values = torch.stack([value.detach() for value in terms.values()]).tolist()
        found = output["loss_terms"] = dict(zip(terms, values))
        if not math.isfinite(found["loss"]):
            raise SpocoError(
                f"loss: {found['loss']} at iteration {self.state.iteration} on {_file_names(batchdata)}; look at these "
                "images, lower the learning rate, or set precision to float32"
            )
        engine.fire_event(IterationEvents.LOSS_COMPLETED)

        loss.backward()
        output[Keys.LOSS] = loss.detach()
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        self.optimizer.step()
        self.teacher.update_parameters(self.student)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return [output]


def _file_names(batchdata: dict[str, Any]) -> str:
    names = getattr(batchdata[Keys.IMAGE], "meta", {}).get("filename_or_obj", "images of unknown name")
    return ", ".join(map(str, names)) if isinstance(names, (list, tuple)) else str(names)
