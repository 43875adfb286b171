"""What dvc prints while it runs a stage, understood: how the stage was done, whether another one holds its files, its error."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum

from pipeline_lib.orchestration.redaction import Redactor

_RAN = re.compile(r"^Running stage '(?P<stage>[^']+)'")
_RESTORED = re.compile(r"^Stage '(?P<stage>[^']+)' is cached - skipping run")
_UNCHANGED = re.compile(r"^Stage '(?P<stage>[^']+)' didn't change, skipping")
_BUSY = "is busy, it is being blocked by"


class How(StrEnum):
    """Where a stage's outputs came from."""

    COMPUTED = "computed"
    RESTORED = "restored from cache"
    UNCHANGED = "unchanged"


class Output:
    """What a stage printed: handed on line by line, the end of it remembered, dvc's own remarks understood."""

    def __init__(
        self, address: str, on_line: Callable[[str], None], redact: Redactor, keep: int = 15
    ) -> None:
        self.how = How.COMPUTED
        self.last: list[str] = []
        self._address, self._on_line, self._redact, self._keep = address, on_line, redact, keep

    def add(self, line: str) -> None:
        if line:
            line = self._redact(line)
            self.how = _how(line, self._address) or self.how
            self.last = [*self.last[1 - self._keep :], line]
            self._on_line(line)

    @property
    def is_busy(self) -> bool:
        """True when a living dvc of another stage holds what this one reads or writes (dvc waits for its other lock only)."""
        return any(line.startswith("ERROR: failed to reproduce") and _BUSY in line for line in self.last)

    @property
    def dvc_error(self) -> str | None:
        errors = [line.removeprefix("ERROR: ") for line in self.last if line.startswith("ERROR: ")]
        return errors[-1] if errors else None


def _how(line: str, address: str) -> How | None:
    for pattern, how in ((_RAN, How.COMPUTED), (_RESTORED, How.RESTORED), (_UNCHANGED, How.UNCHANGED)):
        match = pattern.match(line)
        if match and match["stage"] == address:
            return how
    return None
