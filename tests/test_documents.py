"""The documents: their commands run, or say why not; their options exist; their links lead somewhere."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import monai.bundle
import pytest

from spoco_bundle import __version__
from spoco_bundle.cli import Spoco
from spoco_bundle.dataset.synthetic import make_synthetic_sample

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "docs" / "measurements").glob("*.md"))
BLOCK = re.compile(r"^(?:<!-- (?P<mark>[^\n]*) -->\n)?[ ]*```(?P<language>\w*)\n(?P<text>.*?)^[ ]*```$", re.M | re.S)
COMMAND = re.compile(r"^(\w+=\S+ )*(spoco|python3?|torchrun|pip|monailabel|git|bash) ", re.M)
#: configs whose ids a command takes as options
CONFIGS = {
    "train": ("train",),
    "predict": ("inference", "inference_blockwise"),
    "evaluate": ("train", "evaluate"),
    "tune": ("train", "evaluate", "tune"),
    "learning-curve": ("train",),
    "label": ("train", "label"),
}
TWO_SCREENS = 60  # lines
SHORT = " --max_epochs 1 --iterations_per_epoch 2 --crop_size '[8,32,32]'"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path):
    return [(match["mark"] or "", match["language"], match["text"]) for match in BLOCK.finditer(page.read_text())]


def runs(mark: str, language: str) -> bool:
    return language == "bash" and not mark.startswith("not run: ") and mark != "tests"


def commands(text: str):
    """Words of every command of a shell script; lines may be continued and joined by &&."""
    for line in text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word not in ("&&", "|", ";"):
                words.append(word)
            elif words:
                yield [word for number, word in enumerate(words) if number or not re.fullmatch(r"\w+=\S*", word)]
                words = []


def ids(names) -> set[str]:
    """Top ids of configs; an overlay may name one that lies deeper."""
    files = [ROOT / "configs" / f"{name}.json" for name in names]
    return {key.split("#")[0] for file in files for key in json.loads(file.read_text())}


def takes(words: list[str]) -> set[str] | None:
    """Options that a command takes; None for commands of others."""
    if words[0] == "spoco":
        own = inspect.signature(getattr(Spoco, words[1].replace("-", "_"))).parameters
        return {"help", *own} | ids(CONFIGS.get(words[1], ()))
    if "monai.bundle" in words:
        name = words[words.index("monai.bundle") + 1]
        own = {*inspect.signature(getattr(monai.bundle, name)).parameters, "nproc_per_node"}
        if name != "run" or "--config_file" not in words:
            return own
        files = words[words.index("--config_file") + 1]
        files = ast.literal_eval(files) if files.startswith("[") else [files]
        return own | ids(Path(file).stem for file in files if "configs/" in file)
    if words[0] == "python" and words[1].startswith("scripts/"):
        return {option.lstrip("-") for option in re.findall(r'"(--?[\w-]+)"', (ROOT / words[1]).read_text())}
    return None


def unknown_options(text: str) -> list[str]:
    problems = []
    for words in commands(text):
        known = takes(words)
        given = [re.split("[#=]", word[2:])[0] for word in words if re.match(r"--\w", word)]
        problems += [f"{' '.join(words[:3])}: --{name}" for name in given if known is not None and name not in known]
    return problems


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_says_what_it_is_and_commands_run_or_say_why_not(page):
    for mark, language, text in blocks(page):
        assert language in ("bash", "python", "json", "text"), f"a block without a language: {text[:60]}"
        assert language == "bash" or not COMMAND.search(text), f"commands belong into a bash block: {text[:60]}"
        if language == "python":
            assert mark == "run: python" or re.match(r"(not run|file): \S", mark), f"mark this block: {text[:60]}"
        if language == "bash" and mark:
            assert mark == "tests" or re.match(r"not run: \S", mark), f"unknown mark: {mark}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_exist(page):
    found = [text for _, language, text in blocks(page) if language == "bash"]
    # commands within a sentence; a name in capitals stands for anything
    prose = BLOCK.sub("", page.read_text())
    found += [code for code in re.findall(r"`((?:spoco|python -m monai\.bundle) [^`]+)`", prose) if "|" not in code]
    assert [problem for text in found for problem in unknown_options(text)] == []


def test_the_readme_is_short_and_begins_with_a_picture():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    assert [line for line in lines[:5] if line.startswith("![")]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_figure_or_a_command_comes_within_two_screens(page):
    lines = page.read_text().splitlines()
    assert len(lines) <= TWO_SCREENS or [line for line in lines[:TWO_SCREENS] if re.match(r"\s*(!\[|```)", line)]


def test_unknown_options_and_commands_are_noticed():
    assert unknown_options("spoco train data --max_epoch 3 && spoco predict x --loss#pull_weight 2") == [
        "spoco train data: --max_epoch",
        "spoco predict x: --loss",
    ]
    assert unknown_options("python -m monai.bundle run --config_file configs/inference.json --max_epochs 3") == [
        "python -m monai.bundle: --max_epochs"
    ]
    assert unknown_options("python scripts/package_zoo.py dist --fast") == [
        "python scripts/package_zoo.py dist: --fast"
    ]
    with pytest.raises(AttributeError):
        unknown_options("spoco segment data")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_within_the_project_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text())):
        if re.match(r"\w+:", link):
            continue
        file, _, heading = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        if not heading:
            continue
        titles = [
            re.sub(r"[^\w\- ]", "", t).strip().lower() for t in re.findall(r"^#+ (.+)$", target.read_text(), re.M)
        ]
        assert heading in {title.replace(" ", "-") for title in titles}, link


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """What the pages' commands find: the configs and weights, annotated images, new images."""
    folder = tmp_path_factory.mktemp("documents")
    for part in ("configs", "models"):
        shutil.copytree(ROOT / part, folder / part)
    make_synthetic_sample(folder / "mydata", seed=0, train_volumes=2, train_shape=(10, 40, 40), val_shape=(10, 40, 48))
    (folder / "newimages").mkdir()
    shutil.copy(next((folder / "mydata" / "val").glob("*_raw.nii.gz")), folder / "newimages")
    return folder


def shortened(line: str) -> str:
    """A training cut to two iterations; the same command otherwise."""
    trains = re.search(r"\bspoco train\b|configs/train\.json", line) and not re.search(
        r"evaluate\.json|tune\.json", line
    )
    return re.sub(r" --(max_epochs|iterations_per_epoch|crop_size) \S+", "", line) + SHORT if trains else line


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(runs(m, lang) or m == "run: python" for m, lang, _ in blocks(page))],
    ids=name_of,
)
def test_commands_run(page, workplace):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    for mark, language, text in blocks(page):
        if mark.startswith("file: "):
            (workplace / mark.removeprefix("file: ")).write_text(text)
        if mark == "run: python":
            command = [sys.executable, "-c", text]
        elif runs(mark, language):
            command = ["bash", "-euc", "\n".join(map(shortened, text.replace("\\\n", " ").splitlines()))]
        else:
            continue
        done = subprocess.run(command, cwd=workplace, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_versions_agree():
    metadata = json.loads((ROOT / "configs" / "metadata.json").read_text())
    assert metadata["version"] == __version__
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    sections = dict(re.findall(r"^## (\S+)\n+((?:(?!^## ).*\n?)+)", (ROOT / "CHANGELOG.md").read_text(), re.M))
    assert list(sections) == sorted(metadata["changelog"], reverse=True)
    for version, said in metadata["changelog"].items():
        assert said in " ".join(sections[version].split())
