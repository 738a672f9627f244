import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.label.app_folder import MAIN, learnt_kernel, prepare_app
from support import TINY


def test_the_app_holds_a_whole_bundle_with_the_merged_settings(tmp_path):
    bundle = prepare_app(tmp_path, random_weights=True, **TINY)
    train = ConfigParser.load_config_file(bundle / "configs" / "train.json")
    inference = ConfigParser.load_config_file(bundle / "configs" / "inference.json")
    assert train["crop_size"] == TINY["crop_size"] and train["background_label"] == 65535
    assert train["channels"] == inference["channels"] == TINY["channels"]
    assert "crop_size" not in inference
    network = ConfigParser(inference).get_parsed_content("network_def")
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    assert (tmp_path / "main.py").read_text() == MAIN
    assert (bundle / "configs" / "multi_gpu_train.json").is_file()


def test_objects_are_as_wide_as_the_loss_makes_them(tmp_path):
    bundle = prepare_app(tmp_path, random_weights=True, **TINY, **{"loss#delta_var": 1.5})
    assert learnt_kernel(bundle) == {"delta_var": 1.5, "kernel_threshold": 0.5}


def test_weights_of_earlier_trainings_stay(tmp_path):
    bundle = prepare_app(tmp_path, random_weights=True, **TINY)
    weights = (bundle / "models" / "model.pt").read_bytes()
    prepare_app(tmp_path, random_weights=True, seed=5, **TINY)
    assert (bundle / "models" / "model.pt").read_bytes() == weights


def test_a_2d_model_says_so(tmp_path):
    bundle = prepare_app(tmp_path, random_weights=True, spatial_dims=2, in_channels=3)
    image = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    assert len(image["spatial_shape"]) == 2 and image["num_channels"] == 3


def test_a_trained_model_brings_its_settings_and_weights(tmp_path):
    trained = prepare_app(tmp_path / "other", random_weights=True, **TINY) / "models"
    bundle = prepare_app(tmp_path, str(trained))
    inference = ConfigParser.load_config_file(bundle / "configs" / "inference.json")
    assert inference["channels"] == TINY["channels"]
    assert (bundle / "models" / "model.pt").read_bytes() == (trained / "model.pt").read_bytes()


def test_other_weights_than_those_that_are_there_are_refused(tmp_path):
    first, second = (prepare_app(tmp_path / name, random_weights=True, **TINY) / "models" for name in ("one", "two"))
    app = tmp_path / "app"
    bundle = prepare_app(app, str(first), **TINY)
    weights = (bundle / "models" / "model.pt").read_bytes()
    for arguments, words in (
        ({"model": str(second)}, f"--model .*began from {first}; give another --output"),
        ({"random_weights": True}, "--random_weights: .*holds weights already"),
        ({"model": str(tmp_path / "nothing")}, "holds no model.pt"),
        ({"model": str(first), "random_weights": True}, "give one of them"),
    ):
        with pytest.raises(SpocoError, match=words):
            prepare_app(app, **arguments, **TINY)
    for same in ({"model": str(first)}, {}):
        prepare_app(app, **same, **TINY)
    assert (bundle / "models" / "model.pt").read_bytes() == weights


def test_a_second_start_keeps_what_the_weights_were_made_with(tmp_path):
    trained = prepare_app(tmp_path / "other", random_weights=True, **TINY) / "models"
    prepare_app(tmp_path / "app", str(trained))
    shutil.rmtree(tmp_path / "other")
    bundle = prepare_app(tmp_path / "app")
    assert ConfigParser.load_config_file(bundle / "configs" / "train.json")["channels"] == TINY["channels"]
    prepare_app(tmp_path / "plane", random_weights=True, spatial_dims=2)
    bundle = prepare_app(tmp_path / "plane")
    assert ConfigParser.load_config_file(bundle / "configs" / "train.json")["spatial_dims"] == 2


def test_unknown_ids_and_missing_weights_are_named(tmp_path):
    with pytest.raises(SpocoError, match="did you mean --crop_size"):
        prepare_app(tmp_path, random_weights=True, crop_sise=[8, 8, 8])
    with pytest.raises(SpocoError, match="nothing: holds no model.pt"):
        prepare_app(tmp_path, str(tmp_path / "nothing"))


def test_weights_that_were_copied_by_half_do_not_count(tmp_path, monkeypatch):
    trained = prepare_app(tmp_path / "other", random_weights=True, **TINY) / "models"

    def copyfile(source, target, **_):
        content = Path(source).read_bytes()
        of_weights = Path(source).parent == trained
        Path(target).write_bytes(content[:1000] if of_weights else content)
        if of_weights:
            raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patched, pytest.raises((OSError, SpocoError), match="space"):
        patched.setattr(shutil, "copyfile", copyfile)
        prepare_app(tmp_path / "app", str(trained))
    bundle = prepare_app(tmp_path / "app", str(trained))
    assert (bundle / "models" / "model.pt").read_bytes() == (trained / "model.pt").read_bytes()
