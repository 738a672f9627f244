"""What the name of a file tells: its format, and the name that its result gets."""

from __future__ import annotations

from pathlib import Path

from spoco_bundle.formats import itk_io, nifti, tiff

IMAGE_SUFFIXES = (
    ".nii.gz .nii .img .ome.tif .ome.tiff .tif .tiff .btf .nrrd .nhdr .mha .mhd .png .jpg .jpeg .bmp .dcm".split()
)
_DOUBLE = (".nii.gz", ".ome.tif", ".ome.tiff", ".ome.zarr", ".seg.nrrd")


def file_suffix(path: str | Path) -> str:
    """The end of a file name that tells its format, ``.nii.gz`` and ``.ome.tif`` included, as written."""
    name = Path(path).name
    for double in _DOUBLE:
        if name.lower().endswith(double):
            return name[-len(double) :]
    return Path(name).suffix


def image_name(path: str | Path) -> str:
    """File name without folder and suffix (``a/b.ome.tif`` gives ``b``)."""
    name = Path(path).name
    suffix = file_suffix(name)
    return name[: -len(suffix)] if suffix else name


def is_zarr(path: str | Path) -> bool:
    """Whether a folder is a Zarr group or array."""
    return any((Path(path) / mark).is_file() for mark in (".zgroup", ".zarray", "zarr.json"))


def is_image(path: str | Path) -> bool:
    """Whether this is, by its name, a file that is read here, or a Zarr group or array."""
    return str(path).lower().endswith(tuple(IMAGE_SUFFIXES)) and Path(path).is_file() or is_zarr(path)


def family(path: Path) -> str:
    """The reader of a file: ``"zarr"``, ``"nifti"``, ``"tiff"`` or ``"itk"``."""
    name = path.name.lower()
    if name.endswith(".zarr") or is_zarr(path):
        return "zarr"
    if name.endswith(nifti.SUFFIXES):
        return "nifti"
    return "tiff" if name.endswith(tiff.SUFFIXES) else "itk"


def result_suffix(path: str | Path) -> str:
    """The suffix of labels for an image: that of the image, or where it cannot hold them in one file, one that can.

    Pictures that lose ids become PNG; a header with its voxels in another file the single-file form of its format; a
    DICOM file NRRD, which holds its grid and its unit.
    """
    suffix = file_suffix(path)
    small = suffix.lower()
    if is_zarr(path):
        return ".ome.zarr"
    if small in itk_io.LOSSY_SUFFIXES:
        return ".png"
    if small in nifti.PAIR_SUFFIXES:
        return ".nii"
    if small in (".dcm", ""):
        return ".nrrd"
    return itk_io.DETACHED.get(small, suffix)
