"""Names of problems that stay the same when the file around them changes, and names that many problems share."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

_DIGITS = 12
_SHARED = ("category", "source", "licence")


def content_id(prefix: str, text: str) -> str:
    """`<prefix>-<12 hex digits of the text's hash>`: the same problem has the same id in any subset or order."""
    return f"{prefix}-{hashlib.blake2b(text.encode(), digest_size=32).hexdigest()[:_DIGITS]}"


def share_texts(row: dict[str, Any]) -> dict[str, Any]:
    """The row, its texts that most rows have in common held once: of a million rows they would fill 200 MB."""
    for name in _SHARED:
        if isinstance(text := row.get(name), str):
            row[name] = sys.intern(text)
    return row
