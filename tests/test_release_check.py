from __future__ import annotations

import importlib
import json
import subprocess
from types import SimpleNamespace

import pytest

GOOD = {"name": "numpy", "version": "2.0", "vulns": []}
BAD = {"name": "old", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
OWN = {"name": "spoco-bundle", "skip_reason": "distribution marked as editable"}
LOCAL = {"name": "torch", "skip_reason": "Dependency not found on PyPI: torch (2.13.0+cpu)"}
UNKNOWN = {"name": "numpy", "skip_reason": "Dependency not found on PyPI: numpy (2.0)"}


@pytest.fixture
def release_check():
    return importlib.import_module("release_check")


@pytest.mark.parametrize(
    "packages, code, words",
    [
        ([GOOD, OWN, LOCAL], 0, "1 packages audited, 0 with"),
        ([GOOD, BAD], 1, "old 1.0: PYSEC-1, fixed in 1.1"),
        ([GOOD, UNKNOWN], 2, "not audited"),
        ([OWN], 2, "not audited"),
        (None, 2, "not audited: no network"),
    ],
)
def test_only_a_whole_audit_without_findings_passes(packages, code, words, release_check, monkeypatch):
    said = "" if packages is None else json.dumps({"dependencies": packages})
    result = SimpleNamespace(stdout=said, stderr="no network", returncode=1)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: result)
    found, lines = release_check.audit(1)
    assert found == code and words in "\n".join(lines)
