"""What a person sees while a job runs: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

SHOWN = ("reward", "accuracy", "length", "loss", "lr")
QUIET_SECONDS = 5.0
WIDTH = 24


class Progress:
    """Writes to stderr. `shown` False (ranks above 0) writes nothing."""

    def __init__(self, name: str, total: int, *, start: int = 0, shown: bool = True) -> None:
        self.name, self.total, self.start, self.shown = name, total, start, shown
        self._began = time.monotonic()
        self._last = 0.0

    def step(self, done: int, row: Mapping[str, float]) -> None:
        """Show that `done` of `total` steps are finished, with the step's numbers."""
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if not self.shown or not (terminal or now - self._last >= QUIET_SECONDS or done == self.total):
            return
        self._last = now
        speed = (now - self._began) / max(done - self.start, 1)
        numbers = " ".join(f"{key} {row[key]:.4g}" for key in SHOWN if key in row)
        filled = round(WIDTH * done / max(self.total, 1))
        bar = "█" * filled + "·" * (WIDTH - filled)
        left = (self.total - done) * speed
        text = f"{self.name} {bar} {done}/{self.total} {numbers} {speed:.2f} s/step, {left:.0f} s left"
        end = "\n" if not terminal or done == self.total else ""
        print(("\r\033[K" if terminal else "") + text, end=end, file=sys.stderr, flush=True)
