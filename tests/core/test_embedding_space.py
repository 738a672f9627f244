"""Distances, kernels and coordinates."""

from __future__ import annotations

import math

import pytest
import torch

from spoco_bundle.core.embedding_space import (
    add_coordinates,
    coordinate_lines,
    full_precision,
    kernel_scale,
    soft_mask,
    squared_distances,
)
from spoco_bundle.core.errors import SpocoError


def exact(a, b):
    return (a.double()[:, None] - b.double()[None]).square().sum(2)


@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_kernel_takes_its_threshold_at_delta_var(threshold):
    assert soft_mask(torch.tensor(0.7**2), 0.7, threshold).item() == pytest.approx(threshold, rel=1e-6)
    assert kernel_scale(0.7, threshold) == pytest.approx(0.49 / -math.log(threshold))


@pytest.mark.parametrize(("delta_var", "threshold"), [(0, 0.5), (-1, 0.5), (0.5, 0), (0.5, 1), (float("nan"), 0.5)])
def test_kernel_refuses_impossible_parameters(delta_var, threshold):
    with pytest.raises(SpocoError, match=r"delta_var|kernel_threshold"):
        kernel_scale(delta_var, threshold)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_squared_distances_do_not_depend_on_the_origin(offset):
    torch.manual_seed(0)
    a, b = torch.randn(7, 5) + offset, torch.randn(9, 5) + offset
    assert torch.allclose(squared_distances(a, b).double(), exact(a, b), rtol=1e-5, atol=1e-5)


def test_squared_distances_keep_float64_and_raise_half_precision():
    a = torch.randn(3, 4, dtype=torch.float64)
    assert squared_distances(a, a).dtype == torch.float64
    half = a.bfloat16()
    assert torch.allclose(squared_distances(half, half).double(), exact(half, half), atol=1e-5)


def test_squared_distances_under_autocast_are_float32():
    a = torch.randn(6, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = squared_distances(a, a)
    assert torch.equal(inside, squared_distances(a, a))


def test_squared_distances_have_the_right_gradient_and_bear_empty_sets():
    torch.manual_seed(0)
    a, b = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(squared_distances, (a, b))
    assert squared_distances(a, b[:0]).shape == (4, 0)


def test_full_precision_restores_the_setting_after_an_error():
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(RuntimeError), full_precision(torch.device("cpu")):
            assert torch.get_float32_matmul_precision() == "highest"
            raise RuntimeError
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_coordinates_are_lengths_over_the_scale_and_count_from_the_origin():
    rows, columns = coordinate_lines((2, 3), (0.5, 2.0), 4.0, origin=(10, 20))
    assert rows.dtype == torch.float32
    assert rows.tolist() == [5.0 / 4, 5.5 / 4]
    assert columns.tolist() == [10.0, 10.5, 11.0]


def test_adding_coordinates_makes_a_new_tensor_and_leaves_other_channels_alone():
    embeddings = torch.randn(2, 5, 4, 6, requires_grad=True)
    before = embeddings.detach().clone()
    spacing = torch.tensor([[1.0, 2.0], [0.5, 0.25]])
    added = add_coordinates(embeddings, spacing, 4.0)
    assert torch.equal(embeddings.detach(), before)
    assert torch.equal(added[:, 2:], before[:, 2:])
    for item in range(2):
        lines = coordinate_lines((4, 6), spacing[item].tolist(), 4.0)
        grid = torch.stack(torch.meshgrid(*lines, indexing="ij"))
        assert torch.allclose(added[item, :2], before[item, :2] + grid)
    added.sum().backward()
    assert torch.equal(embeddings.grad, torch.ones_like(before))


def test_coordinates_are_not_rounded_to_half_precision():
    added = add_coordinates(torch.zeros(1, 3, 600, 4, dtype=torch.bfloat16), (1.0, 1.0), 1.0)
    assert added.dtype == torch.float32
    assert added[0, 0, 513, 0] == 513


@pytest.mark.parametrize(
    ("channels", "spacing", "scale", "word"),
    [
        (2, (1, 1, 1), 1.0, "channels"),
        (3, (1, 1), 1.0, "spacing"),
        (3, (1, 0, 1), 1.0, "spacing"),
        (3, (1, 1, 1), 0, "scale"),
    ],
)
def test_coordinates_that_do_not_fit_are_refused(channels, spacing, scale, word):
    with pytest.raises(SpocoError, match=word):
        add_coordinates(torch.zeros(1, channels, 2, 2, 2), spacing, scale)
