from __future__ import annotations

import json

import pytest
from monai.bundle import ConfigParser

from spoco_bundle.app import config
from spoco_bundle.app.config import find_config, path_or_word, read_configs
from spoco_bundle.app.model_config import MODEL_CONFIG, model_overlay, write_model_config
from spoco_bundle.app.run_record import write_run_record
from spoco_bundle.core.errors import SpocoError, user_error
from support import PLAN


def write(path, ids):
    path.write_text(json.dumps(ids))
    return path


def test_an_unknown_override_names_the_nearest_id():
    files = [find_config("train")]
    with pytest.raises(SpocoError, match="--crop_sizes: no such id; did you mean --crop_size"):
        read_configs(files, {"crop_sizes": 3})
    with pytest.raises(SpocoError, match="see configs"):
        read_configs(files, {"qqqqqq": 3})
    with pytest.raises(SpocoError, match="set --momentum"):
        read_configs(files, {"momentum#deep": 3})
    assert read_configs(files, {"network_def#dropout": 0.5}).get("network_def")["dropout"] == 0.5


def test_overlays_are_found_by_name_or_path_and_win_over_the_base(tmp_path):
    own = tmp_path / "own.json"
    own.write_text('{"batch_size": 77}')
    assert find_config("demo").name == "demo.json" and find_config(own) == own
    merged = read_configs([find_config("train"), find_config("demo"), own], {"max_epochs": 3})
    assert [merged.get(key) for key in ("keep_fraction", "batch_size", "max_epochs")] == [0.25, 77, 3]
    with pytest.raises(SpocoError, match="config nosuch: .*nonspatial"):
        find_config("nosuch")


def test_a_broken_file_is_named(tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text('{"a": ')
    with pytest.raises(SpocoError, match="broken.json: not a JSON config"):
        read_configs([broken], {})


def test_the_users_error_is_found_inside_others():
    wanted = SpocoError("mend this")
    try:
        try:
            try:
                raise wanted
            except SpocoError as error:
                raise RuntimeError("applying transform") from error
        except RuntimeError:
            raise KeyError("instantiating") from None
    except KeyError as error:
        outer = error
    assert user_error(outer) is wanted and user_error(wanted) is wanted
    assert user_error(KeyError("a defect")) is None


def test_the_model_config_holds_what_prediction_shares(tmp_path):
    files = [find_config("train"), write(tmp_path / "plan.json", {**PLAN, "channels": [4, 4, 4, 4]})]
    path = write_model_config(read_configs(files, {"embedding_channels": 5}), tmp_path / "model")
    shared = json.loads(path.read_text())
    assert path.name == MODEL_CONFIG
    assert (shared["spatial_dims"], shared["embedding_channels"], shared["channels"]) == (3, 5, [4, 4, 4, 4])
    inference = read_configs([find_config("inference")], {}).get()
    assert set(shared) <= set(inference) and not {"device", "run", "output_dir", "max_epochs"} & set(shared)
    assert read_configs([find_config("inference"), path], {}).get("embedding_channels") == 5


@pytest.mark.parametrize(("max_epochs", "validated"), [(3, [3]), (5, [5]), (7, [5, 7]), (15, [5, 10, 15])])
def test_a_training_ends_with_a_validation(max_epochs, validated):
    """Without any validation there would be no model, and epochs after the last one would be for nothing."""
    parser = read_configs([find_config("train")], {"max_epochs": max_epochs})
    numbers = [i for i, h in enumerate(parser["train#handlers"]) if h["_target_"] == "ValidationHandler"]
    intervals = [
        parser.get_parsed_content(f"train#handlers#{number}#interval")
        for number in numbers
        if not parser.get_parsed_content(f"train#handlers#{number}#_disabled_")
    ]
    assert sorted(epoch for step in intervals for epoch in range(step, max_epochs + 1, step)) == validated


ODD_NAMES = ("data#1", "@home", "%05d", "$HOME", "[1] 2024", 'it\'s "#3"', "a::b", "import #x")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_path_reaches_the_run_as_it_was_given(name, tmp_path, monkeypatch):
    parser = read_configs([find_config("inference")], {"output_dir": name, "dataset_dir": [name, "plain"]})
    assert parser.get_parsed_content("output_dir") == name
    assert parser.get_parsed_content("dataset_dir") == [name, "plain"]

    def workflow(**arguments):
        raise SpocoError(str(ConfigParser({"x": arguments["output_dir"]}).get_parsed_content("x")))

    monkeypatch.setattr("monai.bundle.ConfigWorkflow", workflow)
    with pytest.raises(SpocoError) as error:
        config.run_configs([find_config("inference")], {"output_dir": name}, "infer")
    assert str(error.value) == name
    record = json.loads(
        write_run_record("predict", [find_config("inference")], {"output_dir": name}, tmp_path).read_text()
    )
    assert record["ids"]["output_dir"] == name and record["overrides"]["output_dir"].endswith(name)


@pytest.mark.parametrize("name", ["a#1", "models/a#1.pt", "True", "None"])
def test_paths_are_what_was_typed(name):
    assert str(path_or_word(name)) == name


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"run": ["$print(1)"]}, "run is no setting of a model"),
        ({"+imports": ["$import os"]}, "imports is no setting of a model"),
        ({"output_dir": "/etc"}, "output_dir is no setting"),
        ({"min_fraction": "$__import__('os').system('true')"}, "min_fraction would run .*__import__"),
        ({"channels": [8, "$print()"]}, "channels would run"),
        ({"network_def": {"_target_": "os.system", "command": "true"}}, "network_def would run 'os.system'"),
        ({"clustering#_target_": "os.system"}, "_target_ would run 'os.system'"),
        ({"network_def": {"_target_": ["os.system"]}}, "network_def would run"),
        ({"clustering#method": "%/tmp/other.json#x"}, "clustering#method would run"),
    ],
)
def test_a_model_config_that_would_run_code_is_refused(content, named, tmp_path):
    (tmp_path / MODEL_CONFIG).write_text(json.dumps(content))
    with pytest.raises(SpocoError, match=f"model.json: .*{named}"):
        model_overlay(tmp_path)


@pytest.mark.parametrize("names", [["demo"], ["paper"], ["paper", "paper_mitochondria"], ["nonspatial"]])
def test_a_model_config_that_training_writes_is_accepted(names, tmp_path):
    train, *others = [find_config(name) for name in ("train", *names)]
    files = [train, write(tmp_path / "plan.json", PLAN), *others]
    path = write_model_config(read_configs(files, {"dropout": 0.1}), tmp_path)
    assert model_overlay(tmp_path) == [path]


def test_code_of_an_own_config_is_not_kept_with_the_model(tmp_path, caplog):
    own = tmp_path / "own.json"
    write(own, {**PLAN, "norm": "$'in' + 'stance'", "channels": "$[4] * 4", "dropout": 0.2})
    kept = json.loads(write_model_config(read_configs([find_config("train"), own], {}), tmp_path / "model").read_text())
    # what the profile decides is kept as it came out
    assert kept["dropout"] == 0.2 and kept["channels"] == [4] * 4 and "norm" not in kept
    assert "norm holds code of your own config" in caplog.text


def test_the_config_of_a_model_of_version_0_1_is_brought_up_to_date(tmp_path):
    old = {
        "spacing": [0.01, 0.01, 0.01],
        "target_spacing": [0.02, 0.02, 0.02],
        "embedding_channels": 16,
        "clustering": {
            "_target_": "spoco_bundle.transforms.ClusterEmbeddingsd",
            "keys": "pred",
            "method": "density_peaks",
            "merge_distance": 4.0,
            "coordinate_channels": "@coordinate_channels",
            "network": "@network_def",
            "min_size": 200,
        },
    }
    path = tmp_path / "model.json"
    path.write_text(json.dumps(old))
    assert model_overlay(tmp_path) == [path]
    new = {
        "assumed_spacing": [0.01, 0.01, 0.01],
        "target_spacing": [0.02, 0.02, 0.02],
        "embedding_channels": 16,
        "clustering#merge_distance": 4.0,
        "clustering#min_size": 200,
    }
    kept = json.loads(path.read_text())
    assert kept | new == kept
    # what it left out was as the defaults of that version
    assert kept["channels"] == [8, 16, 32, 64] and kept["min_fraction"] == 0.1
    assert model_overlay(tmp_path) == [path] and json.loads(path.read_text()) == kept
