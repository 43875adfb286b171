"""Is the answer to a general prompt the expected one? An exact key: case, spacing and a final full stop set aside.

A general prompt without a key is for learned rewards only. Its verdict then says no more than whether an answer stands in the
designated place, and the accuracy part stays 0.
"""

from __future__ import annotations

from pipeline_lib.types import Outcome, Verdict


def exact_key(text: str) -> str:
    """What two equal answers have in common."""
    return " ".join(text.split()).casefold().rstrip(".").rstrip()


def verify_general(expected: str | None, answer: str) -> Verdict:
    """Judge one extracted answer against the key, or note that there is none."""
    if expected is None:
        return Verdict(Outcome.CORRECT, answer, detail="no key: judged by learned rewards only")
    right = exact_key(expected) == exact_key(answer)
    return Verdict(Outcome.CORRECT if right else Outcome.WRONG, answer)
