from __future__ import annotations

import pickle

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import UNet
from torch import nn

from spoco_bundle.core import precision
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.inferers import HaloWindowInferer, halo_window
from spoco_bundle.inferers.halo_window import windows_along_axis
from spoco_bundle.networks import EmbeddingUNet


def small_network(spatial_dims: int) -> EmbeddingUNet:
    """Two levels, with batch norm statistics and weights away from their initial values."""
    torch.manual_seed(spatial_dims)
    network = EmbeddingUNet(
        spatial_dims,
        out_channels=3,
        channels=(4, 6),
        strides=((1, 2, 2)[-spatial_dims:],),
        kernel_sizes=((1, 3, 3)[-spatial_dims:], 3),
        convolutions=2,
    )
    network.train()
    for _ in range(3):
        network(torch.randn(2, 1, *(8,) * spatial_dims) * 2 + 1)
    return network.eval()


class Recorder(nn.Module):
    """Passes its input on and remembers the shapes it saw."""

    def __init__(self, total_stride):
        super().__init__()
        self.total_stride = total_stride
        self.shapes = []

    def forward(self, x, gain=1):
        self.shapes.append(tuple(x.shape))
        return torch.cat([x, -x], dim=1) * gain


@pytest.mark.parametrize(("window", "halo", "multiple"), [(16, 4, 4), (15, 3, 2), (20, 0, 4), (12, 5, 1), (9, 4, 1)])
def test_cores_tile_the_axis_with_halos_inside(window, halo, multiple):
    for size in range(multiple, 62, multiple):
        windows = windows_along_axis(size, window, halo, multiple)
        assert windows[0].core_start == 0 and windows[-1].core_stop == size
        for one, following in zip(windows, windows[1:]):
            assert one.core_stop == following.core_start
        for one in windows:
            assert one.start % multiple == 0 and one.stop - one.start == windows[0].stop - windows[0].start
            assert 0 <= one.start <= one.core_start < one.core_stop <= one.stop <= size
            assert one.start == 0 or one.core_start - one.start >= halo
            assert one.stop == size or one.stop - one.core_stop >= halo


@pytest.mark.parametrize("shape", [(9, 70, 41), (3, 64, 64), (1, 33, 90), (30, 50, 1)])
@torch.no_grad()
def test_windows_equal_the_whole_volume_3d(shape):
    network = small_network(3)
    image = torch.randn(2, 1, *shape)
    whole = HaloWindowInferer((64, 128, 128), 0)(image, network)
    windows = HaloWindowInferer([2 * r + 6 for r in network.receptive_radius], sw_batch_size=3)(image, network)
    assert whole.shape == windows.shape == (2, 3, *shape)
    assert torch.allclose(windows, whole, atol=1e-5)


@pytest.mark.parametrize("shape", [(97, 64), (53, 5), (2, 77), (1, 1)])
@torch.no_grad()
def test_windows_equal_the_whole_image_2d(shape):
    network = small_network(2)
    image = torch.randn(1, 1, *shape)
    whole = HaloWindowInferer(256, 0)(image, network)
    windows = HaloWindowInferer(36, 14)(image, network)
    assert max(network.receptive_radius) <= 14
    assert torch.allclose(windows, whole, atol=1e-5)


@torch.no_grad()
def test_one_pass_is_the_network_itself_where_no_padding_is_needed():
    network = small_network(3)
    image = torch.randn(1, 1, 5, 12, 18)
    assert torch.equal(HaloWindowInferer((8, 32, 32), 2)(image, network), network(image))


@torch.no_grad()
def test_too_small_a_halo_shows_in_the_result():
    """The comparison above is able to fail."""
    network = small_network(2)
    image = torch.randn(1, 1, 96, 96)
    whole = network(image)
    assert not torch.allclose(HaloWindowInferer(24, 1)(image, network), whole, atol=1e-3)


@torch.no_grad()
def test_other_networks_tell_their_stride_by_argument():
    torch.manual_seed(0)
    network = UNet(2, 1, 2, channels=(4, 8), strides=(2,), norm="batch", num_res_units=0).eval()
    image = torch.randn(1, 1, 62, 40)
    windows = HaloWindowInferer(40, 12, stride_multiple=2)(image, network)
    assert torch.allclose(windows, network(image), atol=1e-5)
    with pytest.raises(SpocoError, match="stride_multiple: UNet has no attribute total_stride"):
        HaloWindowInferer(40, 12)(image, network)
    with pytest.raises(SpocoError, match="halo: UNet has no attribute receptive_radius"):
        HaloWindowInferer(40, stride_multiple=2)(image, network)


def test_window_shapes_batches_and_arguments():
    network = Recorder((1, 4, 4))
    image = torch.randn(1, 1, 5, 30, 50)
    out = HaloWindowInferer((5, 16, 24), (0, 4, 4), sw_batch_size=2)(image, network, gain=3)
    assert torch.equal(out, torch.cat([image, -image], dim=1) * 3)
    assert {shape[1:] for shape in network.shapes} == {(1, 5, 16, 24)}
    assert max(shape[0] for shape in network.shapes) == 2


def test_windows_that_are_chosen_are_the_whole_volume_or_few_large_ones():
    network = Recorder((2, 2))
    HaloWindowInferer(halo=2, window_voxels=30 * 30)(torch.zeros(1, 1, 30, 29), network)
    assert network.shapes == [(1, 1, 30, 30)]
    network = Recorder((2, 2))
    HaloWindowInferer(halo=2, window_voxels=30 * 20)(torch.zeros(1, 1, 30, 29), network)
    assert len(network.shapes) == 2 and max(shape[2] * shape[3] for shape in network.shapes) <= 600


def test_windows_that_are_chosen_leave_half_of_the_memory(monkeypatch):
    network = Recorder((2, 2))
    network.head = torch.nn.Conv2d(4, 1, 1)
    monkeypatch.setattr(halo_window, "available_memory", lambda: 2 * 52 * 4 * 600.0)
    HaloWindowInferer(halo=2)(torch.zeros(1, 1, 30, 29), network)
    assert len(network.shapes) == 2


def test_a_halo_larger_than_half_a_usual_window_needs_no_window_to_be_set():
    image = torch.randn(1, 1, 70, 40)
    assert torch.equal(HaloWindowInferer(halo=30, window_voxels=100)(image, Recorder((4, 4)))[:, :1], image)


@pytest.mark.parametrize("mode", ["reflect", "symmetric", "edge"])
def test_padding_of_axes_shorter_than_the_padding(mode):
    image = torch.arange(6.0).reshape(1, 1, 1, 2, 3)
    network = Recorder((8, 8, 8))
    assert torch.equal(HaloWindowInferer(16, 0, padding_mode=mode)(image, network)[:, :1], image)
    assert network.shapes == [(1, 1, 8, 8, 8)]


def test_metadata_dtype_and_devices():
    image = MetaTensor(torch.randn(1, 1, 20, 20), affine=torch.diag(torch.tensor([0.5, 0.5, 1.0, 1.0])))
    out = HaloWindowInferer(8, 2, device="cpu", sw_device="cpu")(image, Recorder((1, 1)))
    assert isinstance(out, MetaTensor) and torch.equal(out.affine, image.affine)
    half = HaloWindowInferer(8, 2, stride_multiple=1)(image, lambda x: x.half())
    assert half.dtype == torch.float16


def test_wrapped_network():
    wrapped = nn.DataParallel(Recorder((1, 1)))
    assert HaloWindowInferer(8, 2)(torch.zeros(1, 1, 9, 9), wrapped).shape == (1, 2, 9, 9)


def test_refusals():
    image, network = torch.zeros(1, 1, 40, 40), Recorder((8, 8))
    with pytest.raises(SpocoError, match="window_size .*leaves no core; make it at least 24"):
        HaloWindowInferer(16, 8)(image, network)
    with pytest.raises(SpocoError, match="roi_size is .*or 2 for a 2D image"):
        HaloWindowInferer((8, 8, 8), 0)(image, network)
    with pytest.raises(SpocoError, match="halo"):
        HaloWindowInferer(16, -1)(image, network)
    with pytest.raises(SpocoError, match="padding_mode"):
        HaloWindowInferer(16, 1, padding_mode="constant")
    with pytest.raises(SpocoError, match="sw_batch_size"):
        HaloWindowInferer(16, 1, sw_batch_size=0)


def test_bfloat16_gives_nearly_the_same_in_float32():
    network, image = small_network(3), torch.randn(1, 1, 12, 16, 20)
    with torch.inference_mode():
        exact = HaloWindowInferer()(image, network)
        rough = HaloWindowInferer(precision="bfloat16")(image, network)
    assert rough.dtype == torch.float32 and not torch.equal(rough, exact)
    assert (rough - exact).abs().max() < 0.03 * exact.abs().max()
    with pytest.raises(SpocoError, match="precision: 'half' is unknown"):
        HaloWindowInferer(precision="half")(image, network)


def test_rows_that_shrink_to_one_voxel_are_computed_in_float32(monkeypatch):
    monkeypatch.setattr(precision, "_has_native_bfloat16", lambda device: True)
    network = small_network(3)
    with torch.inference_mode():
        for width, same in ((1, True), (2, True), (3, False)):
            image = torch.randn(1, 1, 9, 33, width)
            exact = HaloWindowInferer()(image, network)
            assert torch.equal(HaloWindowInferer(precision="auto")(image, network), exact) == same


def test_what_was_looked_at_is_not_computed_again():
    network, image = small_network(3), torch.randn(1, 1, 6, 12, 10)
    passes = []
    network.register_forward_hook(lambda *_: passes.append(1))
    inferer, other = HaloWindowInferer(), torch.zeros_like(image)
    with torch.inference_mode():
        seen = [inferer.look(part, network) for part in (image, other)]
        again = inferer(MetaTensor(image.clone(), affine=torch.eye(4)), network)
        assert len(passes) == 2 and isinstance(again, MetaTensor) and torch.equal(again.as_tensor(), seen[0])
        _ = inferer(image, network)  # taken once: by now the weights may be others
        assert len(passes) == 3
        _ = inferer.look(image, network)
        assert not pickle.loads(pickle.dumps(inferer))._looked
        for asked, by in ((image[..., :8], network), (image + 1e-6, network), (image, small_network(3))):
            assert torch.equal(inferer(asked, by), HaloWindowInferer()(asked, by))
            _ = inferer.look(image, network)
