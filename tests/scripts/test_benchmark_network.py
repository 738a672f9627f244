from __future__ import annotations

import benchmark_network
import torch

from spoco_bundle.networks import EmbeddingUNet


def drawn_network():
    network = EmbeddingUNet(channels=(4, 6, 8), strides=((1, 2, 2), 2), kernel_sizes=(3, 3, 3), convolutions=2)
    network.train()
    with torch.no_grad():
        for _ in range(3):  # running means and variances unlike those that a network starts with
            network(3 * torch.rand(2, 1, 8, 16, 16) + 1)
    return network.eval()


def test_a_folded_network_computes_the_same_without_normalisation():
    network, image = drawn_network(), torch.rand(1, 1, 8, 16, 16)
    folded = benchmark_network.folded(network)
    assert not [one for one in folded.modules() if isinstance(one, torch.nn.BatchNorm3d)]
    with torch.inference_mode():
        assert torch.allclose(folded(image), network(image), atol=1e-5)
        assert [one for one in network.modules() if isinstance(one, torch.nn.BatchNorm3d)]


def test_every_way_has_a_row_with_its_difference(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network: network)
    rows = benchmark_network.table(drawn_network(), torch.rand(1, 1, 8, 16, 16), repeats=1).splitlines()[2:]
    assert len(rows) == 8
    differences = [float(row.split("|")[-2]) for row in rows[:6]]
    assert differences[0] == 0 and differences[1] < 1e-5
    assert all(1e-4 < difference < 0.1 for difference in differences[2:])  # bfloat16 has eight bits
    assert "4 x 8 x 8" in rows[-2] and "2 x 4 x 4" in rows[-1]
