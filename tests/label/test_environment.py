import json
import tomllib
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.label import environment


def report(torch, torchvision):
    pair = (("torch", torch), ("torchvision", torchvision))
    return {"install": [{"metadata": {"name": name, "version": version}} for name, version in pair]}


def test_the_bundle_fits_beside_monai_label(bundle_root):
    """One environment holds both, and MONAI Label needs pydicom-seg, which takes jsonschema from 3.2 to below 4."""
    project = tomllib.loads((bundle_root / "pyproject.toml").read_text())["project"]
    wanted = {asked.name: asked.specifier for asked in map(Requirement, project["dependencies"])}
    assert wanted["jsonschema"].contains("3.2.0")


@pytest.mark.parametrize(
    ("torch", "torchvision", "fit"),
    [("2.13.0", "0.28.0", True), ("2.13.0+cpu", "0.28.0+cpu", True), ("2.13.0+cpu", "0.28.0", False)],
)
def test_builds_are_told_apart(torch, torchvision, fit):
    assert environment.are_of_one_build(report(torch, torchvision)) == fit


def test_a_torchvision_that_fits_is_chosen_before_anything_is_installed(tmp_path, monkeypatch):
    asked = []

    def pip(command, **options):
        asked.append(command)
        assert "--dry-run" in command
        plain = any("===" in part for part in command)
        return SimpleNamespace(returncode=0, stdout=json.dumps(report("2.13.0" if plain else "2.13.0+cpu", "0.28.0")))

    monkeypatch.setattr(environment.subprocess, "run", pip)
    chosen = environment.torch_with_torchvision(tmp_path / "python")
    assert chosen == ["torch===2.13.0", "torchvision===0.28.0"] and len(asked) == 2
    monkeypatch.setattr(environment.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stdout=""))
    with pytest.raises(SpocoError, match="PIP_EXTRA_INDEX_URL"):
        environment.torch_with_torchvision(tmp_path / "python")


def test_a_folder_with_other_things_is_not_cleared(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SpocoError, match="holds other things"):
        environment.build_environment(tmp_path)
    assert (tmp_path / "thesis.txt").is_file()
