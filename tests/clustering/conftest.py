"""A small scene of balls, as non-spatial and as semi-convolutional embeddings."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage


def make_scene(spatial_dims=3, coordinates=False, channels=8, noise=0.05, seed=0):
    """Nine or six separated and touching balls; a background of one colour, or of its own positions."""
    random = np.random.default_rng(seed)
    shape = (24, 48, 48)[-spatial_dims:]
    radius = 7.0
    grid = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in shape], indexing="ij"))
    middles = [(12, y, x)[-spatial_dims:] for y in (9, 21, 38) for x in (9, 24, 39)]
    distance = np.stack([np.sqrt(((grid.T - m) ** 2).sum(-1)).T for m in middles])
    label = np.where(distance.min(0) <= radius, distance.argmin(0) + 1, 0)
    colours = random.normal(size=(len(middles) + 1, channels)).astype(np.float32) * 2
    colours -= colours[0]
    embeddings = np.moveaxis(colours[label], -1, 0).copy()
    if coordinates:
        embeddings *= 0.3
        centres = np.array([[0.0] * spatial_dims, *ndimage.center_of_mass(label > 0, label, range(1, 10))])
        votes = np.where(label > 0, np.moveaxis(centres[label], -1, 0), grid) / radius
        embeddings[:spatial_dims] = votes
    embeddings += noise * random.normal(size=embeddings.shape).astype(np.float32)
    objectness = np.where(label > 0, 1 - distance.min(0) / (radius + 1), 0.02).astype(np.float32)
    return SimpleNamespace(embeddings=embeddings, label=label, objectness=objectness, spatial_dims=spatial_dims)


@pytest.fixture(scope="session")
def scene():
    """The scene's maker."""
    return make_scene
