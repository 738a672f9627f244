"""SPOCO as a MONAI bundle: instance segmentation of 2D and 3D images from a few annotated objects."""

__version__ = "0.1.0"
