"""SIGTERM means: finish the step, write a checkpoint, leave with exit code 75 (design §5)."""

from __future__ import annotations

import signal
from types import FrameType

from pipeline_lib.training.distributed import World


class Preemption:
    """Remembers that this process was asked to stop; the loop asks at every step boundary."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._asked = False
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        self._asked = True

    def asked(self) -> bool:
        """True on every rank as soon as any rank was asked."""
        return bool(self._world.max(int(self._asked)))
