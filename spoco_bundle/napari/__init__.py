"""Annotate, train, predict, correct in napari: a plugin whose window talks to the commands of this package.

Only ``widget`` knows napari and Qt; ``reader`` hands images to napari, ``session`` and ``jobs`` know neither.
"""
