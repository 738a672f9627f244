from __future__ import annotations

from collections import Counter
from copy import deepcopy

import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import MapTransform, OneOf, RandFlipd, RandGaussianNoised, Randomizable, RandSpatialCropd
from torch.utils.data import Subset

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import EpochSampler, SparseCropDataset


class MakeVolume(MapTransform):
    """Stands for reading a file; counts how often."""

    def __init__(self):
        super().__init__("image")
        self.calls = Counter()

    def __call__(self, data):
        self.calls[data["image"]] += 1
        voxels = torch.arange(1000.0).reshape(1, 10, 10, 10) + 1000 * int(data["image"])
        return {"image": MetaTensor(voxels), "path": data["image"]}


class Spoil(MapTransform, Randomizable):
    """Changes its input in place, as careless transforms do."""

    def randomize(self, data=None):
        self.shift = self.R.uniform(1, 2)

    def __call__(self, data):
        self.randomize()
        data["image"] += self.shift
        return data


def tail():
    return [
        RandSpatialCropd("image", (4, 4, 4), random_size=False),
        OneOf([RandGaussianNoised("image", prob=0.5, std=5), RandGaussianNoised("image", prob=1, std=1)]),
    ]


def dataset(volumes=3, transform=None, **options) -> SparseCropDataset:
    options = {"samples_per_epoch": 10, "seed": 5} | options
    head = [MakeVolume()]
    return SparseCropDataset([{"image": str(i)} for i in range(volumes)], head + (transform or tail()), **options)


def same(one, other) -> bool:
    return (
        one["path"] == other["path"]
        and one["sample_seed"] == other["sample_seed"]
        and torch.equal(*map(torch.as_tensor, (one["image"], other["image"])))
    )


def test_sample_is_a_function_of_seed_epoch_and_index():
    one, other = dataset(), dataset()
    for data in (one, other):
        data.set_epoch(2)
    forward = [one[i] for i in range(10)]
    backward = [other[i] for i in reversed(range(10))][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))
    assert not any(same(a, b) for a, b in zip(forward, forward[1:], strict=False))
    one.set_epoch(3)
    assert not any(same(one[i], forward[i]) for i in range(10))
    elsewhere = dataset(seed=6)
    elsewhere.set_epoch(2)
    assert not any(same(elsewhere[i], forward[i]) for i in range(10))
    assert same(one[-1], one[9])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_change_nothing_and_hear_of_the_epoch(persistent):
    data = dataset()
    sampler = EpochSampler(data, seed=5)
    loader = DataLoader(data, batch_size=2, sampler=sampler, num_workers=2, persistent_workers=persistent)
    alone = DataLoader(data, batch_size=2, sampler=sampler, num_workers=0)
    seen = []
    for epoch in (0, 1):
        data.set_epoch(epoch)
        batches = []
        for loaded in (loader, alone):
            sampler.set_position(epoch)
            batches.append(list(loaded))
        for one, other in zip(*batches, strict=True):
            torch.testing.assert_close(one["image"], other["image"], rtol=0, atol=0)
            assert one["sample_seed"].tolist() == other["sample_seed"].tolist()
        seen.append(torch.cat([batch["sample_seed"] for batch in batches[0]]).tolist())
    assert not set(seen[0]) & set(seen[1])


@pytest.mark.parametrize(("samples", "volumes"), [(12, 4), (10, 4), (3, 7)])
def test_volumes_come_equally_often(samples, volumes):
    data = dataset(volumes, samples_per_epoch=samples)
    orders = set()
    for epoch in range(5):
        data.set_epoch(epoch)
        drawn = [data.volume_of(i) for i in range(samples)]
        counts = Counter(drawn)
        assert max(counts.values()) - min(counts.get(i, 0) for i in range(volumes)) <= 1
        assert [int(data[i]["path"]) for i in range(samples)] == drawn
        orders.add(tuple(drawn))
    assert len(orders) == 5


@pytest.mark.parametrize("options", [{"cache_num": 2}, {"cache_rate": 0.5}, {"cache_num": 0}])
def test_uncached_volumes_give_the_same_samples(options):
    whole, partial = dataset(4), dataset(4, **options)
    assert all(same(whole[i], partial[i]) for i in range(10))


def test_volumes_that_were_prepared_take_the_place_of_the_list():
    prepared = [{"image": "7"}, {"image": "8"}]
    data = SparseCropDataset([{"image": "0"}], [MakeVolume(), *tail()], samples_per_epoch=4, volumes=prepared)
    assert {data[i]["path"] for i in range(4)} == {"7", "8"}


def test_head_runs_once_per_cached_volume():
    data = dataset(3, samples_per_epoch=30)
    for i in range(30):
        data[i]
    assert data.transform.transforms[0].calls == {"0": 1, "1": 1, "2": 1}


def test_cache_survives_transforms_that_write_into_it():
    data = dataset(2, transform=[Spoil("image")])
    first = data[3]["image"].clone()
    for i in range(10):
        data[i]
    torch.testing.assert_close(data[3]["image"], first, rtol=0, atol=0)


def test_uncopied_cache_is_left_alone_by_transforms_that_make_new_tensors():
    data = dataset(2, copy_cache=False, transform=[RandFlipd("image", prob=0.5), *tail()])
    kept = [deepcopy(data._cache[volume]) for volume in range(2)]
    for i in range(10):
        data[i]
    for before, after in zip(kept, data._cache, strict=True):
        assert before.keys() == after.keys()
        torch.testing.assert_close(after["image"], before["image"], rtol=0, atol=0)
        assert after["image"].applied_operations == before["image"].applied_operations
        torch.testing.assert_close(after["image"].affine, before["image"].affine, rtol=0, atol=0)


def test_one_volume_as_an_annotation_server_gives_it():
    data = dataset(1, samples_per_epoch=None)
    assert len(data) == 1
    assert data[0]["path"] == "0"
    many = dataset(1, samples_per_epoch=20)
    assert len(many) == 20
    assert len({float(many[i]["image"].flatten()[0]) for i in range(20)}) == 20


def test_several_crops_of_one_sample_get_seeds_of_their_own():
    class Twice(MapTransform, Randomizable):
        def __call__(self, data):
            return [dict(data), dict(data)]

    one, other = dataset(transform=[Twice("image")])[0]
    assert other["sample_seed"] == one["sample_seed"] + 1


def test_sample_seeds_are_spread():
    data = dataset(1, transform=[Spoil("image")], samples_per_epoch=200)
    seeds = np.array([data[i]["sample_seed"] for i in range(200)])
    assert len(set(seeds.tolist())) == 200
    assert seeds.min() >= 0
    assert seeds.max() < 2**31
    assert abs(seeds.mean() / 2**30 - 1) < 0.2


def test_slices_and_ends():
    data = dataset()
    assert isinstance(data[2:4], Subset)
    assert same(data[2:4][1], data[3])
    assert same(data[[1, 3]][1], data[3])
    with pytest.raises(IndexError):
        data[10]
    assert len(list(data)) == 10


def test_bad_arguments():
    with pytest.raises(SpocoError, match="list of training images is empty"):
        SparseCropDataset([], tail())
    with pytest.raises(SpocoError, match="samples_per_epoch is 0"):
        dataset(samples_per_epoch=0)
