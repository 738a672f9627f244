from __future__ import annotations

import pytest
import torch
from accelerator import AWAY, Accelerator

from spoco_bundle.clustering import cluster_embeddings


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


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("coordinates", [False, True])
@pytest.mark.parametrize("max_blocks", [300, 10**9])
@pytest.mark.parametrize("rule", ["objectness", "foreground", "auto"])
def test_embeddings_stay_on_the_device(scene, spatial_dims, coordinates, max_blocks, rule):
    s = scene(spatial_dims, coordinates)
    maps = {"objectness": torch.from_numpy(s.objectness), "foreground": torch.from_numpy(s.label > 0)}
    embeddings, given = torch.from_numpy(s.embeddings), {rule: maps[rule]} if rule in maps else {}
    settings = {"coordinate_channels": spatial_dims * coordinates, "merge_distance": 0.6, "max_blocks": max_blocks}
    here, confidence = cluster_embeddings(embeddings, return_confidence=True, **given, **settings)
    with Accelerator() as accelerator:
        given = {name: accelerator.put(values) for name, values in given.items()}
        embeddings = accelerator.put(embeddings)
        alone = cluster_embeddings(embeddings, **given, **settings)
        assert accelerator.copied_back == []
        away = cluster_embeddings(embeddings, return_confidence=True, **given, **settings)
        # the boxes of objects are found on the CPU
        assert accelerator.copied_back == [(here.unsqueeze(1).shape if spatial_dims == 2 else here.shape, torch.int32)]
    assert [result.device for result in (alone, *away)] == [AWAY] * 3
    assert here.max() > 1
    assert torch.equal(alone.held, here)
    assert torch.equal(away[0].held, here)
    assert torch.equal(away[1].held, confidence)
