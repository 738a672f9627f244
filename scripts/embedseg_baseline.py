"""EmbedSeg (Lalit et al. 2021) on the same objects, to compare with.

It needs an environment of its own. Its wheel lacks the folder that its modules import each other from; a link is one:

    python -m venv embedseg
    embedseg/bin/pip install EmbedSeg==0.2.5 numpy==1.26.4 pandas==2.3.3 tifffile==2024.8.30
    embedseg/bin/pip install torch==2.14.1 torchvision==0.29.1
    ln -s . embedseg/lib/python3.11/site-packages/EmbedSeg
    embedseg/bin/python scripts/embedseg_baseline.py DATA DATA/val --output found --sparse --spacing 1.75 0.8 0.8

Network, loss, centres of objects and clustering are the package's. As in its notebooks, crops lie around an annotated
object and are as large as a typical one and a standard deviation, in batches of 16 (volumes: 2), and the learning rate
falls from 0.0005 to 0. The steps are taken here, since its own loop knows no clock, and an epoch of it takes longer
than many minutes of a processor. There is no averaging over flips: it asks for a GPU.

To its loss a voxel is background or not. With `--sparse` a ring of three voxels around annotated objects is background,
and what lies farther away is left out. The thresholds of foreground and seeds are those of the best AP50 on val/, which
favours it: of as many as can be tried in the time of the training, the package's own first.
"""

from __future__ import annotations

import contextlib
import io
import time
from importlib.metadata import version

import numpy as np
import torch
from EmbedSeg.criterions import get_loss
from EmbedSeg.models import get_model
from EmbedSeg.utils.generate_crops import generate_center_image, generate_center_image_3d
from EmbedSeg.utils.metrics import matching_dataset
from EmbedSeg.utils.utils import Cluster, Cluster_3d
from peer_images import augment, peer_parser, read_pairs, with_channels, write_found, write_training
from skimage.segmentation import expand_labels

RING = 3
#: pairs of foreground and seeds, the package's own first
THRESHOLDS = (
    (0.5, 0.9),
    *((one, other) for other in (0.8, 0.7, 0.6, 0.9, 0.5) for one in (0.5, 0.3, 0.7) if one <= other),
)


def round_up(size: float) -> int:
    """The next multiple of 8, by which the network divides."""
    return 8 * int(np.ceil(size / 8))


def object_sizes(labels: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Extents along each axis, (objects, axes), and voxels of the annotated objects."""
    places = [np.argwhere(label == number) for label in labels for number in np.unique(label[label > 0])]
    return np.stack([np.ptp(voxels, axis=0) + 1 for voxels in places]), np.array([len(voxels) for voxels in places])


def centers(label: np.ndarray, anisotropy: float) -> np.ndarray:
    """Where the centres of the annotated objects are, by the package."""
    numbers = np.unique(label[label > 0])
    if label.ndim == 2:
        return generate_center_image(label, "approximate-medoid", numbers, False)
    return generate_center_image_3d(label, "approximate-medoid", numbers, False, anisotropy, 1)


def crop(
    image: np.ndarray, label: np.ndarray, centre: np.ndarray, patch: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """A window around a voxel, or as near as it fits inside, of image (*spatial, C) and label (*spatial)."""
    start = [int(np.clip(c - p // 2, 0, max(n - p, 0))) for c, p, n in zip(centre, patch, label.shape)]
    window = tuple(slice(a, a + p) for a, p in zip(start, patch))
    short = [(0, max(p - n, 0)) for p, n in zip(patch, label.shape)]
    return np.pad(image[window], [*short, (0, 0)]), np.pad(label[window], short)


def main() -> None:
    """Command line."""
    parser = peer_parser(__doc__)
    parser.add_argument("--spacing", type=float, nargs="+", default=[1.0, 1.0, 1.0], help="after --downsample")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    np.random.seed(arguments.seed)
    torch.manual_seed(arguments.seed)
    step = arguments.downsample
    _, images, labels = read_pairs(arguments.data / "train", arguments.sparse, step)
    names, val_images, val_labels = read_pairs(arguments.val, False, step)
    dims = labels[0].ndim
    images, val_images = with_channels(images, dims), with_channels(val_images, dims)
    extents, voxels = object_sizes([np.maximum(label, 0) for label in labels])
    typical = extents.mean(0) + extents.std(0)
    typical[-2:] = typical[-2:].max()
    patch, batch = tuple(arguments.patch or map(round_up, typical)), 16 if dims == 2 else 2
    anisotropy = arguments.spacing[0] / arguments.spacing[-1] if dims == 3 else 1.0
    # coordinates go from 0 to 1 along the longest side in the plane
    longest = round_up(max(max(label.shape[-2:]) for label in [*labels, *val_labels]))
    unit = np.array([anisotropy, 1.0, 1.0][-dims:]) / (longest - 1)

    def grid(shape: tuple[int, ...]) -> dict:
        """The coordinates of an image for the package, which names axes in place of ordering them."""
        named = {f"grid_{axis}": size for axis, size in zip("zyx"[-dims:], shape)}
        return named | {f"pixel_{axis}": (n - 1) * u for axis, n, u in zip("zyx"[-dims:], shape, unit)}

    samples = []
    for image, label in zip(images, labels, strict=True):
        objects = np.maximum(label, 0)
        known = (label >= 0) | (expand_labels(objects, RING) > 0)
        at = centers(objects, anisotropy)
        # one array of labels, since they are augmented together
        packed = 4 * objects + 2 * at + known
        samples += [(image, packed, centre) for centre in np.argwhere(at)]
    network = get_model(
        "branched_erfnet" if dims == 2 else "branched_erfnet_3d",
        {"num_classes": [2 * dims, 1], "input_channels": images[0].shape[-1]},
    )
    network.init_output(dims)
    weight = 10.0 if dims == 2 else float(np.mean([(label <= 0).sum() / (label > 0).sum() for label in labels]))
    loss_of = get_loss(
        **({"grid_z": None, "pixel_z": None} | grid(patch)),
        one_hot=False,
        loss_opts={"n_sigma": dims, "foreground_weight": weight},
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4, weight_decay=1e-4)
    seconds, began, iterations = 60 * arguments.minutes, time.monotonic(), 0
    quiet = io.StringIO()  # the package prints the shape of each batch
    while (gone := time.monotonic() - began) < seconds:
        optimizer.param_groups[0]["lr"] = 5e-4 * (1 - gone / seconds) ** 0.9
        crops = [augment(*crop(*samples[number], patch)) for number in np.random.randint(len(samples), size=batch)]
        inputs = torch.from_numpy(np.stack([np.moveaxis(image, -1, 0) for image, _ in crops])).float()
        packed = torch.from_numpy(np.ascontiguousarray([one for _, one in crops]))
        objects, at, known = packed // 4, (packed & 2) > 0, (packed & 1) > 0
        background = (objects == 0) & known
        with contextlib.redirect_stdout(quiet):
            loss = loss_of(network(inputs), objects.short(), (~background).short(), at, w_inst=1, w_var=10, w_seed=1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        iterations += 1
    minutes = (time.monotonic() - began) / 60

    network.eval()
    outputs = []
    for image, label in zip(val_images, val_labels, strict=True):
        short = [(0, round_up(n) - n) for n in label.shape]
        inputs = torch.from_numpy(np.moveaxis(np.pad(image, [*short, (0, 0)], mode="symmetric"), -1, 0)[None].copy())
        with torch.no_grad():
            output = network(inputs.float())[0]
        outputs.append(output[(slice(None), *(slice(n) for n in label.shape))])

    def instances(foreground: float, seeds: float) -> list[np.ndarray]:
        """What the package's clustering finds in the validation images at these thresholds."""
        kind = Cluster if dims == 2 else Cluster_3d
        return [
            kind(**grid(output.shape[1:]), device=torch.device("cpu"))
            .cluster(output, n_sigma=dims, seed_thresh=seeds, fg_thresh=foreground, min_object_size=int(voxels.min()))
            .numpy()
            for output in outputs
        ]

    found, best, began = None, -1.0, time.monotonic()
    for foreground, seeds in THRESHOLDS:
        if found is None or time.monotonic() < began + seconds:
            one = instances(foreground, seeds)
            score = matching_dataset(val_labels, one, thresh=0.5, show_progress=False).accuracy
            if score > best:
                found, best = one, score
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, objects in zip(names, found, strict=True):
        write_found(objects, name, arguments.val, arguments.output, step)
    program = f"EmbedSeg {version('EmbedSeg')}, torch {torch.__version__}"
    write_training(arguments.output, minutes, iterations, True, program)


if __name__ == "__main__":
    main()
