"""A data set of flat images at two magnifications, made of one: half of the images are shrunk to half their size.

python scripts/two_magnifications.py he_nuclei_rgb mixed
python scripts/zero_options.py . --only mixed --minutes 9 --threads 1 --set equal_sizes=True --set equal_sizes=False

Of train/ every second image is shrunk; in val/ each image stands at both sizes. It shows what a training does with
images from several lenses that do not state the size of their pixels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from spoco_bundle.core.atomic_files import atomic_folder
from spoco_bundle.core.resampling import resize_linear, resize_nearest
from spoco_bundle.dataset import build_datalist
from spoco_bundle.formats import read_image
from spoco_bundle.formats.tiff_writing import write_image


def write_pair(pair: dict[str, str], folder: Path, scale: float) -> None:
    """Writes an image and its labels at so many times their size, without a size of pixels.

    Args:
        pair: paths of image and label.
        folder: to write into.
        scale: of the size, 1 for as it is.
    """
    image = torch.from_numpy(read_image(pair["image"], spatial_dims=2).array)
    label = torch.from_numpy(read_image(pair["label"], "label", 2).array)
    shape = [round(scale * size) for size in label.shape[1:]]
    pixels = resize_linear(image.float(), shape).round().numpy().astype(np.uint8).transpose(1, 2, 0)
    colour = pixels.shape[-1] == 3
    name = f"{Path(pair['label']).name.rsplit('_label', 1)[0]}_x{scale:g}"
    write_image(folder / f"{name}_raw.tif", pixels if colour else pixels[..., 0], colour=colour)
    write_image(folder / f"{name}_label.tif", resize_nearest(label, shape)[0].numpy().astype(np.uint16))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/ and val/, of images with 8 bits")
    parser.add_argument("output", type=Path, help="folder to make")
    arguments = parser.parse_args()
    with atomic_folder(arguments.output) as folder:
        for split in ("train", "val"):
            (folder / split).mkdir(parents=True)
            for number, pair in enumerate(build_datalist(arguments.data, split)):
                for scale in (1, 0.5) if split == "val" else ((1, 0.5)[number % 2],):
                    write_pair(pair, folder / split, scale)


if __name__ == "__main__":
    main()
