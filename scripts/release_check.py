"""What has to hold before a release besides the tests: no dependency with a known vulnerability.

Audits every package installed in the environment it runs in (pip-audit, against the advisories of PyPI). Run it in an
environment made from the project's own files, as `.ci/run` makes one:

    pip install --constraint constraints.txt --editable ".[test,release]"
    python scripts/release_check.py

Exit codes: 0 nothing known, 1 a vulnerable dependency, 2 not audited (no network, or pip-audit is missing). Not audited
is not clean: the release waits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys


def audit(timeout: int) -> tuple[int, list[str]]:
    """Runs pip-audit; returns the exit code of this script and what to say."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(
            [*command, "--timeout", "15"], capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return 2, [f"not audited: no answer within {timeout} s; run this where PyPI can be reached"]
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip() or "no output").splitlines()[-1]
        return 2, [f"not audited: {reason}; install pip-audit and run this where PyPI can be reached"]
    lines, unknown = [], []
    for package in packages:
        reason = package.get("skip_reason", "")
        # local builds, such as torch's for the CPU, and this package itself are on no index
        if reason and "+" not in reason and package["name"] != "spoco-bundle":
            unknown.append(package["name"])
        for advisory in package.get("vulns", []):
            fixed = ", ".join(advisory["fix_versions"]) or "no release yet"
            lines.append(f"{package['name']} {package['version']}: {advisory['id']}, fixed in {fixed}")
    vulnerable = sum(bool(package.get("vulns")) for package in packages)
    audited = sum("skip_reason" not in package for package in packages)
    lines.append(f"{audited} packages audited, {vulnerable} with a known vulnerability")
    if unknown or not audited:
        lines.append(f"not audited: the advisories know nothing of {', '.join(unknown[:5])} and {len(unknown)} in all")
    return 1 if vulnerable else 2 if unknown or not audited else 0, lines


def main() -> None:
    """Prints the findings and exits with the code told above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timeout", type=int, default=600, help="seconds to wait for the advisories")
    code, lines = audit(parser.parse_args().timeout)
    print("\n".join(lines))
    sys.exit(code)


if __name__ == "__main__":
    main()
