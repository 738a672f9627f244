"""A data set of flat images at two magnifications, made of one: half of the images are shrunk to half their size.

python scripts/two_magnifications.py he_nuclei_rgb mixed
python scripts/zero_options.py . --only mixed --minutes 9 --threads 1 --set equal_sizes=True --set equal_sizes=False

Of train/ every second image is shrunk; in val/ each image stands at both sizes. It shows what a training does with
images from several lenses that do not state the size of their pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from one_line import one_line_errors
from prepared import Example, write_data_set

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.resampling import resize_linear, resize_nearest
from spoco_bundle.dataset import build_datalist, image_name
from spoco_bundle.formats import read_image


def resized(split: str, pair: dict[str, str], scale: float) -> Example:
    """An image and its labels at so many times their size, without a size of pixels.

    Args:
        split: to which it belongs.
        pair: paths of image and label.
        scale: of the size, 1 for as it is.

    Raises:
        SpocoError: if the image has not one or three channels of 8 bits.
    """
    image, label = read_image(pair["image"], spatial_dims=2).array, read_image(pair["label"], "label", 2).array
    if image.dtype != np.uint8 or len(image) not in (1, 3):
        raise SpocoError(
            f"{pair['image']}: has {len(image)} channels of {image.dtype}: give images in gray or RGB, of uint8"
        )
    shape = [round(scale * size) for size in label.shape[1:]]
    pixels = resize_linear(torch.from_numpy(image).float(), shape).round().numpy().astype(np.uint8)
    colour = len(pixels) == 3
    return Example(
        split,
        f"{image_name(pair['image']).removesuffix('_raw')}_x{scale:g}",
        np.moveaxis(pixels, 0, -1) if colour else pixels[0],
        resize_nearest(torch.from_numpy(label), shape)[0].numpy(),
        (pair["image"], pair["label"]),
        colour=colour,
    )


@one_line_errors()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/ and val/, of images with 8 bits")
    parser.add_argument("output", type=Path, help="folder to make")
    arguments = parser.parse_args()
    pairs = {split: build_datalist(arguments.data, split) for split in ("train", "val")}

    def examples() -> Iterator[Example]:
        for number, pair in enumerate(pairs["train"]):
            yield resized("train", pair, (1, 0.5)[number % 2])
        for pair in pairs["val"]:
            yield from (resized("val", pair, scale) for scale in (1, 0.5))

    write_data_set(arguments.output, examples(), len(pairs["train"]) + 2 * len(pairs["val"]))


if __name__ == "__main__":
    main()
