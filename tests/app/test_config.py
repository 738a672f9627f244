from __future__ import annotations

import json

import pytest

from spoco_bundle.app.config import MODEL_CONFIG, find_config, read_configs, write_model_config
from spoco_bundle.core.errors import SpocoError, user_error


def test_an_unknown_override_names_the_nearest_id():
    files = [find_config("train")]
    with pytest.raises(SpocoError, match="--crop_sizes: no such id; did you mean --crop_size"):
        read_configs(files, {"crop_sizes": 3})
    with pytest.raises(SpocoError, match="see configs"):
        read_configs(files, {"qqqqqq": 3})
    with pytest.raises(SpocoError, match="set --spatial_dims"):
        read_configs(files, {"spatial_dims#deep": 3})
    assert read_configs(files, {"network_def#dropout": 0.5}).get("network_def")["dropout"] == 0.5


def test_overlays_are_found_by_name_or_path_and_win_over_the_base(tmp_path):
    own = tmp_path / "own.json"
    own.write_text('{"batch_size": 77}')
    assert find_config("2d").name == "2d.json" and find_config(own) == own
    merged = read_configs([find_config("train"), find_config("2d"), own], {"max_epochs": 3})
    assert [merged.get(key) for key in ("spatial_dims", "batch_size", "max_epochs")] == [2, 77, 3]
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
    path = write_model_config([find_config("train"), find_config("2d")], {"embedding_channels": 5}, tmp_path / "model")
    shared = json.loads(path.read_text())
    assert path.name == MODEL_CONFIG
    assert (shared["spatial_dims"], shared["embedding_channels"], shared["channels"]) == (2, 5, [16, 32, 64, 64])
    inference = read_configs([find_config("inference")], {}).get()
    assert set(shared) <= set(inference) and not {"device", "run", "output_dir", "max_epochs"} & set(shared)
    assert read_configs([find_config("inference"), path], {}).get("embedding_channels") == 5


@pytest.mark.parametrize(("max_epochs", "interval"), [(3, 3), (5, 5), (30, 5)])
def test_a_training_shorter_than_the_interval_of_validation_ends_with_one(max_epochs, interval):
    """Without any validation there would be no model."""
    parser = read_configs([find_config("train")], {"max_epochs": max_epochs})
    (number,) = (i for i, h in enumerate(parser["train#handlers"]) if h["_target_"] == "ValidationHandler")
    assert parser.get_parsed_content(f"train#handlers#{number}#interval") == interval
