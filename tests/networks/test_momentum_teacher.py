import copy

import pytest
import torch
from torch import nn

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.networks import MomentumTeacher


def student():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))


def drift(net, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*net.parameters(), *net.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator))
            else:
                tensor.add_(1)


@pytest.mark.parametrize("warm_up", [True, False])
def test_follows_the_formula_in_parameters_and_buffers(warm_up):
    net = student()
    teacher = MomentumTeacher(net, momentum=0.9, warm_up=warm_up)
    expected = {}
    for step in range(20):
        drift(net, step)
        state = {k: v.double() for k, v in net.state_dict().items()}
        teacher.update_parameters(net)
        m = min(0.9, (1 + step) / (10 + step)) if warm_up else 0.9
        m = 0.0 if step == 0 else m  # the first step copies
        expected = {k: m * expected.get(k, 0) + (1 - m) * v for k, v in state.items()}
    for key, value in teacher.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[key], rtol=1e-5, atol=1e-5)
        else:
            assert value == net.state_dict()[key]


def test_has_no_gradient_and_stays_in_evaluation_mode():
    teacher = MomentumTeacher(student())
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_its_own_forward_pass_leaves_its_statistics_alone():
    teacher = MomentumTeacher(student())
    before = copy.deepcopy(teacher.module.state_dict())
    teacher(torch.rand(2, 1, 8, 8))
    assert all(torch.equal(before[k], v) for k, v in teacher.module.state_dict().items())


def test_copy_from_starts_anew():
    net = student()
    teacher = MomentumTeacher(net)
    teacher.update_parameters(net)
    drift(net, 3)
    teacher.copy_from(net)
    assert int(teacher.n_averaged) == 0
    assert all(torch.equal(net.state_dict()[k], v) for k, v in teacher.module.state_dict().items())


def test_state_dict_of_the_inner_network_fits_the_student():
    net = student()
    assert MomentumTeacher(net).module.state_dict().keys() == net.state_dict().keys()


def test_momentum_outside_its_range_is_refused():
    with pytest.raises(SpocoError, match="momentum"):
        MomentumTeacher(student(), momentum=1.0)
