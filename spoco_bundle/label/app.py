"""The app that MONAI Label's server runs: the stock tasks for bundles, with what sparse instances need besides."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import HTTPException
from monai.bundle import ConfigParser
from monailabel.interfaces.app import MONAILabelApp
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.utils.others.generic import device_list, get_bundle_models

from spoco_bundle import __version__
from spoco_bundle.app.config import find_config, json_content, run_configs
from spoco_bundle.app.model_config import MODEL_CONFIG
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.label.client_input import inference_request, proposal_request, training_request
from spoco_bundle.label.datastore import FINAL, SpocoDatastore, clear_answers
from spoco_bundle.label.strategy import Disagreement
from spoco_bundle.label.studies import Studies, with_side_files
from spoco_bundle.transforms.serving import SERVED, as_served


class SpocoApp(MONAILabelApp):
    """Serves one bundle, which lies in the app's model folder.

    Args:
        app_dir: folder of the app.
        studies: folder of the images.
        conf: ``models`` names the bundle in ``app_dir/model``.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]):
        (self.model, self.bundle), *_ = get_bundle_models(app_dir, conf).items()
        train = ConfigParser.load_config_file(Path(self.bundle) / "configs" / "train.json")
        self.kept = Studies(studies, train["spatial_dims"], train["background_label"], train["annotation"])
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name=f"SPOCO ({__version__})",
            description="Instance segmentation learnt from a few annotated objects",
            version=__version__,
        )

    def init_datastore(self) -> SpocoDatastore:
        """The stock datastore of a folder, with what a person vouches for in its final labels and nothing else."""
        return SpocoDatastore(self.kept, self.studies)

    def init_infers(self) -> dict[str, SpocoInfer]:
        """The prediction task."""
        return {self.model: SpocoInfer(self.bundle, self.conf, self.kept, self._datastore)}

    def init_trainers(self) -> dict[str, SpocoTrain]:
        """The training task."""
        return {self.model: SpocoTrain(self.bundle, self.conf)}

    def init_strategies(self) -> dict[str, Any]:
        """Disagreement of student and teacher, and the stock ones."""
        return {"disagreement": Disagreement(self._infers[self.model]), "random": Random(), "first": First()}

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Predicts an image among the studies, with a clear answer to what the user can mend."""
        with clear_answers():
            image = request.get("image")
            if not isinstance(image, str) or not self._datastore.get_image_uri(image):
                raise HTTPException(status_code=404, detail=f"image {image!r}: is not among the studies; add it first")
            asked = {"model": request.get("model"), "image": image, **inference_request(request)}
            # the task itself is given a path only
            return super().infer({**asked, "study": image}, datastore)

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Trains, with a clear answer to what the user can mend."""
        with clear_answers():
            return super().train({"model": request.get("model"), **training_request(request)})

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """Proposes an image, with a clear answer to what the user can mend."""
        with clear_answers():
            return super().next_sample({"strategy": request.get("strategy"), **proposal_request(request)})


class SpocoInfer(BundleInferTask):
    """Predicts; confirmed objects lie over the prediction, and what was handed out is remembered.

    A request with ``show_confirmed`` false gets the prediction alone.

    Args:
        path: the bundle.
        conf: of the app.
        kept: see ``Studies``.
        datastore: where the labels are.
    """

    def __init__(self, path: str, conf: dict[str, str], kept: Studies, datastore: SpocoDatastore):
        self.kept = kept
        self.datastore = datastore
        super().__init__(path, conf)

    def __call__(self, request: dict[str, Any], callbacks: dict | None = None) -> tuple[str | None, dict[str, Any]]:
        """The stock task, with a name for every object in ``label_names``, which 3D Slicer gives to its segments."""
        # the last training may have learnt objects of another size
        learnt = json_content(Path(self.path[0]).with_name(MODEL_CONFIG))
        for key in json_content(find_config("pretrained")):
            if self.bundle_config[key] != learnt.get(key):  # to set it builds all components anew
                self.bundle_config[key] = learnt.get(key)
        file, result = super().__call__(request, callbacks)
        result["label_names"] = result.pop("names", {})
        return file, result

    def writer(self, data: dict[str, Any], extension: str | None = None, dtype: str | None = None) -> tuple[Any, Any]:
        """Writes the labels as they are handed out."""
        labels, study = np.asarray(data["pred"].array).transpose(), data["study"]
        labels = labels[0] if labels.ndim > self.kept.spatial_dims else labels
        previous = self.datastore.get_label_uri(study, FINAL) if data.get("show_confirmed", True) else ""
        labels, names = self.kept.hand_out(study, labels, previous)
        data["pred"], data["result_dtype"] = as_served(labels, data[SERVED])
        file, result = super().writer(data)
        return file, {**result, "names": names}


class SpocoTrain(BundleTrainTask):
    """Trains on the final labels; objects are held out for validation, not images.

    Args:
        path: the bundle.
        conf: of the app.
    """

    def config(self) -> dict[str, Any]:
        """What clients offer to change."""
        return {
            "max_epochs": self.bundle_config["max_epochs"],
            "pretrained": True,
            "device": device_list(),
            "multi_gpu": True,
            "gpus": "all",
        }

    def __call__(self, request: dict[str, Any], datastore: SpocoDatastore) -> dict[str, Any]:
        """Trains and replaces the weights where the new ones score better on the objects that were held out."""
        return super().__call__(
            {"max_epochs": self.bundle_config["max_epochs"], "tracking": "None", **request}, datastore
        )

    def run_single_gpu(self, request: dict[str, Any], overrides: dict[str, Any]) -> None:
        """Runs the config as ``spoco train`` does."""
        # clients see the last twenty lines, which Ignite's would fill
        logging.getLogger("ignite").setLevel(logging.ERROR)
        run_configs([self.bundle_config_path], overrides, "train")

    def run_multi_gpu(self, request: dict[str, Any], cmd: list[str], env: dict[str, str]) -> None:
        """Runs the stock command; unlike the stock task says so when it fails."""
        if subprocess.run(cmd, env=env, check=False).returncode:
            raise SpocoError("training on several devices failed; the lines before this one say why")

    def _partition_datalist(self, datalist: list, request: dict, shuffle: bool = False) -> tuple[list, list]:
        if not datalist:
            raise SpocoError("no image has a label yet: annotate a few objects and submit the label before training")
        annotated = with_side_files(datalist)
        return annotated, annotated

    def _load_checkpoint(self, model_pytorch: str, pretrained: bool, train_handlers: list) -> None:
        # student and teacher, each strictly from its own file, where the stock handler fills the student with what fits
        student = Path(model_pytorch).with_name("model_student.pt")
        self._start = {
            "pretrained": model_pytorch if pretrained else None,
            "pretrained_student": str(student) if pretrained and student.is_file() else None,
        }

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        overrides.update(self._start)
        return overrides
