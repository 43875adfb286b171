"""How much of the machine one untrusted program may use."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline_lib.errors import ConfigError

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one program run, all its tests together.

    `cpu_seconds` is the program's own time limit: a program that uses it up is wrong. `wall_seconds` bounds what
    the trainer waits; it is larger so that a busy machine is not mistaken for a slow program.
    """

    cpu_seconds: int = 2
    """RLIMIT_CPU, whole seconds (the kernel counts no finer)."""
    wall_seconds: float = 8.0
    """Killed through its pidfd at this moment, wherever it is."""
    memory_bytes: int = 512 * _MIB
    """RLIMIT_AS. A program is one process and one thread, so this bounds all of its memory."""
    file_bytes: int = 8 * _MIB
    """Size of its private tmpfs, and RLIMIT_FSIZE."""
    open_files: int = 32
    """RLIMIT_NOFILE."""
    output_bytes: int = 1 * _MIB
    """Most bytes of returned values read from it, all tests together. Its stdout and stderr go nowhere."""

    def __post_init__(self) -> None:
        for name in (
            "cpu_seconds",
            "wall_seconds",
            "memory_bytes",
            "file_bytes",
            "open_files",
            "output_bytes",
        ):
            value = getattr(self, name)
            if not value > 0:
                raise ConfigError(f"limits.{name}", value, "must be greater than 0")
        if self.wall_seconds < self.cpu_seconds:
            raise ConfigError("limits.wall_seconds", self.wall_seconds, "must not be below cpu_seconds")
        if self.memory_bytes < 64 * _MIB:
            raise ConfigError("limits.memory_bytes", self.memory_bytes, "the interpreter alone needs 64 MiB")
