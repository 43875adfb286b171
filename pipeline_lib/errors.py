"""The errors a person meets, and the exit code each one leaves behind.

A user's mistake is one clear line that names the field, the value and the remedy (exit code 2).
A failed data gate is not retried (3). A preempted job has written a checkpoint and wants to be
started again (75, ``EX_TEMPFAIL``). Everything else is a crash and keeps its traceback.
"""

EXIT_BAD_INPUT = 2
EXIT_GATE_FAILED = 3
EXIT_PREEMPTED = 75

_LONGEST_TEXT = 300
"""Characters of a field or value that a message repeats."""


class PipelineError(Exception):
    """Base of every error this project raises on purpose."""

    exit_code = 1

    @property
    def retry(self) -> bool:
        """True where trying again can help: preempted, crashed, away; never for bad input or a failed gate."""
        return self.exit_code not in (EXIT_BAD_INPUT, EXIT_GATE_FAILED)


class ConfigError(PipelineError):
    """A parameter is unknown, of the wrong type, or out of range."""

    exit_code = EXIT_BAD_INPUT

    def __init__(self, field: str, value: object, remedy: str) -> None:
        self.field, self.value, self.remedy = field, value, remedy
        super().__init__(
            f"{_short(field if field.isprintable() else ascii(field))} = {_short(repr(value))}: {remedy}"
        )


def _short(text: str) -> str:
    """At most one line of a log, whatever somebody typed."""
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}… ({len(text)} characters)"


class DataError(PipelineError):
    """An input file or model directory cannot be used: missing, empty, or of another shape."""

    exit_code = EXIT_BAD_INPUT


class StorageError(PipelineError):
    """A disk or an object store refused: full, unreachable, or the content hash does not match."""

    exit_code = EXIT_BAD_INPUT


class StorageAway(StorageError):
    """An object store does not answer, or says that it cannot now: trying again later helps, and so it is no bad input."""

    exit_code = 1


class GateFailed(PipelineError):
    """A Great Expectations gate refused a dataset. Retrying cannot help; the data must change."""

    exit_code = EXIT_GATE_FAILED


class Preempted(PipelineError):
    """The job was asked to stop, wrote a checkpoint and left. Starting it again continues exactly."""

    exit_code = EXIT_PREEMPTED


class WeightVersionMismatch(PipelineError):
    """A sample was drawn from other weights than the trainer believes."""


class NonFiniteError(PipelineError):
    """A model produced NaN or infinity; the message names the sample."""


class InvariantBroken(PipelineError):
    """Something the method promises does not hold (stage 3 starts from the base, say): a bug or a mixed-up directory."""
