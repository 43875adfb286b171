"""A trigger form as parameters."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline_lib.errors import ConfigError, DataError
from pipeline_lib.orchestration.form import ABLATIONS, FIELDS, overrides_from_form, profiles, write_params
from pipeline_lib.orchestration.graph import load_yaml, look_up

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copy2(PROJECT / "params.yaml", tmp_path)
    shutil.copytree(PROJECT / "profiles", tmp_path / "profiles")
    (tmp_path / "pipeline_lib").symlink_to(PROJECT / "pipeline_lib")
    return tmp_path


def test_every_field_is_a_parameter():
    params = load_yaml(PROJECT / "params.yaml")
    for dotted in FIELDS.values():
        look_up(params, dotted)


def test_every_ablation_is_accepted_by_the_schema(checkout):
    overrides = overrides_from_form(dict.fromkeys(ABLATIONS, True))
    assert len(overrides) == len(ABLATIONS)
    assert write_params(checkout, "micro", overrides)
    assert load_yaml(checkout / "params.yaml")["train_cold_start_sft"]["skip"] is True


def test_empty_fields_change_nothing(checkout):
    form = {"profile": "micro", "seed": None, "students": [], "overrides": {}, "skip_cold_start": False}
    before = (checkout / "params.yaml").read_bytes()
    assert overrides_from_form(form) == {}
    assert write_params(checkout, "micro", {}) is False
    assert (checkout / "params.yaml").read_bytes() == before


def test_fields_become_dotted_names():
    form = {"seed": 3, "students": ["a", "b"], "overrides": {"train_r1_zero.steps": 5}}
    assert overrides_from_form(form) == {
        "run.seed": 3,
        "distill.students": ["a", "b"],
        "train_r1_zero.steps": 5,
    }


def test_zero_steps_is_not_an_empty_field():
    assert overrides_from_form({"r1_zero_steps": 0}) == {"train_r1_zero.steps": 0}


def test_a_parameter_set_twice_is_refused():
    with pytest.raises(ConfigError, match="the form sets it too"):
        overrides_from_form({"seed": 3, "overrides": {"run.seed": 4}})


def test_students_alone_also_decide_who_is_evaluated(checkout):
    write_params(checkout, "micro", {"distill.students": ["llama-xs"]})
    models = load_yaml(checkout / "params.yaml")["evaluate"]["models"]
    assert "llama-xs" in models
    assert "qwen-xs" not in models


def test_without_a_profile_the_commits_own_parameters_are_kept(checkout):
    write_params(checkout, "micro", {"train_r1_zero.steps": 5})
    write_params(checkout, None, {"distill.students": ["llama-xs"]})
    params = load_yaml(checkout / "params.yaml")
    assert params["train_r1_zero"]["steps"] == 5
    assert params["distill"]["students"] == ["llama-xs"]
    assert "qwen-xs" not in params["evaluate"]["models"]


@pytest.mark.parametrize(
    ("profile", "overrides", "words"),
    [
        ("micro", {"train_r1_zero.stepz": 3}, "train_r1_zero.stepz"),
        ("micro", {"nowhere.steps": 3}, "nowhere"),
        ("micro", {"train_r1_zero.group_size": 1}, "group_size"),
        ("micro", {"distill.students": ["qwen-xs", "qwen-xs"]}, "qwen-xs"),
        ("micro", {"distill.students": ["nobody"]}, "nobody"),
        ("micro", {"distill.students": ["a;touch x"]}, "a;touch x"),
        ("../secrets", {}, "secrets"),
    ],
)
def test_bad_parameters_are_one_clear_line(checkout, profile, overrides, words):
    before = (checkout / "params.yaml").read_bytes()
    with pytest.raises(DataError) as error:
        write_params(checkout, profile, overrides)
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert (checkout / "params.yaml").read_bytes() == before


def test_micro_is_the_first_profile():
    assert profiles(PROJECT)[0] == "micro"
