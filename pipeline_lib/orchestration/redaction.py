"""Secrets of an environment, taken out of every line that is kept or shown.

Nothing of this project prints its environment. A library, a traceback or a stage that somebody adds may; so what passes through
the runner's hands, and every log that goes to S3, has the values of secret variables replaced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_SECRET_NAME = re.compile(r"(^|_)(SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIALS?|PRIVATE_KEY|API_KEY)(_|$)")
_SHORTEST = 8
"""A shorter value is no secret worth the name, and may be a word of the log."""
STARS = "***"


class Redactor:
    """Replaces the values of the variables whose names say that they are secret."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        found = {
            value
            for name, value in environment.items()
            if _SECRET_NAME.search(name.upper()) and len(value) >= _SHORTEST
        }
        self._values = sorted(found, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """The text without them."""
        for value in self._values:
            text = text.replace(value, STARS)
        return text
