"""What the code must not do with the files of others."""

from __future__ import annotations

import ast
import json
import re

import pytest

from spoco_bundle.app.config_checks import config_folder

REFUSED_CALLS = {"eval", "exec", "compile", "pickle.load", "pickle.loads", "pickle.Unpickler", "os.system", "os.popen"}
REFUSED_CALLS |= {"joblib.load", "yaml.load", "yaml.unsafe_load", "marshal.load", "marshal.loads", "shelve.open"}
REFUSED_MODULES = {"dill", "cloudpickle", "joblib", "shelve", "marshal"}


def sources(root):
    files = [*root.glob("spoco_bundle/**/*.py"), *root.glob("scripts/*.py")]
    assert len(files) > 50
    return {file: ast.parse(file.read_text(encoding="utf-8")) for file in files}


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: word.value for word in node.keywords}, node.lineno


def complaints(tree):
    """Places where content of a file could run."""
    found = []
    for name, words, line in calls(tree):
        constant = {word: getattr(value, "value", None) for word, value in words.items()}
        if name in REFUSED_CALLS:
            found.append(f"{line}: {name}")
        if name in ("torch.load", "torch.jit.load") and constant.get("weights_only") is not True:
            found.append(f"{line}: {name} without weights_only=True")
        if name in ("np.load", "numpy.load") and words.get("allow_pickle") and constant["allow_pickle"] is not False:
            found.append(f"{line}: {name} with allow_pickle")
        if name.startswith("subprocess.") and constant.get("shell") not in (None, False):
            found.append(f"{line}: {name} with a shell")
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"{node.lineno}: import {name}" for name in modules if name.split(".")[0] in REFUSED_MODULES]
    return found


def test_nothing_runs_what_a_file_holds(bundle_root):
    found = {str(file): complaints(tree) for file, tree in sources(bundle_root).items()}
    assert {file: places for file, places in found.items() if places} == {}


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "pickle.load(file)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "np.load(path, allow_pickle=True)",
        "import dill",
        "from joblib import load",
    ],
)
def test_the_search_finds_what_it_looks_for(line):
    assert complaints(ast.parse(line))


def test_configs_call_nothing_that_reads_pickles_or_a_shell(bundle_root):
    for file in config_folder().glob("*.json"):
        text = file.read_text(encoding="utf-8")
        json.loads(text)
        assert not re.search(r"torch\.load|pickle|os\.system|subprocess|CheckpointLoader|eval\(", text), file


def test_the_documentation_says_that_a_bundle_is_code(bundle_root):
    text = " ".join((bundle_root / "docs" / "reliability.md").read_text(encoding="utf-8").split())
    assert "A bundle is code" in text
