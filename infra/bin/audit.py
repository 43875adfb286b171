"""`make audit`: known vulnerabilities in what the locks install, less the exceptions with a reason (requirements/audit-exceptions.txt).

Runs pip-audit from an environment of its own. Exit codes: 0 audited and clean; 1 vulnerabilities, or an exception without a reason;
3 not audited, because the database of advisories cannot be reached. 3 is never taken for 0: `.ci/run` prints it.

    python infra/bin/audit.py --pip-audit .run/audit/bin/pip-audit [LOCK ...]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXCEPTIONS = ROOT / "requirements" / "audit-exceptions.txt"
FOUND, NOT_AUDITED = 1, 3


def exceptions(text: str) -> dict[str, str]:
    """Advisory id -> reason. Raises ValueError for an id without one."""
    found = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, reason = line.strip().partition(" ")
            if len(reason.split()) < 3:
                raise ValueError(f"{name}: an exception needs a reason of some words")
            found[name] = reason
    return found


def audit(pip_audit: str, lock: Path, known: dict[str, str]) -> int:
    """Audit one lock, print what is found, return the exit code."""
    command = [
        pip_audit,
        "--requirement",
        str(lock),
        "--no-deps",
        "--disable-pip",
        "--format",
        "json",
        "--progress-spinner",
        "off",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        why = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:200]
        print(f"{lock.name}: not audited: pip-audit got no answer from the database of advisories ({why})")
        return NOT_AUDITED
    skipped = [
        f"{package['name']} ({package['skip_reason']})" for package in packages if "skip_reason" in package
    ]
    open_, excused = [], []
    for package in packages:
        for flaw in package.get("vulns", []):
            reason = next((known[name] for name in (flaw["id"], *flaw["aliases"]) if name in known), None)
            line = f"{package['name']} {package['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'no version'}"
            (excused if reason else open_).append(f"{line} [{reason}]" if reason else line)
    if 2 * len(skipped) > len(
        packages
    ):  # where the database is a mirror without advisories, every package is "not found"
        print(
            f"{lock.name}: not audited: the database of advisories does not know {len(skipped)} of {len(packages)} packages"
        )
        return FOUND if open_ else NOT_AUDITED
    print(
        "\n".join(
            [*open_, *(f"excepted: {line}" for line in excused), *(f"skipped: {name}" for name in skipped)]
        )
    )
    print(
        f"{lock.name}: {len(packages) - len(skipped)} packages audited, {len(open_)} flaws, {len(excused)} excepted, {len(skipped)} skipped"
    )
    return FOUND if open_ else 0


def main() -> int:
    """Audit every lock; the worst exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pip-audit", required=True, help="the program")
    parser.add_argument(
        "locks", nargs="*", type=Path, default=[ROOT / "requirements/cpu.txt", ROOT / "requirements/gpu.txt"]
    )
    asked = parser.parse_args()
    try:
        known = exceptions(EXCEPTIONS.read_text(encoding="utf-8"))
    except ValueError as error:
        print(f"{EXCEPTIONS.name}: {error}", file=sys.stderr)
        return FOUND
    codes = {audit(asked.pip_audit, lock, known) for lock in asked.locks}
    return FOUND if FOUND in codes else NOT_AUDITED if NOT_AUDITED in codes else 0


if __name__ == "__main__":
    raise SystemExit(main())
