"""Training on a folder, once for all doors: the command line, Python, napari and scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spoco_bundle.app.config import plain, run_configs
from spoco_bundle.app.run_record import record_later
from spoco_bundle.app.training_plan import training_files


def train(
    folder: str | Path,
    output: str | Path = "model",
    config: str = "",
    resume: bool | str = False,
    **overrides: Any,
) -> Path:
    """Train on a folder of images with a few annotated objects each.

    Args:
        folder: folder with ``train/NAME_raw.EXT`` and ``train/NAME_label.EXT``, the same under ``val/``; or a MONAI
            datalist JSON. In a label image 0 means "not annotated", each object has its own number.
        output: folder for the model.
        config: extra settings on top of the defaults, names of shipped configs or JSON files with commas between.
        resume: True goes on where an interrupted training in the same output folder stopped; see ``spoco train``.
        overrides: any id of ``configs/train.json``.

    Returns:
        The folder of the model, which ``segment`` and ``spoco predict`` take.

    Raises:
        SpocoError: for bad input.

    Example:
        >>> model = train("mydata", output="mymodel", max_epochs=2)  # doctest: +SKIP
    """
    folder, output = str(folder), str(output)
    ids = {"dataset_dir": folder, "ckpt_dir": output, "output_dir": output} | {
        name: plain(value) for name, value in overrides.items()
    }
    if resume:
        ids["resume"] = "last" if resume is True else str(resume)
    named = Path(ids.get("resume", ""))
    began = None if not resume else named.parent if named.is_file() else Path(output)
    files = training_files(config, ids, began)
    record_later(files, ids, output)
    run_configs(files, ids, "train")
    return Path(output)
