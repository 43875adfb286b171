"""`make audit` fails on a flaw, honours exceptions with a reason, and never passes where it could not look. pip-audit's answer is given."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "infra" / "bin"))
import audit

FLAW = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.0"], "description": "x"}
CLEAN = {"name": "a", "version": "1.0", "vulns": []}
BAD = {"name": "b", "version": "1.0", "vulns": [FLAW]}
SKIPPED = {"name": "c", "skip_reason": "not on the index"}


@pytest.mark.parametrize(
    ("answer", "known", "code", "words"),
    [
        (json.dumps({"dependencies": [CLEAN]}), {}, 0, "1 packages audited, 0 flaws"),
        (json.dumps({"dependencies": [CLEAN, BAD]}), {}, 1, "b 1.0: PYSEC-1, mended in 2.0"),
        (json.dumps({"dependencies": [BAD]}), {"CVE-1": "never parses foreign files"}, 0, "excepted: b 1.0"),
        (
            json.dumps({"dependencies": [SKIPPED]}),
            {},
            3,
            "does not know 1 of 1",
        ),
        ("", {}, 3, "not audited"),
        ("{}", {}, 3, "not audited"),
    ],
)
def test_audit(tmp_path, capsys, answer: str, known: dict[str, str], code: int, words: str) -> None:
    tool = tmp_path / "pip-audit"
    tool.write_text(f"#!{sys.executable} -IS\nprint({answer!r})\nraise SystemExit(1)\n")
    tool.chmod(0o755)
    assert audit.audit(str(tool), tmp_path / "cpu.txt", known) == code
    assert words in capsys.readouterr().out


def test_an_exception_needs_a_reason() -> None:
    assert audit.exceptions("# why\n\nCVE-1 never parses foreign files\n") == {
        "CVE-1": "never parses foreign files"
    }
    with pytest.raises(ValueError, match="CVE-2"):
        audit.exceptions("CVE-2\n")
    audit.exceptions(audit.EXCEPTIONS.read_text())
