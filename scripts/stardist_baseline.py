"""StarDist (Schmidt et al. 2018, Weigert et al. 2020) on the same objects, to compare with.

It needs an environment of its own:

    python -m venv stardist && stardist/bin/pip install stardist==0.9.2 tensorflow-cpu==2.21.0
    stardist/bin/python scripts/stardist_baseline.py DATA DATA/val --output found --sparse --spacing 1.75 0.8 0.8

`zero_options.py --peers stardist=stardist/bin/python` calls it for a share of the objects, and scores what it found.

Trains for so many minutes by the clock, so other work on the machine costs it steps. With `--sparse` every voxel
outside the objects is marked -1, which StarDist ignores: its published convention for labels that are not complete. The
thresholds of probability and overlap are tuned on val/, which favours it; where that takes longer than the training
did, it has its own usual ones. With `--downsample` it works on means over so many voxels per axis, and what it finds is
brought back to the images' grid.
"""

from __future__ import annotations

import signal
import time

import stardist
import tensorflow as tf
from peer_images import augment, peer_parser, read_pairs, write_found, write_training
from stardist.models import Config2D, Config3D, StarDist2D, StarDist3D


class StopAfter(tf.keras.callbacks.Callback):
    """Ends the training after so many seconds."""

    def __init__(self, seconds: float):
        super().__init__()
        self.end = time.monotonic() + seconds

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Looks at the clock."""
        if time.monotonic() > self.end:
            self.model.stop_training = True


def tune_thresholds(model: StarDist2D | StarDist3D, images: list, labels: list, seconds: float) -> bool:
    """Tunes the thresholds of a model, and says whether that was done in time; else they stay as they were."""
    late = False

    def out_of_time(*_: object) -> None:
        nonlocal late
        late = True
        raise TimeoutError

    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(round(seconds))
    try:
        model.optimize_thresholds(images, labels)
    except (TimeoutError, SystemError):  # its C code turns the former into the latter
        if not late:
            raise
        return False
    finally:
        signal.alarm(0)
    return True


def main() -> None:
    """Command line."""
    parser = peer_parser(__doc__)
    parser.add_argument("--spacing", type=float, nargs="+", default=[1.0, 1.0, 1.0], help="after --downsample")
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.keras.utils.set_random_seed(arguments.seed)
    step = arguments.downsample
    _, images, labels = read_pairs(arguments.data / "train", arguments.sparse, step)
    names, val_images, val_labels = read_pairs(arguments.val, False, step)
    channels = 1 if images[0].ndim == labels[0].ndim else images[0].shape[-1]
    if labels[0].ndim == 3:
        finest = min(arguments.spacing)
        # no crop may be larger than an image, its sides have to be multiples of 4, 8 and 8, and those turned equal
        shapes = [label.shape for label in [*labels, *val_labels]]
        depth, side = min(shape[0] for shape in shapes), min(min(shape[1:]) for shape in shapes)
        patch = tuple(arguments.patch or (min(32, depth // 4 * 4), *[min(64, side // 8 * 8)] * 2))
        # 64 rays and a grid of (1, 2, 2), crops of the same size as the bundle's
        config = Config3D(
            rays=64,
            grid=(1, 2, 2),
            anisotropy=tuple(s / finest for s in arguments.spacing),
            n_channel_in=channels,
            train_tensorboard=False,
            train_patch_size=patch,
            train_batch_size=2,
        )
        kind = StarDist3D
    else:
        # no crop may be larger than an image, its sides have to be multiples of 16, and as it is turned they are equal
        smallest = min(min(label.shape) for label in [*labels, *val_labels])
        patch = tuple(arguments.patch or [min(256, smallest // 16 * 16)] * 2)
        config = Config2D(
            n_rays=32,
            grid=(2, 2),
            n_channel_in=channels,
            train_tensorboard=False,
            train_patch_size=patch,
            train_batch_size=4,
        )
        kind = StarDist2D
    arguments.output.mkdir(parents=True, exist_ok=True)
    model = kind(config, name="model", basedir=str(arguments.output))
    model.prepare_for_training()
    model.callbacks.append(StopAfter(60 * arguments.minutes))
    began = time.monotonic()
    # as many validation crops as images: the learning rate and the best weights follow them
    history = model.train(
        images,
        labels,
        validation_data=(val_images, val_labels),
        augmenter=augment,
        epochs=10_000,
        steps_per_epoch=50,
        seed=arguments.seed,
    )
    minutes = (time.monotonic() - began) / 60
    tuned = tune_thresholds(model, val_images, val_labels, 60 * arguments.minutes)
    for name, image in zip(names, val_images, strict=True):
        found, _ = model.predict_instances(image)
        write_found(found, name, arguments.val, arguments.output, step)
    program = f"StarDist {stardist.__version__}, TensorFlow {tf.__version__}"
    write_training(arguments.output, minutes, 50 * len(history.history["loss"]), tuned, program)


if __name__ == "__main__":
    main()
