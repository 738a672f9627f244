"""Annotate, train, predict, correct in napari: a plugin whose window talks to the commands of this package.

The window is ``widget`` and the modules of its sections; ``reader`` hands images to napari; ``session`` and ``jobs``
know neither napari nor Qt.
"""
