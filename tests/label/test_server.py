import json
import socket

import pytest
import torch
from monai.bundle import ConfigParser

from spoco_bundle.app.config import write_model_config
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.label import server
from support import TINY, run_python


def test_the_app_holds_a_whole_bundle_with_the_merged_settings(tmp_path):
    bundle = server.prepare_app(tmp_path, random_weights=True, **TINY)
    train = ConfigParser.load_config_file(bundle / "configs" / "train.json")
    inference = ConfigParser.load_config_file(bundle / "configs" / "inference.json")
    assert train["crop_size"] == TINY["crop_size"] and train["background_label"] == 65535
    assert train["channels"] == inference["channels"] == TINY["channels"]
    assert "crop_size" not in inference
    network = ConfigParser(inference).get_parsed_content("network_def")
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    assert (tmp_path / "main.py").read_text() == server.MAIN
    assert (bundle / "configs" / "multi_gpu_train.json").is_file()


def test_weights_of_earlier_trainings_stay(tmp_path):
    bundle = server.prepare_app(tmp_path, random_weights=True, **TINY)
    weights = (bundle / "models" / "model.pt").read_bytes()
    server.prepare_app(tmp_path, random_weights=True, seed=5, **TINY)
    assert (bundle / "models" / "model.pt").read_bytes() == weights


def test_a_2d_model_says_so(tmp_path):
    bundle = server.prepare_app(tmp_path, random_weights=True, config=[server.find_config("2d")], in_channels=3)
    image = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    assert len(image["spatial_shape"]) == 2 and image["num_channels"] == 3


def test_a_trained_model_brings_its_settings_and_weights(tmp_path):
    trained = server.prepare_app(tmp_path / "other", random_weights=True, **TINY) / "models"
    write_model_config([server.find_config("train")], TINY, trained)
    bundle = server.prepare_app(tmp_path, str(trained))
    inference = ConfigParser.load_config_file(bundle / "configs" / "inference.json")
    assert inference["channels"] == TINY["channels"]
    assert (bundle / "models" / "model.pt").read_bytes() == (trained / "model.pt").read_bytes()


def test_unknown_ids_and_missing_weights_are_named(tmp_path):
    with pytest.raises(SpocoError, match="did you mean --crop_size"):
        server.prepare_app(tmp_path, random_weights=True, crop_sise=[8, 8, 8])
    with pytest.raises(SpocoError, match="random_weights"):
        server.prepare_app(tmp_path, str(tmp_path / "nothing"))


def test_the_name_names_no_other_task_and_the_server_stays_on_this_machine(tmp_path):
    assert not [word for word in ("deepedit", "deepgrow", "detection", "classification") if word in server.NAME]
    command, variables = server.server_command(tmp_path / "bin" / "python", tmp_path, tmp_path, 8123)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert "*.tiff" in json.loads(variables["MONAI_LABEL_DATASTORE_FILE_EXT"])
    for word in ("127.0.0.1:8123", "3D Slicer", "QuPath", "OHIF", "confirmed", "no object"):
        assert word in server.how_to_connect(8123, tmp_path)


def test_a_missing_folder_and_a_taken_port_are_named_before_anything_is_built(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for studies, words in ((tmp_path / "missing", "no such folder"), (tmp_path, "listens there")):
            with pytest.raises(SpocoError, match=words):
                server.run_server(studies, tmp_path / "out", tmp_path / "env", port, "", False, (), {})
    assert not (tmp_path / "env").exists()
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_things_is_not_cleared(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SpocoError, match="holds other things"):
        server.build_environment(tmp_path)
    assert (tmp_path / "thesis.txt").is_file()


def test_nothing_of_the_bundle_but_the_app_needs_monai_label():
    # a room that imported it would not even load in the bundle's own environment
    code = "import spoco_bundle.cli, spoco_bundle.label.client, sys; assert 'monailabel' not in sys.modules"
    assert run_python(["-c", code], cwd=".").returncode == 0
