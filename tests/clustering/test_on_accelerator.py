from __future__ import annotations

import pytest
import torch
from accelerator import AWAY, Accelerator

from spoco_bundle.clustering import density_peaks
from spoco_bundle.core.embedding_field import EmbeddingField


def test_the_stand_in_refuses_tensors_of_two_devices():
    with Accelerator() as accelerator:
        away = accelerator.put(torch.arange(4.0))
        assert (away + 1).device == torch.zeros(2, device=AWAY).device == AWAY
        with pytest.raises(RuntimeError, match="on the CPU"):
            away + torch.ones(4)
        with pytest.raises(RuntimeError, match="on the CPU"):
            away[torch.tensor([0, 2])]
        away[1:3] = 7
        assert away.cpu().tolist() == [0, 7, 7, 3]
        assert accelerator.copied_back == [((4,), torch.float32)]


@pytest.mark.parametrize("coordinates", [False, True])
@pytest.mark.parametrize("max_blocks", [300, 10**9])
def test_density_peaks_stay_on_the_device(scene, coordinates, max_blocks):
    s = scene(3, coordinates)
    parts = [torch.from_numpy(part) for part in (s.embeddings, s.objectness, s.label > 0)]

    def run(embeddings, objectness, foreground):
        field = EmbeddingField(embeddings, objectness=objectness, scale=5.0 if coordinates else None)
        return density_peaks(field, foreground, merge_distance=0.6, max_blocks=max_blocks)

    here = run(*parts)
    with Accelerator() as accelerator:
        away = run(*map(accelerator.put, parts))
        assert accelerator.copied_back == []
    assert away.device == AWAY and torch.equal(away.held, here) and here.max() > 1
