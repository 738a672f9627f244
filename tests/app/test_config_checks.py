from __future__ import annotations

import inspect
import json
import math
from pathlib import Path

import pytest
import torch
from jsonschema import Draft7Validator
from monai.bundle import ConfigWorkflow

from spoco_bundle import cli
from spoco_bundle.app import config_checks
from spoco_bundle.app.config_checks import _validator, check_ids, check_together, config_folder, shipped_ids
from spoco_bundle.core.errors import SpocoError, user_error
from spoco_bundle.losses.objectness import OBJECTNESS_TARGETS


def shipped_values():
    for file in config_folder().glob("*.json"):
        if file.stem != "metadata":
            yield from json.loads(file.read_text()).items()


def test_the_schema_is_one_and_describes_every_plain_id_of_the_configs():
    schema = _validator().schema
    Draft7Validator.check_schema(schema)
    assert all(entry["description"] for entry in schema["properties"].values())
    assert set(schema["properties"]) <= shipped_ids()
    plain = {
        name
        for name, value in shipped_values()
        if not isinstance(value, dict) and not str(value).startswith(("$@", "$trt", "%", "@")) and "#" not in name
    }
    run_by_monai = {"imports", "+imports", "initialize", "finalize", "run", "training", "evaluation", "inference"}
    assert plain - run_by_monai - {"handlers", "backend", "trt_smallest", "trt_largest"} <= set(schema["properties"])
    assert tuple(schema["properties"]["objectness_target"]["enum"]) == OBJECTNESS_TARGETS


def test_the_shipped_values_fit():
    for name, value in shipped_values():
        if "#" not in name and not name.startswith("+"):
            check_ids({name: value}, shipped_ids(), "")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        *[("batch_size", value, "a whole number of at least 1") for value in (0, 1.0, True, "4", None, [2], math.nan)],
        *[("learning_rate", value, "a number above 0") for value in (0, -1, math.inf, math.nan, "fast", True)],
        *[("dropout", value, "a number of at least 0, below 1") for value in (1, -0.1)],
        *[("strides", value, "one whole number or one list") for value in (2, [0], [[]], [[1, 0]], ["2"])],
        *[("kernel_sizes", value, "one odd number or one list") for value in (3, [2], [[3, 4]], [1.0])],
        *[("spacing", value, "a list of positive numbers") for value in (1.0, [0, 1, 1], "1,1,1", [math.inf])],
        *[("window_size", value, "one per axis or one for all") for value in (0, [0, 8, 8], "big")],
        ("device", "cuda:99", "a device that this machine has"),
        ("norm", "layers", "the name of a normalization"),
        ("objectness_target", "inside", "binary or interior"),
        ("ckpt_dir", "", "a path"),
        ("dataset_dir", [], "a path, or a list of paths"),
        ("weights", "both", "teacher, student, or null"),
        ("partly_labelled", "yes", "True or False"),
    ],
)
def test_a_value_that_cannot_be_right_is_told_in_words(name, value, words):
    with pytest.raises(SpocoError) as error:
        check_ids({name: value}, shipped_ids(), "--")
    assert str(error.value).startswith(f"--{name}: {value!r} does not fit; give ") and words in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", "$2 + 2"),
        ("spacing", None),
        ("spacing", (2.0, 1, 1)),
        ("strides", [[1, 2, 2], 2]),
        ("kernel_sizes", [[1, 3, 3], 3]),
        ("output_dir", Path("out")),
        ("device", torch.device("cpu")),
        ("norm", ["group", {"num_groups": 2}]),
        ("norm", None),
        ("max_grad_norm", None),
        ("max_memory", "4GiB"),
        ("window_size", 64),
    ],
)
def test_good_values_and_expressions_pass(name, value):
    check_ids({name: value}, shipped_ids(), "--")


@pytest.mark.parametrize(("dims", "size"), [(2, [8, 8, 8]), (3, [8, 8])])
def test_lists_have_one_number_per_axis(dims, size):
    with pytest.raises(SpocoError, match=f"crop_size: .* give {dims} numbers, one per axis"):
        check_together({"spatial_dims": dims, "crop_size": size}, "--")
    check_together({"spatial_dims": dims, "crop_size": [8] * dims, "window_size": 64}, "--")
    with pytest.raises(SpocoError, match=f"coordinate_channels: {5 - dims} does not fit; give 0 or {dims}"):
        check_together({"spatial_dims": dims, "coordinate_channels": 5 - dims}, "--")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"learning_rat": 3}, "--learning_rat: no such id; did you mean --learning_rate"),
        ({"batch_size": 0}, "--batch_size: 0 does not fit; give a whole number of at least 1"),
        ({"minutes": 5, "tune_minutes": 5}, "--tune_minutes: 5 of 5 minutes leave no time to train; give less"),
        ({"output_dir": "out#1"}, "--output_dir: 'out::1': no path can hold # or :: here"),
        ({"dataset_dir": "a::b"}, "--dataset_dir: 'a::b': no path"),
    ],
)
def test_what_monai_runs_is_checked_with_its_overrides(overrides, said):
    workflow = ConfigWorkflow(
        config_file=str(config_folder() / "train.json"),
        meta_file=str(config_folder() / "metadata.json"),
        logging_file=False,
        **overrides,
    )
    workflow.initialize()
    with pytest.raises(Exception) as error:
        workflow.run()
    assert str(user_error(error.value)).startswith(said)


def test_options_of_commands_are_known_to_the_one_that_was_meant():
    commands = [cli.Spoco.predict, cli.Spoco.train, cli.Spoco.learning_curve]
    taken = {name for command in commands for name in inspect.signature(command).parameters}
    assert set(config_checks.OPTIONS) == taken - {"self", "input", "dataset_dir", "overrides"}
