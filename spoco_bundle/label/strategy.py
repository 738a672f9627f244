"""Active learning: the image, and the place in it, where student and teacher disagree most."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.utils.others.generic import name_to_device

from spoco_bundle.annotation.kept import told_apart
from spoco_bundle.annotation.ledger import ledger_path, read_ledger
from spoco_bundle.clustering.disagreement import disagreement_map, most_disputed
from spoco_bundle.core.errors import SpocoError, unwrapped
from spoco_bundle.core.resampling import resize_nearest
from spoco_bundle.formats import read_image, voxel_spacing
from spoco_bundle.formats.itk_io import file_grid
from spoco_bundle.label.app_folder import learnt_kernel
from spoco_bundle.networks import load_weights
from spoco_bundle.transforms.serving import SERVED
from spoco_bundle.transforms.spacing import GRID_SHAPE

logger = logging.getLogger(__name__)


class Disagreement(Strategy):
    """Proposes what to annotate next.

    Annotated images take part too: what counts is the place. The answer holds, besides ``id`` and ``weight`` (the mean
    disagreement there), ``position`` (voxel x, y, z), ``position_ras`` (right, anterior, superior, as 3D Slicer shows
    it), ``positions``, the best places of that image, and ``skipped``, the images that could not be looked at, each
    with the reason. Of the request it reads ``count`` (places per image, 3), ``max_images`` (images looked at, drawn
    anew for every request, 16) and ``device``.

    Args:
        infer: the prediction task, whose weights are compared with those of the student beside them.
    """

    def __init__(self, infer: BundleInferTask):
        super().__init__("Where student and teacher disagree most")
        self.infer = infer

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """The proposal, or None without images."""
        images = datastore.list_images()
        if not images:
            return None
        models = Path(self.infer.bundle_path) / "models"
        if not (models / "model_student.pt").is_file():
            return {"id": sorted(images)[0], "weight": 0.0, "positions": [], "note": "nothing is trained yet"}
        chosen = np.random.permutation(images)[: int(request.get("max_images", 16))]
        found, skipped = self._look_at([str(image) for image in chosen], request, datastore)
        if not found:
            raise SpocoError(f"none of {len(skipped)} images can be looked at: {next(iter(skipped.values()))}")
        best = max(found, key=lambda image: found[image][0][1] if found[image] else -1.0)
        affine, rank = file_grid(datastore.get_image_uri(best))
        positions = [
            {
                "position": list(place[::-1]),
                "position_ras": (affine @ [*place[::-1], *[0] * (3 - len(place)), 1])[:3].tolist(),
                "weight": weight,
            }
            for place, weight in found[best]
        ]
        first = positions[0] if positions else {"weight": 0.0}
        return {"id": best, **first, "positions": positions, "skipped": skipped}

    def _look_at(self, images: list[str], request: dict[str, Any], datastore: Datastore) -> tuple[dict, dict[str, str]]:
        """The disputed places of images, and why others have none."""
        found, skipped = {}, {}
        for image in images:
            try:
                with unwrapped():
                    found[image] = self._places(image, request, datastore)
            except SpocoError as error:
                skipped[image] = str(error)
                logger.warning("%s is passed over: %s", image, error)
        return found, skipped

    def _places(self, image: str, request: dict[str, Any], datastore: Datastore) -> list:
        device = name_to_device(request.get("device", "cuda"))
        path = datastore.get_image_uri(image)
        data: dict[str, Any] = {"image": path, SERVED: path, "device": device}
        for transform in self.infer.pre_transforms(data):
            data = transform(data)
        config = self.infer.bundle_config
        inputs, inferer = data["image"][None].as_tensor().to(device), self.infer.inferer(data)
        outputs = []
        for name in ("model_student.pt", "model.pt"):
            network = load_weights(copy.deepcopy(self.infer.network), Path(self.infer.bundle_path) / "models" / name)
            with torch.no_grad():
                outputs.append(inferer(inputs, network.to(device).eval())[0].cpu())
        shape = outputs[0].shape[1:]
        spacing = voxel_spacing(data["image"], len(shape))
        field = config.get_parsed_content("decoder").field(outputs[0], spacing, second=outputs[1])
        label = datastore.get_label_uri(image, DefaultLabelTag.FINAL)
        candidates = np.ones(shape, bool)
        if label:
            labels = read_image(label, "label", len(shape)).array
            checked, _ = told_apart(labels, read_ledger(ledger_path(label)))
            candidates = resize_nearest(torch.from_numpy(checked), shape)[0].numpy() == 0
        if field.objectness is not None:
            seen = torch.maximum(field.objectness, field.second.objectness).reshape(shape)
            candidates &= seen.numpy() >= config.get_parsed_content("objectness_threshold")
        places = most_disputed(
            disagreement_map(field, **learnt_kernel(Path(self.infer.bundle_path))).numpy(),
            candidates,
            spacing,
            float(network.coordinate_scale) or 1.0,
            int(request.get("count", 3)),
        )
        # from the grid that the network works on to that of the file
        whole = [int(size) for size in data["image"].meta.get(GRID_SHAPE, shape)]
        return [
            (tuple((2 * index + 1) * size // (2 * n) for index, size, n in zip(place, whole, shape)), weight)
            for place, weight in places
        ]
