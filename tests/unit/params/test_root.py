"""params.yaml: what is wrong is named, with its value and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.errors import ConfigError
from pipeline_lib.params import compose, load_params, parse_assignment

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("overrides", "field", "says"),
    [
        ({"train_r1_zero.group_size": 1}, "train_r1_zero.group_size", "greater than or equal to 2"),
        ({"train_r1_zero.group_siez": 4}, "train_r1_zero.group_siez", "unknown parameter"),
        ({"trian_r1_zero.steps": 4}, "trian_r1_zero.steps", "no section 'trian_r1_zero'"),
        ({"run.seed": "seven"}, "run.seed", "valid integer"),
        ({"run.seed": -1}, "run.seed", "greater than or equal to 0"),
        ({"distill.students": ["qwen-xs", "qwen-xs"]}, "distill", "named twice"),
        ({"distill.students": []}, "distill.students", "at least 1"),
        ({"distill.students": ["nobody"]}, "distill.students", "no file profiles/students/nobody.yaml"),
        ({"distill.students": ["../../etc"]}, "distill.students.0", "pattern"),
        ({"distill.students": ["a; touch x"]}, "distill.students.0", "pattern"),
        ({"evaluate.models": ["base"]}, "params", "not evaluated"),
        ({"train_all_task_rl.general_last_steps": 10_000}, "params", "must not exceed"),
        ({"train_r1_zero.overlong_buffer": 500}, "train_r1_zero", "smaller than max_new_tokens"),
    ],
)
def test_a_bad_value_is_named(overrides: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        compose("micro", overrides, root=ROOT)
    assert error.value.field == field
    assert "\n" not in str(error.value)


def test_an_unknown_profile_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="micro"):
        compose("huge", root=ROOT)


def test_students_decide_what_is_evaluated() -> None:
    tree = compose("micro", {"distill.students": ["llama-xs"]}, root=ROOT)
    assert "llama-xs" in tree["evaluate"]["models"]
    assert "qwen-xs" not in tree["evaluate"]["models"]


def test_parameters_are_frozen() -> None:
    params = load_params(ROOT / "params.yaml")
    with pytest.raises(ValueError, match="frozen"):
        params.run.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a.b=3", ("a.b", 3)), ("a.b=[x, y]", ("a.b", ["x", "y"])), ("a.b=", ("a.b", None))],
)
def test_an_assignment_is_yaml(text: str, expected: tuple[str, Any]) -> None:
    assert parse_assignment(text) == expected


@pytest.mark.parametrize("text", ["a.b", "=3"])
def test_not_an_assignment(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_assignment(text)
