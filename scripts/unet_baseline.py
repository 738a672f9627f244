"""A U-Net of three classes with a watershed on the same objects, to compare with: what a lab would write with MONAI.

    python scripts/unet_baseline.py DATA DATA/val --output found --minutes 20

Classes are the background, the inside of an object, and its outermost voxels. With `--sparse` the background is a ring
of three voxels around annotated objects; whatever lies farther away counts as background too, with a hundredth of the
weight: most of it is, and were it ignored, the network would find objects all over dark images. Connected parts in
which the inside is more probable than a threshold are the seeds of a watershed over all that is no background. The
threshold is the one of the best AP50 on val/.
"""

from __future__ import annotations

import time

import monai
import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import UNet
from peer_images import augment, peer_parser, read_pairs, with_channels, write_found, write_training
from scipy import ndimage
from skimage.morphology import remove_small_objects
from skimage.segmentation import expand_labels, find_boundaries, watershed
from torch.nn.functional import cross_entropy

from spoco_bundle.metrics import instance_scores, pool_scores

UNKNOWN, UNKNOWN_WEIGHT = -1, 0.01
RING = 3
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)


def classes(label: np.ndarray) -> np.ndarray:
    """0 background, 1 inside, 2 outermost voxels, -1 unknown, of labels in which -1 is not known.

    Args:
        label: (*spatial) integers.
    """
    objects = np.maximum(label, 0)
    target = np.where(label < 0, UNKNOWN, (objects > 0).astype(np.int64))
    target[(label < 0) & (expand_labels(objects, RING) > 0)] = 0
    target[find_boundaries(objects, mode="inner")] = 2
    return target


def crop(image: np.ndarray, target: np.ndarray, patch: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A random crop of image (*spatial, C) and target (*spatial) around a voxel that is known."""
    known = np.argwhere(target >= 0)
    voxel = known[np.random.randint(len(known))]
    start = [int(np.clip(v - np.random.randint(p), 0, max(n - p, 0))) for v, p, n in zip(voxel, patch, target.shape)]
    window = tuple(slice(a, a + p) for a, p in zip(start, patch))
    image, target = augment(image[window], target[window])
    short = [(0, p - n) for p, n in zip(patch, target.shape)]
    return np.pad(image, [*short, (0, 0)], mode="symmetric"), np.pad(target, short, mode="symmetric")


def instances(probabilities: np.ndarray, threshold: float, least: float) -> np.ndarray:
    """A watershed from the parts in which the inside is more probable than the threshold; small objects are left out.

    Args:
        probabilities: (3, *spatial) of the classes.
        threshold: in (0, 1).
        least: voxels of the smallest object.
    """
    background, inside, _ = probabilities
    seeds, _ = ndimage.label(inside > threshold)
    return remove_small_objects(watershed(-inside, seeds, mask=background < 0.5), max_size=int(least))


def ap_50(found: list[np.ndarray], labels: list[np.ndarray]) -> float:
    """Pooled AP50 of instances on completely annotated images."""
    return pool_scores([instance_scores(*pair) for pair in zip(labels, found, strict=True)])["ap_50"]


def main() -> None:
    """Command line."""
    arguments = peer_parser(__doc__).parse_args()
    torch.set_num_threads(arguments.threads)
    monai.utils.set_determinism(arguments.seed)
    step = arguments.downsample
    _, images, labels = read_pairs(arguments.data / "train", arguments.sparse, step)
    names, val_images, val_labels = read_pairs(arguments.val, False, step)
    dims = labels[0].ndim
    images, val_images = with_channels(images, dims), with_channels(val_images, dims)
    targets = [classes(label) for label in labels]
    known = [number for number, target in enumerate(targets) if (target > 0).any()]
    patch, batch = tuple(arguments.patch or ((32, 64, 64) if dims == 3 else (256, 256))), 2 if dims == 3 else 4
    sizes = np.concatenate([np.unique(label[label > 0], return_counts=True)[1] for label in labels])
    network = UNet(dims, images[0].shape[-1], 3, (32, 64, 128, 256), (2, 2, 2), num_res_units=2, norm="batch")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    began, iterations = time.monotonic(), 0
    while time.monotonic() < began + 60 * arguments.minutes:
        crops = [crop(images[n], targets[n], patch) for n in np.random.choice(known, batch)]
        inputs = torch.from_numpy(np.stack([np.moveaxis(image, -1, 0) for image, _ in crops])).float()
        wanted = torch.from_numpy(np.stack([target for _, target in crops]))
        weights = torch.where(wanted == UNKNOWN, UNKNOWN_WEIGHT, 1.0)
        losses = cross_entropy(network(inputs), wanted.clamp_min(0), reduction="none")
        loss = (weights * losses).sum() / weights.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        iterations += 1
    minutes = (time.monotonic() - began) / 60
    arguments.output.mkdir(parents=True, exist_ok=True)
    network.eval()
    probabilities = []
    for image in val_images:
        inputs = torch.from_numpy(np.moveaxis(image, -1, 0)[None])
        with torch.no_grad():
            logits = sliding_window_inference(inputs, patch, 1, network, overlap=0.5, mode="gaussian")
        probabilities.append(logits[0].softmax(0).numpy())
    least = 0.1 * np.median(sizes)
    found = max(
        ([instances(one, threshold, least) for one in probabilities] for threshold in THRESHOLDS),
        key=lambda one: ap_50(one, val_labels),
    )
    for name, objects in zip(names, found, strict=True):
        write_found(objects, name, arguments.val, arguments.output, step)
    program = f"MONAI {monai.__version__}, torch {torch.__version__}"
    write_training(arguments.output, minutes, iterations, True, program)


if __name__ == "__main__":
    main()
