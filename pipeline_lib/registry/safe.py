"""What may be registered as a model: safetensors, JSON and text. Loading any of it runs no code.

A pickle (`pytorch_model.bin`, `*.pt`, `*.pkl`) runs what its writer wished, and so does a Python file under
`trust_remote_code`. The list says what is allowed, so a format nobody thought of is refused too.
"""

from __future__ import annotations

from pathlib import Path

from pipeline_lib.errors import DataError

ALLOWED_SUFFIXES = (".safetensors", ".json", ".jsonl", ".txt", ".md", ".jinja", ".yaml", ".model")
"""`.model` is a SentencePiece tokenizer: a protocol buffer."""

_HEADER_LIMIT = 100_000_000
"""Bytes; the format's own limit for its JSON header."""


def require_safe_model(directory: Path) -> None:
    """Raise DataError unless `directory` holds safetensors weights and nothing that could carry code."""
    files = sorted(path for path in directory.rglob("*") if not path.is_dir())
    for path in files:
        name = path.relative_to(directory)
        if path.suffix not in ALLOWED_SUFFIXES:
            raise DataError(
                f"{directory}: {name} may not be in a registered model (allowed: {', '.join(ALLOWED_SUFFIXES)}). "
                "Convert weights to safetensors, remove the rest"
            )
        if path.suffix == ".safetensors":
            _require_header(path)
    if not any(path.suffix == ".safetensors" for path in files):
        raise DataError(f"{directory}: no *.safetensors in it; there is nothing to register")


def _require_header(path: Path) -> None:
    """A safetensors file begins with the length of its JSON header and the header; a renamed pickle does not."""
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if start[8:] != b"{" or not 2 <= length <= min(_HEADER_LIMIT, path.stat().st_size - 8):
        raise DataError(f"{path}: not a safetensors file, whatever its name says. Save the model again")
