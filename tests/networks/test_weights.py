import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.networks import load_weights, weights_file


def test_loads_flat_and_nested_state_dicts(tmp_path):
    source = nn.Linear(3, 2)
    for content in (source.state_dict(), {"model": source.state_dict()}):
        torch.save(content, tmp_path / "model.pt")
        target = load_weights(nn.Linear(3, 2), tmp_path / "model.pt")
        assert torch.equal(target.weight, source.weight)


class Evil:
    def __reduce__(self):
        return (print, ("this must not run",))


def broken_files():
    good = nn.Linear(3, 2).state_dict()
    yield "another architecture", {**good, "extra": torch.zeros(1)}
    yield "missing keys", {"weight": good["weight"]}
    yield "another shape", {**good, "bias": torch.zeros(7)}
    yield "not a state dict", [1, 2, 3]


@pytest.mark.parametrize("name, content", list(broken_files()))
def test_what_does_not_fit_is_refused_by_name(tmp_path, name, content):
    file = tmp_path / "model.pt"
    torch.save(content, file)
    with pytest.raises(SpocoError, match="model.pt"):
        load_weights(nn.Linear(3, 2), file)


def test_truncated_missing_and_dangerous_files_are_refused(tmp_path, capsys):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "whole.pt")
    data = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    torch.save({"a": Evil()}, tmp_path / "evil_zip.pt")
    (tmp_path / "stackless.pt").write_bytes(b"\x80\x02R.")  # the unpickler pops from an empty list
    for name in ("half.pt", "empty.pt", "evil.pt", "evil_zip.pt", "stackless.pt", "absent.pt"):
        with pytest.raises(SpocoError, match=name):
            load_weights(nn.Linear(3, 2), tmp_path / name)
    assert "must not run" not in capsys.readouterr().out


def test_the_scored_network_is_in_model_pt_whichever_it_was(tmp_path):
    names = {key: Path(weights_file(tmp_path, *key)).name for key in ((None,), ("teacher",), ("student",))}
    assert names == {(None,): "model.pt", ("teacher",): "model.pt", ("student",): "model_student.pt"}
    assert Path(weights_file(tmp_path, other=True)).name == "model_student.pt"
    assert Path(weights_file(tmp_path, "student", other=True)).name == "model.pt"
    (tmp_path / "model_teacher.pt").touch()
    names = {key: Path(weights_file(tmp_path, *key)).name for key in ((None,), ("teacher",), ("student",))}
    assert names == {(None,): "model.pt", ("teacher",): "model_teacher.pt", ("student",): "model.pt"}
    assert Path(weights_file(tmp_path, other=True)).name == "model_teacher.pt"


def test_the_folder_that_was_looked_in_is_named_where_the_path_does_not_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpocoError, match=rf"^models/model.pt: no such weights file in {tmp_path}, .*--bundle_root"):
        load_weights(nn.Linear(3, 2), "models/model.pt")
    with pytest.raises(SpocoError, match="model.pt: no such weights file; train first"):
        load_weights(nn.Linear(3, 2), tmp_path / "model.pt")
