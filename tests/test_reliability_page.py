from __future__ import annotations

import re


def test_every_test_that_the_page_names_is_there(bundle_root):
    page = (bundle_root / "docs" / "reliability.md").read_text(encoding="utf-8")
    named, missing, last = 0, [], ""
    for file, test in re.findall(r"`((?:\w+/)?test_\w+\.py|\.\.\.(?=::))(?:::(test_\w+))?", page):
        last = last if file == "..." else file
        path = bundle_root / "tests" / last
        code = path.read_text(encoding="utf-8") if path.is_file() else ""
        named += 1
        if not code or test and f"def {test}(" not in code:
            missing.append(f"{last}::{test}")
    assert missing == []
    assert named > 40
