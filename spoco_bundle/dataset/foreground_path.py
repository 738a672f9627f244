"""Where the foreground mask of an image lies."""

from __future__ import annotations

from pathlib import Path

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats.itk_io import JPEG_SUFFIXES
from spoco_bundle.formats.names import file_suffix, image_name


def foreground_path(image: str | Path, foreground_ending: str, image_ending: str) -> Path:
    """The mask NAME + ``foreground_ending`` beside an image NAME + ``image_ending``, in the image's format.

    Args:
        image: the file.
        foreground_ending: how the names of masks end before the suffix.
        image_ending: how the image's name ends there; an image that ends otherwise keeps its whole name.

    Raises:
        SpocoError: if there is no such file.
    """
    image = Path(image)
    suffix = file_suffix(image)
    # a mask is read as ids are, which JPEG blurs
    suffix = ".png" if suffix.lower() in JPEG_SUFFIXES else suffix
    mask = image.with_name(f"{image_name(image).removesuffix(image_ending)}{foreground_ending}{suffix}")
    if not mask.exists():
        raise SpocoError(f"{image}: has no foreground mask {mask.name} beside it: add it, or unset foreground_ending")
    return mask
