"""Exact keys for general prompts."""

from __future__ import annotations

import pytest

from pipeline_lib.rewards.general import exact_key, verify_general
from pipeline_lib.types import Outcome


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Paris", True),
        (" paris. ", True),
        ("PARIS ..", True),
        ("Paris Paris", False),
        ("Rome", False),
        ("Oslo", False),
        ("Paris or Rome", False),
        ("巴黎", False),
    ],
)
def test_exact_key(answer: str, right: bool) -> None:
    assert verify_general("Paris", answer).outcome is (Outcome.CORRECT if right else Outcome.WRONG)


def test_without_a_key_only_presence_is_judged() -> None:
    verdict = verify_general(None, "hello")
    assert verdict.outcome is Outcome.CORRECT
    assert "learned rewards" in verdict.detail


def test_spacing_case_and_a_final_stop_are_set_aside_on_both_sides() -> None:
    assert exact_key(" I  Cannot\nhelp . ") == "i cannot help"
    assert verify_general("I  Cannot help .", "i cannot HELP").outcome is Outcome.CORRECT
