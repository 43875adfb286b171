"""Names of problems that stay the same when the file around them changes."""

from __future__ import annotations

import hashlib

_DIGITS = 12


def content_id(prefix: str, text: str) -> str:
    """`<prefix>-<12 hex digits of the text's hash>`: the same problem has the same id in any subset or order."""
    return f"{prefix}-{hashlib.blake2b(text.encode(), digest_size=32).hexdigest()[:_DIGITS]}"
