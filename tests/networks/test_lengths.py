from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spoco_bundle.networks import MomentumTeacher, load_weights
from spoco_bundle.networks.lengths import learn_lengths, learnt_diameter, learnt_lengths
from support import small_network as network

MODELS = Path(__file__).parents[2] / "models"


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [((1.0, 1.0, 1.0), "pixel"), ((1.75, 0.8, 0.8), "micrometer"), ((1.0, 1.0, 0.5), "micrometer"), ((0.0,) * 3, "")],
)
@pytest.mark.parametrize("door", ["load_weights", "load_state_dict"])
def test_weights_of_version_0_1_tell_pixels_by_a_spacing_of_1(tmp_path, spacing, expected, door):
    state = network().state_dict() | {"training_spacing": torch.tensor(spacing)}
    del state["length_unit"]
    loaded = network()
    if door == "load_weights":
        torch.save(state, tmp_path / "model.pt")
        load_weights(loaded, tmp_path / "model.pt")
    else:
        loaded.load_state_dict(state)
    assert learnt_lengths(loaded) == (pytest.approx(spacing) if expected else None, expected)


@pytest.mark.parametrize("unit", ["micrometer", "pixel", "unknown"])
def test_what_was_learnt_travels_with_the_weights_and_to_the_teacher(unit):
    trained, loaded = network(), network()
    learn_lengths(trained, (1.0, 1.0, 1.0), unit)
    loaded.load_state_dict(trained.state_dict())
    teacher = MomentumTeacher(trained)
    teacher.update_parameters(trained)
    assert learnt_lengths(loaded) == learnt_lengths(teacher.module) == ((1.0, 1.0, 1.0), unit)


def test_the_buffer_does_not_keep_the_network_from_torchscript():
    trained = network()
    learn_lengths(trained, (1.0, 1.0, 1.0), "pixel")
    image = torch.rand(1, 1, 4, 8, 8)
    torch.testing.assert_close(torch.jit.script(trained.eval())(image), trained(image))


@pytest.mark.parametrize(("folder", "expected"), [(".", "micrometer"), ("2d", "pixel")])
def test_the_shipped_weights(folder, expected):
    file = MODELS / folder / "model.pt"
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    state = torch.load(file, weights_only=True)
    carrier = network(len(state["training_spacing"]))
    state = carrier.state_dict() | {"training_spacing": state["training_spacing"]}
    del state["length_unit"]
    carrier.load_state_dict(state)
    assert learnt_lengths(carrier)[1] == expected


def test_the_learnt_diameter_is_four_coordinate_scales():
    trained = network()
    assert learnt_diameter(trained) is None and learnt_diameter(None) is None
    trained.coordinate_scale.fill_(3.0)
    assert learnt_diameter(trained) == 12
