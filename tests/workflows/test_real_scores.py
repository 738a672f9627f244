"""Scores on real images, which no change may lower unnoticed, and what a training decides there."""

from __future__ import annotations

import pytest
import torch
from benchmark_clustering import raw_outputs, read_argument, scores_of
from tissue_table import measured
from zoom_table import ap_50

from spoco_bundle.app.plan import is_dense
from spoco_bundle.dataset import build_datalist


@pytest.mark.parametrize(
    ("argument", "ap_50", "sbd"),
    [
        pytest.param("bbbc050:spacing=[1.75,0.8,0.8]", 0.769, 0.816, marks=pytest.mark.slow),
        ("dsb2018", 0.812, 0.820),
    ],
)
def test_shipped_weights_keep_their_scores(shared_dir, argument, ap_50, sbd):
    name = argument.split(":")[0]
    if not (shared_dir / "data" / name).is_dir():
        pytest.skip(f"{name} is not in {shared_dir / 'data'}")
    _, parser = read_argument(f"{shared_dir / 'data'}/{argument}")
    torch.set_num_threads(1)
    pooled = scores_of(parser, raw_outputs(parser))
    assert pooled["ap_50"] == pytest.approx(ap_50, abs=0.002)
    assert pooled["sbd"] == pytest.approx(sbd, abs=0.002)


@pytest.mark.slow
def test_nuclei_of_unknown_size_are_found_eight_times_as_large(shared_dir):
    """No scale from a half to twice shows anything of them."""
    if not (shared_dir / "data" / "dsb2018").is_dir():
        pytest.skip(f"dsb2018 is not in {shared_dir / 'data'}")
    pairs = build_datalist(shared_dir / "data" / "dsb2018", "val")[:10]
    as_they_are, enlarged = (ap_50(pairs, 2, zoom, None) for zoom in (1, 8))
    assert enlarged > as_they_are - 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "share", "dense"),
    [
        ("fib25_neuron", 0.25, True),
        ("epithelial_tube_3d", 0.25, False),
        ("vectra_2ch", 1.0, False),
        ("bbbc050", 0.25, False),
        ("cvppp_a1", 0.25, False),
        ("usiigaci_phase", 0.25, False),
    ],
)
def test_tissue_is_told_by_the_annotated_objects(shared_dir, name, share, dense):
    if not (shared_dir / "data" / name).is_dir():
        pytest.skip(f"{name} is not in {shared_dir / 'data'}")
    assert is_dense(measured(str(shared_dir / "data" / name), keep_fraction=share)) is dense
