import pytest
import torch

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.networks import EmbeddingUNet

SMALL_3D = dict(
    spatial_dims=3,
    out_channels=5,
    channels=(4, 6, 8),
    strides=((1, 2, 2), 2),
    kernel_sizes=((1, 3, 3), 3, 3),
    convolutions=(1, 2, 2),
)
SMALL_2D = dict(
    spatial_dims=2, out_channels=5, channels=(4, 6, 8), strides=(2, 2), kernel_sizes=(3, 3, 3), convolutions=2
)


def network(settings, **overrides):
    torch.manual_seed(0)
    net = EmbeddingUNet(**{**settings, **overrides})
    with torch.no_grad():  # statistics other than 0 and 1, so that batch norm is not the identity
        for module in net.modules():
            if getattr(module, "running_var", None) is not None:
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.mark.parametrize(
    "settings, size", [(SMALL_3D, (5, 9, 11)), (SMALL_3D, (1, 1, 1)), (SMALL_2D, (13, 7)), (SMALL_2D, (1, 2))]
)
def test_output_has_the_size_of_the_input(settings, size):
    assert network(settings)(torch.rand(2, 1, *size)).shape == (2, 5, *size)


@pytest.mark.parametrize("settings, size", [(SMALL_3D, (5, 9, 11)), (SMALL_2D, (13, 7))])
def test_torchscript_agrees(settings, size):
    net = network(settings)
    image = torch.rand(1, 1, *size)
    torch.testing.assert_close(torch.jit.script(net)(image), net(image))


@pytest.mark.parametrize("settings, size", [(SMALL_3D, (48, 96, 96)), (SMALL_2D, (96, 96))])
def test_receptive_radius_is_never_exceeded(settings, size):
    net = network(settings, norm=None, act="prelu", out_channels=1)
    image = torch.rand(1, 1, *size, requires_grad=True)
    centre = tuple(s // 2 for s in size)
    net(image)[(0, 0, *centre)].backward()
    reached = image.grad[0, 0].nonzero()
    far = (reached - torch.tensor(centre)).abs().amax(0)
    assert (far <= torch.tensor(net.receptive_radius)).all()
    assert (far >= torch.tensor(net.receptive_radius) // 2).all()  # the bound is not idle


@pytest.mark.parametrize("settings, size", [(SMALL_3D, (8, 16, 16)), (SMALL_2D, (16, 16))])
def test_shift_by_the_total_stride_shifts_the_output(settings, size):
    net = network(settings)
    stride = net.total_stride
    big = torch.rand(1, 1, *(s + 4 * t + 2 * (r // t + 1) * t for s, t, r in zip(size, stride, net.receptive_radius)))
    whole = net(big)
    part = net(big[(..., *(slice(t, None) for t in stride))])
    inner = [(slice(r, -r)) for r in net.receptive_radius]
    shifted = whole[(..., *(slice(t, None) for t in stride))]
    torch.testing.assert_close(part[(..., *inner)], shifted[(..., *inner)], rtol=1e-4, atol=1e-5)


def test_dropout_acts_in_training_only():
    net = network(SMALL_2D, dropout=0.5, norm="instance")
    image = torch.rand(1, 1, 16, 16)
    torch.testing.assert_close(net(image), net(image))
    net.train()
    assert not torch.allclose(net(image), net(image))


def test_every_parameter_gets_gradient():
    net = network(SMALL_3D).train()
    net(torch.rand(2, 1, 8, 16, 16)).square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(strides=(2,)), "got 1, 3 and 3"),
        (dict(kernel_sizes=(3, 3)), "got 2, 2 and 3"),
        (dict(kernel_sizes=(2, 3, 3)), "kernel_sizes must be odd"),
        (dict(strides=((1, 2, 2), 2)), "strides is .*, or 2 for a 2D"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change, words):
    with pytest.raises(SpocoError, match=words):
        EmbeddingUNet(**{**SMALL_2D, **change})
