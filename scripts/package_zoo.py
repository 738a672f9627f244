"""Assembles the bundle as the MONAI model zoo wants it, checks it the way the zoo does, and packs it.

    python scripts/package_zoo.py dist            # dist/models/spoco_instance_segmentation/, its .zip and dist/ci/
    python scripts/package_zoo.py dist --quick    # assembles and packs only: neither the zoo's style nor its checks

The folders lie as in the zoo's repository: `models` holds the bundle alone, no installation of the package is needed,
its code lies beside the configs; `ci/unit_tests` holds its unit tests. The copy of the code is put into the zoo's style
(`zoo_style.py`); of the documents the README is packed, without links to the others. The archive of the bundle is the
same byte for byte whenever it is made from the same files, by the same versions of the tools.

Checks, each in a process of its own that runs in the assembled folder: file set, sizes and version; metadata against
the schema (downloaded by MONAI, or `--schema FILE`); the network's input and output against the metadata; TorchScript;
properties of the training, evaluation and inference workflows; isort, black and flake8 as the zoo runs them; the unit
tests, unless `--skip-unit-tests`. `--pins` also asks the package index whether every pinned requirement can be
installed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import zoo_style

NAME = "spoco_instance_segmentation"
ROOT = Path(__file__).resolve().parent.parent
PARTS = {
    "configs": ("*.json", "logging.conf"),
    "docs": ("README.md", "data_license.txt"),
    "models": ("**/*.pt", "**/*.json"),
    "spoco_bundle": ("**/*.py", "**/*.html", "**/*.txt", "**/*.json", "**/*.yaml"),
}
REQUIRED = ("LICENSE", "configs/metadata.json", "configs/train.json", "configs/inference.json", "models/model.pt")
REQUIRED += ("docs/README.md", "docs/data_license.txt")
SECTIONS = ("Model Overview", "Data", "Training configuration", "Input", "Output", "Performance")
SECTIONS += ("MONAI Bundle Commands", "References", "License")
LARGEST_FILE = 25_000_000  # bytes; the zoo takes larger ones by large_files.yml only
PLANE = "['8*n','8*n']"  # in the place of the metadata's shape, which is that of volumes
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip archive can tell


def assemble(target: Path) -> list[Path]:
    """Copies the bundle's files into an empty folder.

    Returns:
        The files, relative to the folder, sorted.
    """
    shutil.rmtree(target, ignore_errors=True)
    files = [ROOT / "LICENSE"]
    for part, patterns in PARTS.items():
        files += [path for pattern in patterns for path in (ROOT / part).glob(pattern) if path.is_file()]
    relative = sorted(path.relative_to(ROOT) for path in files)
    outside = [str(path) for path in relative if not (ROOT / path).resolve().is_relative_to(ROOT)]
    if outside:
        sys.exit(f"{outside[0]}: is a link out of {ROOT}: take it away, or copy the file")
    for path in relative:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target / path)
    readme = target / "docs" / "README.md"
    readme.write_text(standalone(readme.read_text()))
    return relative


def standalone(readme: str) -> str:
    """The README as it holds where the other documents, the scripts and an installation are missing."""
    text = re.sub(r"(?<!!)\[([^\]]+)\]\((?!\w+:|#)[^)\s]+\)", r"\1", readme)
    text = re.sub(r"^python scripts/.*\n", "", text, flags=re.M)
    text = re.sub(r"(^|`)spoco (?=[a-z])", r"\1python -m spoco_bundle.cli ", text, flags=re.M)
    return f"{text}\nThe other documents that are named here lie in `docs/` of the project spoco-bundle.\n"


def lay_out_unit_tests(target: Path) -> list[str]:
    """Copies the unit tests to where the zoo keeps them; their paths relative to the target."""
    (target / "ci" / "unit_tests").mkdir(parents=True, exist_ok=True)
    names = [f"ci/unit_tests/test_{NAME}{variant}.py" for variant in ("", "_dist")]
    for name in names:
        shutil.copyfile(ROOT / "tests" / "zoo" / Path(name).name, target / name)
    return names


def pack(folder: Path, files: list[Path], archive: Path) -> None:
    """Writes a zip archive that depends on names and contents only."""
    partial = archive.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target:
        for path in files:
            entry = zipfile.ZipInfo(f"{NAME}/{path.as_posix()}", EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            target.writestr(entry, (folder / path).read_bytes())
    partial.replace(archive)


def check_files(folder: Path) -> str:
    """What is missing or too large in the folder, or an empty text."""
    missing = [f"{name} is missing" for name in REQUIRED if not (folder / name).is_file()]
    if missing:
        return "; ".join(missing)
    problems = [
        f"{path.relative_to(folder)} has {path.stat().st_size} bytes: host it and list it in large_files.yml"
        for path in folder.rglob("*")
        if path.is_file() and path.stat().st_size > LARGEST_FILE
    ]
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    if metadata["version"] not in metadata["changelog"]:
        problems.append(f"metadata.json: version {metadata['version']} has no entry in the changelog")
    readme = (folder / "docs" / "README.md").read_text()
    problems += [f"docs/README.md has no section {name!r}" for name in SECTIONS if f"# {name}\n" not in readme]
    links = re.findall(r"\]\((?!\w+:|#)([^)\s#]+)", readme)
    problems += [f"docs/README.md: {link} is not packed" for link in links if not (folder / "docs" / link).exists()]
    problems += [f"docs/README.md: {name} is not packed" for name in re.findall(r"scripts/\w+\.py", readme)]
    return "; ".join(problems)


def run(folder: Path, *arguments: str) -> str:
    """Runs Python in a folder that it imports from, as the zoo does; the end of its output if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    if result.returncode == 0:
        return ""
    said = (result.stdout + result.stderr).strip().splitlines()[-5:]
    return "\n".join(said) or f"ended with {result.returncode}, and said nothing"


PROPERTIES = """
import sys, tempfile
from monai.bundle import ConfigWorkflow
from spoco_bundle.dataset.synthetic import make_synthetic_sample
kind, *files = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder:
    make_synthetic_sample(folder, train_volumes=2, train_shape=(10, 40, 40), val_shape=(10, 40, 48))
    workflow = ConfigWorkflow(
        config_file=[f"configs/{name}.json" for name in files],
        meta_file="configs/metadata.json", logging_file=False, workflow_type=kind,
        dataset_dir=folder + ("/val" if kind == "inference" else ""), output_dir=folder,
    )
    workflow.initialize()
    missing = workflow.check_properties()
    sys.exit(f"properties missing: {missing}" if missing else 0)
"""


def checks(folder: Path, workdir: Path, schema: str, pins: bool) -> dict[str, str]:
    """Name of each check and what it found, an empty text where all is well; `workdir` is for what they write."""
    configs = folder / "configs"
    inference = ["--config_file", f"{configs}/inference.json", "--meta_file", f"{configs}/metadata.json"]
    bundle = ["-m", "monai.bundle"]
    schema = schema or str(workdir / "schema.json")
    found = {
        "files": check_files(folder),
        "metadata schema": run(
            folder, *bundle, "verify_metadata", "--meta_file", f"{configs}/metadata.json", "--filepath", schema
        ),
        "network input and output": run(
            folder, *bundle, "verify_net_in_out", "network_def", *inference, "--bundle_root", str(folder)
        ),
        "network input and output in 2D": run(
            folder,
            *bundle,
            *("verify_net_in_out", "network_def", "--meta_file", f"{configs}/metadata.json"),
            *("--config_file", str([f"{configs}/inference.json", f"{folder}/models/2d/model.json"])),
            *("--_meta_#network_data_format#inputs#image#spatial_shape", PLANE),
            *("--_meta_#network_data_format#outputs#pred#spatial_shape", PLANE),
        ),
        "TorchScript": run(
            folder,
            *bundle,
            "ckpt_export",
            "network_def",
            *inference,
            "--bundle_root",
            str(folder),
            *("--ckpt_file", f"{folder}/models/model.pt", "--filepath", str(workdir / "model.ts")),
        ),
        "properties of training": run(folder, "-c", PROPERTIES, "train", "train"),
        "properties of evaluation": run(folder, "-c", PROPERTIES, "train", "train", "evaluate"),
        "properties of inference": run(folder, "-c", PROPERTIES, "inference", "inference"),
    }
    if pins:
        required = json.loads((configs / "metadata.json").read_text())["required_packages_version"]
        names = [f"{name}=={version}" for name, version in required.items()]
        found["requirements"] = run(folder, "-m", "pip", "install", "--dry-run", "--no-deps", *names)
    return found


def main(arguments: list[str]) -> int:
    """Assembles, checks and packs; 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="folder for models/, ci/ and the archive")
    parser.add_argument("--quick", action="store_true", help="no checks")
    parser.add_argument("--schema", default="", help="local copy of the metadata schema")
    parser.add_argument("--skip-unit-tests", action="store_true", help="all checks but the unit tests")
    parser.add_argument("--pins", action="store_true", help="ask the package index for the pinned requirements")
    options = parser.parse_args(arguments)
    target = options.target.resolve()
    folder = target / "models" / NAME
    if not options.quick:
        zoo_style.require_tools()
    files = assemble(folder)
    unit_tests = lay_out_unit_tests(target)
    found = {}
    if not options.quick:
        code = [Path("models", NAME, file) for file in files if file.suffix == ".py"] + list(map(Path, unit_tests))
        zoo_style.restyle(target, code)
        with tempfile.TemporaryDirectory() as workdir:
            found = checks(folder, Path(workdir), options.schema, options.pins) | zoo_style.findings(target, code)
    for name in [] if options.quick or options.skip_unit_tests else unit_tests:
        found[name] = run(target, name)
    for name, problem in found.items():
        print(f"{'FAILED' if problem else 'ok':<7} {name}{': ' + problem if problem else ''}", flush=True)
    # what the checks left behind does not belong into the archive, which lists the assembled files only
    archive = target / f"{NAME}.zip"
    pack(folder, files, archive)
    print(f"{archive}: {len(files)} files, {archive.stat().st_size / 1e6:.1f} MB")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
