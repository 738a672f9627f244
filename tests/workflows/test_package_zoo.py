"""The bundle as the model zoo gets it: a folder that works without the package being installed."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import package_zoo
import pytest
import tifffile
import zoo_style

NAME = "spoco_instance_segmentation"
needs_tools = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, zoo_style.TOOLS)), reason="needs the extra 'zoo'"
)


def package(bundle_root, target, *options, python=sys.executable):
    command = [python, bundle_root / "scripts" / "package_zoo.py", target, *options]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def plain_python(tmp_path_factory) -> Path:
    """A Python that has everything the package needs, and not the package."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # a path listed so is searched, but its own .pth files, one of which installs the package, are not read
    installed = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(installed) + "\n")
    python = folder / "bin" / "python"
    found = subprocess.run([python, "-c", "import torch, spoco_bundle"], cwd=folder, capture_output=True, text=True)
    assert "No module named 'spoco_bundle'" in found.stderr
    return python


def test_a_link_out_of_the_bundle_is_not_followed(tmp_path, monkeypatch):
    bundle, secret = tmp_path / "bundle", tmp_path / "secret.json"
    (bundle / "configs").mkdir(parents=True)
    (bundle / "LICENSE").touch()
    secret.write_text("{}")
    (bundle / "configs" / "own.json").symlink_to(secret)
    monkeypatch.setattr(package_zoo, "ROOT", bundle)
    with pytest.raises(SystemExit, match="configs/own.json: is a link out of"):
        package_zoo.assemble(tmp_path / "target")
    assert not (tmp_path / "target" / "configs").exists()


def test_archive_is_reproducible_and_holds_the_bundle_alone(bundle_root, tmp_path):
    archives = []
    for name in ("first", "second"):
        result = package(bundle_root, tmp_path / name, "--quick")
        assert result.returncode == 0, result.stderr
        archives.append(tmp_path / name / f"{NAME}.zip")
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with zipfile.ZipFile(archives[0]) as archive:
        names = archive.namelist()
    assert {name.split("/")[1] for name in names} == {"LICENSE", "configs", "docs", "models", "spoco_bundle"}
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    package_files = [path for path in (bundle_root / "spoco_bundle").rglob("*") if path.is_file()]
    wanted = {f"{NAME}/{path.relative_to(bundle_root)}" for path in package_files if "__pycache__" not in path.parts}
    assert wanted <= set(names)


def test_the_readme_names_only_what_is_packed(bundle_root, tmp_path):
    package_zoo.assemble(tmp_path)
    readme = (tmp_path / "docs" / "README.md").read_text()
    assert package_zoo.check_files(tmp_path) == ""
    assert not re.search(r"(^|`)(spoco [a-z]|python scripts/)", readme, re.M)
    (tmp_path / "docs" / "README.md").write_text(f"{readme}![a](pictures/a.png), [b](b.md#c): python scripts/c.py\n")
    problems = package_zoo.check_files(tmp_path).split("; ")
    assert problems == [f"docs/README.md: {name} is not packed" for name in ("pictures/a.png", "b.md", "scripts/c.py")]


def test_links_to_other_documents_become_text():
    text = package_zoo.standalone("[a](a.md#b), [c](#c), [d](https://d.org)\n`spoco train x`\nspoco predict y\n")
    assert text.startswith("a, [c](#c), [d](https://d.org)\n`python -m spoco_bundle.cli train x`\npython -m spoco")


@needs_tools
def test_the_copy_gets_the_zoos_style_and_what_remains_is_found(tmp_path):
    imports = "import torch\n\nimport spoco_bundle\n\n"
    (tmp_path / "a.py").write_text(
        f"{imports}used = (\n    torch,\n    spoco_bundle,\n)\npairs = list(zip(used, used))\n"
    )
    (tmp_path / "b.py").write_text("def f(a=list()):\n    return a\n")
    files = [Path("a.py"), Path("b.py")]
    assert all(zoo_style.findings(tmp_path, files[:1]).values()), "this file is to break every check"
    zoo_style.restyle(tmp_path, files)
    found = zoo_style.findings(tmp_path, files)
    assert (found["isort"], found["black"]) == ("", "")
    assert "b.py:1:9: " in found["flake8"] and "a.py" not in found["flake8"]


@pytest.mark.slow
def test_unpacked_archive_predicts_without_the_package(bundle_root, sample, plain_python, tmp_path):
    assert package(bundle_root, tmp_path, "--quick").returncode == 0
    with zipfile.ZipFile(tmp_path / f"{NAME}.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    folder = tmp_path / "unpacked" / NAME
    command = [plain_python, "-m", "monai.bundle", "run", "--config_file", folder / "configs" / "inference.json"]
    command += ["--bundle_root", folder, "--dataset_dir", sample / "val", "--output_dir", tmp_path / "out"]
    result = subprocess.run([str(part) for part in command], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert tifffile.imread(tmp_path / "out" / "field_b_raw_instances.ome.tif").shape == (10, 40, 48)


@needs_tools
@pytest.mark.slow
def test_checks_of_the_zoo_pass(bundle_root, shared_dir, plain_python, tmp_path):
    schema = shared_dir / "contracts" / "meta_schema_20240725.json"
    if not schema.is_file():
        pytest.skip(f"{schema} is missing, and the schema is not downloaded in tests")
    result = package(bundle_root, tmp_path, "--schema", schema, "--skip-unit-tests", python=plain_python)
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("ok ") == 11


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["", "_dist"])
def test_unit_tests_in_the_form_of_the_zoo_pass(variant, bundle_root, plain_python, tmp_path):
    assert package(bundle_root, tmp_path, "--quick").returncode == 0
    command = [plain_python, f"ci/unit_tests/test_{NAME}{variant}.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    assert f"Ran {1 if variant else 2} test" in result.stderr
