from __future__ import annotations

import sys

import gpu_check
import pytest
import torch
from gpu_check import Checks, Row


@pytest.mark.parametrize("difference, failed", [(0.0, False), (0.01, False), (0.011, True), (float("nan"), True)])
def test_a_part_fails_beyond_its_tolerance_and_where_it_gave_no_number(difference, failed):
    row = Row("loss", "a norm", 0.01, difference, (0.1, 0.2))
    assert row.failed is failed and ("**differs**" in row.words) is failed


def test_a_part_that_did_not_run_says_why_and_fails_nothing():
    row = Row("TensorRT", "a norm", 0.01, note="tensorrt is not installed")
    assert not row.failed and "not run: tensorrt is not installed" in row.words


@pytest.mark.parametrize("rows, code", [([0.0, 0.0], 0), ([0.0, 0.5], 1)])
def test_exit_code_and_table(rows, code, monkeypatch, capsys, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- gpu -->\nnot run\n<!-- end -->\n")
    monkeypatch.setattr(gpu_check, "SHAPE", (16, 32, 32))
    monkeypatch.setattr(Checks, "rows", lambda self: [Row("a part", "a norm", 0.1, found, (1, 2)) for found in rows])
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--device", "cpu", "--page", str(page)])
    assert gpu_check.main() == code
    assert page.read_text().count("| a part |") == 2 and "not run" not in page.read_text()
    assert capsys.readouterr().out.count("**differs**") == code


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    assert gpu_check.main() == 2
    assert "no GPU" in capsys.readouterr().out


def test_a_device_that_computes_something_else_is_found(monkeypatch):
    """The second of the two devices gives a gradient that is a hundredth larger."""
    monkeypatch.setattr(gpu_check, "SHAPE", (16, 32, 32))
    checks = Checks(torch.device("cpu"))
    assert checks.loss().difference == 0 and checks.clustering().difference == 0
    plain, calls = gpu_check.timed, []

    def wrong(work, device):
        found, seconds = plain(work, device)
        calls.append(device)
        return ([part * 1.01 for part in found] if len(calls) == 2 else found), seconds

    monkeypatch.setattr(gpu_check, "timed", wrong)
    row = checks.loss()
    assert row.difference == pytest.approx(0.01, rel=1e-3) and row.failed
