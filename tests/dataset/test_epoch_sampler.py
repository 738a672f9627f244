from __future__ import annotations

import pytest

from spoco_bundle.dataset import EpochSampler


def epoch_of(sampler, epoch, start=0) -> list[int]:
    sampler.set_position(epoch, start)
    return list(sampler)


def test_order_depends_on_seed_and_epoch_alone():
    one, other = EpochSampler(range(50), seed=3), EpochSampler(range(50), seed=3)
    epoch_of(other, 8)
    assert epoch_of(one, 2) == epoch_of(other, 2)
    assert sorted(epoch_of(one, 2)) == sorted(EpochSampler(range(50))) == list(range(50))
    assert epoch_of(one, 2) != epoch_of(one, 3)
    assert epoch_of(one, 2) != epoch_of(EpochSampler(range(50), seed=4), 2)


@pytest.mark.parametrize("world_size", [1, 3])
def test_resume_in_mid_epoch_continues_the_same_order(world_size):
    for rank in range(world_size):
        sampler = EpochSampler(range(20), seed=1, rank=rank, world_size=world_size)
        whole = epoch_of(sampler, 4)
        assert epoch_of(sampler, 4, 3) == whole[3:]
        # a second pass without a new position is a whole one, and the length never changes
        assert list(sampler) == whole
        assert len(sampler) == len(whole)
        assert epoch_of(sampler, 4, len(whole)) == []


@pytest.mark.parametrize(("samples", "world_size"), [(12, 4), (13, 4), (1, 3), (2, 5)])
def test_every_process_gets_the_same_number_and_all_samples_are_seen(samples, world_size):
    parts = [epoch_of(EpochSampler(range(samples), rank=rank, world_size=world_size), 0) for rank in range(world_size)]
    assert len({len(part) for part in parts}) == 1
    drawn = sum(parts, [])
    assert set(drawn) == set(range(samples))
    assert len(drawn) - samples < world_size


def test_bad_arguments():
    for options in ({"rank": 2, "world_size": 2}, {"data_source": []}):
        with pytest.raises(ValueError, match="rank 2|at least one sample"):
            EpochSampler(**({"data_source": range(4)} | options))
    for start in (-1, 5):
        with pytest.raises(ValueError, match="start_sample"):
            EpochSampler(range(4)).set_position(0, start)
