from __future__ import annotations

import re


def test_every_test_that_the_page_names_is_there(bundle_root):
    page = (bundle_root / "docs" / "reliability.md").read_text(encoding="utf-8")
    code = "\n".join(file.read_text(encoding="utf-8") for file in (bundle_root / "tests").rglob("test_*.py"))
    named = set(re.findall(r"::(test_\w+)", page))
    assert len(named) > 12
    assert {name for name in named if f"def {name}(" not in code} == set()
    files = set(re.findall(r"`((?:\w+/)?test_\w+\.py)", page))
    assert len(files) > 4
    assert {name for name in files if not (bundle_root / "tests" / name).is_file()} == set()
