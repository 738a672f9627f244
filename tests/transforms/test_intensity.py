from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter

from spoco_bundle.core import sampling
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.transforms import NormalizePercentiled
from spoco_bundle.transforms.intensity import intensity_range


def image(shape=(2, 6, 20, 20)) -> torch.Tensor:
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(1)) ** 3
    return noise * 0.2 + torch.linspace(0, 0.8, shape[-1]) ** 2


def run(values: torch.Tensor) -> torch.Tensor:
    return NormalizePercentiled("image")({"image": values})["image"]


def test_percentiles_go_to_0_and_1():
    out = np.asarray(run(image()))
    for channel in out:
        assert np.percentile(channel, [1, 99.8]) == pytest.approx([0, 1], abs=1e-5)
        assert channel.max() > 1 and channel.min() < 0, "not clipped"


@pytest.mark.parametrize(("scale", "offset"), [(1000.0, 200.0), (1e-3, -5e-3), (1.0, 7.0)])
def test_invariant_to_affine_changes_of_intensity(scale, offset):
    assert torch.allclose(run(image() * scale + offset), run(image()), atol=1e-4)


def test_channels_are_normalised_apart():
    twice = image()
    twice[1] = twice[0] * 50
    out = run(twice)
    assert torch.allclose(out[0], out[1], atol=1e-5)


def test_constant_and_nearly_constant_images():
    assert torch.equal(run(torch.full((1, 4, 4), 7.0)), torch.zeros(1, 4, 4))
    spots = torch.zeros(1, 100, 100)
    spots[0, 5, 5] = 1.0
    out = run(spots * 300 + 12)
    assert torch.allclose(out, spots), "one bright voxel in 10,000 lies beyond both percentiles"


def test_integers_and_metadata():
    values = MetaTensor((image() * 60000).to(torch.int32), meta={"filename_or_obj": "a.tif"})
    out = run(values)
    assert out.dtype == torch.float32 and out.meta["filename_or_obj"] == "a.tif"
    assert torch.allclose(out.as_tensor(), run(image()), atol=1e-3)


def test_a_part_takes_the_range_of_the_whole():
    whole = image()
    assert torch.equal(NormalizePercentiled.apply(whole[..., :7], intensity_range(whole)), run(whole)[..., :7])


def test_large_images_are_sampled(monkeypatch):
    exact = intensity_range(image((1, 64, 64, 64)))
    monkeypatch.setattr(sampling, "SAMPLED_VOXELS", 50_000)
    sampled = intensity_range(image((1, 64, 64, 64)))
    assert torch.allclose(sampled, exact, atol=0.01) and not torch.equal(sampled, exact)
    assert torch.equal(sampled, intensity_range(image((1, 64, 64, 64))))


def test_inverted_images_are_as_those_of_the_negative_with_the_percentiles_swapped():
    inverted = NormalizePercentiled("image", invert=True)
    out = inverted({"image": image()})["image"]
    assert torch.allclose(out, 1 - run(image()), atol=1e-5)
    part = inverted.apply(image()[..., :7], inverted.fit(image()))
    assert torch.equal(part, out[..., :7])
    assert not inverted({"image": torch.full((1, 4, 4), 7.0)})["image"].any()


def blurred_noise(sigma: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(1, 24, 64, 64))
    return gaussian_filter(noise, (0, sigma, sigma, sigma)) if sigma else noise


@pytest.mark.parametrize("offset", [100.0, 3e4])
@pytest.mark.parametrize("sigma", [0.0, 0.7, 1.0])
def test_noise_is_not_stretched_until_it_looks_like_objects(caplog, sigma, offset):
    noise = blurred_noise(sigma)
    values = MetaTensor(torch.tensor(offset + 500 * noise), meta={"filename_or_obj": "folder/noise.tif"})
    out = run(values)
    assert np.percentile(out, 99.8) < 0.3
    assert "folder/noise.tif: hardly any contrast" in caplog.text


def test_a_few_faint_objects_in_noise_are_contrast_enough(caplog):
    noise = blurred_noise(0.0)
    noise[0, 8:14, 20:30, 20:30] += 8  # times the noise
    out = run(torch.tensor(noise))
    assert np.percentile(out, [1, 99.8]) == pytest.approx([0, 1], abs=1e-5) and not caplog.text


def test_a_channel_without_contrast_is_named_and_leaves_the_others(caplog):
    both = torch.cat([image((1, 24, 64, 64)), torch.tensor(blurred_noise(0.0))])
    out = run(both)
    assert np.percentile(out[0], 99.8) == pytest.approx(1, abs=1e-5) and np.percentile(out[1], 99.8) < 0.3
    assert "in channel 1" in caplog.text


@pytest.mark.parametrize("dataset", ["bbbc050", "fib25_neuron", "vnc_mito", "cvppp_a1", "he_nuclei_rgb", "dsb2018"])
def test_no_real_image_lacks_contrast(dataset, caplog, shared_dir):
    for file in sorted((shared_dir / "data" / dataset / "val").glob("*_raw.tif"))[:4]:
        array = tifffile.imread(file)
        colours = array.shape[-1] in (3, 4)
        fitted = NormalizePercentiled("image").fit(np.moveaxis(array, -1, 0)[:3] if colours else array[None])
        assert (np.ptp(fitted.numpy(), 1) > 0).all()
    assert not caplog.text


def test_wrong_percentiles():
    with pytest.raises(SpocoError, match="lower, upper"):
        NormalizePercentiled("image", lower=99, upper=1)
