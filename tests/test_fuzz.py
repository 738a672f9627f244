"""The fuzzer of the readers, for a number of inputs, the same ones on every machine."""

from __future__ import annotations

import pytest

from support import run_python


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "runs, seconds",
    [pytest.param(700, 60, marks=pytest.mark.slow), pytest.param(4000, 350, marks=pytest.mark.endurance)],
)
def test_the_fuzzer_finds_nothing(runs, seconds, bundle_root, tmp_path):
    pytest.importorskip("atheris", reason="atheris (the extra fuzz) is not installed")
    script = bundle_root / "scripts" / "fuzz_readers.py"
    options = [script, "--seconds", seconds, "--runs", runs, "--artifacts", tmp_path]
    result = run_python(options, cwd=tmp_path, timeout=390, PYTHONHASHSEED="0")  # the same inputs everywhere
    assert result.returncode == 0, result.stderr[-3000:]
    assert "Done" in result.stderr
