"""Exact measures of behaviour in micro-world responses: the world's words mean one thing each."""

from __future__ import annotations

from pipeline_lib.data.microworld.vocabulary import STEP_WORDS


def _count(text: str, meaning: str) -> int:
    english, chinese = STEP_WORDS[meaning]
    return text.count(english) + text.count(chinese)


def verification_count(text: str) -> int:
    """How many results the response computes a second time."""
    return _count(text, "check")


def backtrack_count(text: str) -> int:
    """How many results the response takes back."""
    return _count(text, "wait")


def step_count(text: str) -> int:
    """How many results the response works out."""
    return _count(text, "so")


def languages_used(text: str) -> frozenset[str]:
    """The languages (`en`, `zh`) of the step words in the response; empty when it has none."""
    english = any(en in text for en, _ in STEP_WORDS.values())
    chinese = any(zh in text for _, zh in STEP_WORDS.values())
    return frozenset(["en"] * english + ["zh"] * chinese)
