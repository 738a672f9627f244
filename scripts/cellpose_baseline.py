"""Cellpose (Stringer et al. 2021), trained from nothing on the same objects of flat images, to compare with.

It needs an environment of its own. Version 3 is the last that trains without downloaded weights:

    python -m venv cellpose && cellpose/bin/pip install cellpose==3.1.1.2
    cellpose/bin/python scripts/cellpose_baseline.py DATA DATA/val --output found --minutes 10

It knows no voxels that nobody looked at: whatever is not annotated is background. Three epochs are timed to tell how
many fit into the minutes, so that its own schedule of the learning rate ends with them.
"""

from __future__ import annotations

import time
from importlib.metadata import version

import torch
from cellpose import models, train
from peer_images import peer_parser, read_pairs, write_found, write_training

PROBE = 3


def main() -> None:
    """Command line."""
    parser = peer_parser(__doc__)
    arguments = parser.parse_args()
    if arguments.sparse or arguments.patch:
        parser.error("Cellpose ignores no voxels, and chooses its crops itself; leave --sparse and --patch out")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    step = arguments.downsample
    _, images, labels = read_pairs(arguments.data / "train", False, step)
    names, val_images, _ = read_pairs(arguments.val, False, step)
    if labels[0].ndim != 2:
        parser.error(f"{arguments.data} holds volumes, and Cellpose learns from flat images")
    arguments.output.mkdir(parents=True, exist_ok=True)
    model = models.CellposeModel(gpu=False, pretrained_model=False)
    flat = images[0].ndim == 2
    channels = [1, 2] if not flat and images[0].shape[-1] == 2 else [0, 0]
    # one batch an epoch; images with fewer objects than five would be left out
    given = {"train_data": images, "train_labels": labels, "channels": channels, "channel_axis": None if flat else -1}
    given |= {"nimg_per_epoch": 8, "min_train_masks": 1, "save_path": arguments.output}
    began = time.monotonic()
    train.train_seg(model.net, n_epochs=PROBE, **given)
    epochs = max(1, int(PROBE * (60 * arguments.minutes / (time.monotonic() - began) - 1)))
    train.train_seg(model.net, n_epochs=epochs, **given)
    minutes = (time.monotonic() - began) / 60
    for name, image in zip(names, val_images, strict=True):
        found = model.eval(image, channels=channels, channel_axis=None if flat else -1)[0]
        write_found(found, name, arguments.val, arguments.output, step)
    program = f"Cellpose {version('cellpose')}, torch {torch.__version__}"
    write_training(arguments.output, minutes, PROBE + epochs, False, program)


if __name__ == "__main__":
    main()
