"""The fields of the trigger forms. What each one sets is in `pipeline_lib.orchestration.form`.

An empty field leaves the profile's value. Types and ranges are JSON Schema, so the form and the REST
API refuse a wrong type before a run exists; names and dotted overrides are checked by `create_run`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from _operators import ROOT
from airflow.sdk import Param

from pipeline_lib.orchestration.form import profiles
from pipeline_lib.orchestration.graph import NAME, load_yaml, look_up

PARAMS = load_yaml(ROOT / "params.yaml")

_SETUP = "What to run"
_BUDGET = "Training budget (empty: as the profile says)"
_ABLATIONS = "Ablations"
_RELEASE = "Release"
_EXPERT = "Expert"


def _default(dotted: str) -> str:
    value = look_up(PARAMS, dotted)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _count(title: str, description: str, dotted: str, minimum: int = 0) -> Param:
    text = f"{description} In micro: {_default(dotted)}."
    schema = {"type": ["null", "integer"], "minimum": minimum}
    return Param(None, title=title, description=text, section=_BUDGET, **schema)


def _names(title: str, description: str, dotted: str, section: str = _SETUP) -> Param:
    text = f"{description} One a line. Empty: the profile's own (micro: {_default(dotted)})."
    items = {"type": "string", "pattern": NAME.pattern}
    return Param(None, title=title, description=text, section=section, type=["null", "array"], items=items)


def profile(optional: bool = False) -> Param:
    """The overlay of params.yaml to run with."""
    known = list(profiles(ROOT))
    text = "A file of profiles/: how big the models are and where they run."
    if optional:
        text += " Empty: the parameters of the run it starts from."
        return Param(
            None,
            title="Profile",
            description=text,
            section=_SETUP,
            type=["null", "string"],
            enum=[None, *known],
        )
    return Param(known[0], title="Profile", description=text, section=_SETUP, type="string", enum=known)


def seed() -> Param:
    """The seed every random choice follows from."""
    text = f"Every random choice follows from it. Empty: the profile's ({_default('run.seed')})."
    return Param(None, title="Seed", description=text, section=_SETUP, type=["null", "integer"], minimum=0)


def students() -> Param:
    """The models to distill into."""
    return _names("Students", "Models to distill into: files of profiles/students/.", "distill.students")


def revision(default: str = "HEAD") -> Param:
    """The commit a run starts from."""
    text = "Branch, tag or commit that the run starts from. Uncommitted edits are never part of a run."
    return Param(default, title="Start from", description=text, section=_EXPERT, type="string")


def overrides() -> Param:
    """Any parameter of params.yaml."""
    text = (
        'Any parameter of params.yaml by its dotted name, as JSON: {"train_r1_zero.learning_rate": 0.0001}.'
    )
    return Param({}, title="Overrides", description=text, section=_EXPERT, type=["null", "object"])


def evaluation_samples() -> Param:
    """k of pass@k and cons@k."""
    return _count("Samples per question", "k of pass@k and cons@k.", "evaluate.samples", 1)


def suites() -> Param:
    """The benchmark suites to answer."""
    return _names("Suites", "Benchmark suites of pipeline_lib/evaluation/suites.", "evaluate.suites")


def pipeline_form() -> Mapping[str, Any]:
    """Return the form of `deepseek_r1`."""
    return {
        "profile": profile(),
        "students": students(),
        "seed": seed(),
        "r1_zero_steps": _count("R1-Zero steps", "GRPO steps of R1-Zero.", "train_r1_zero.steps"),
        "reasoning_rl_steps": _count(
            "Stage 2 steps", "GRPO steps of reasoning RL.", "train_reasoning_rl.steps"
        ),
        "all_task_rl_steps": _count("Stage 4 steps", "GRPO steps of all-task RL.", "train_all_task_rl.steps"),
        "student_rl_steps": _count(
            "Student RL steps", "GRPO steps of the student trained by RL alone.", "train_student_rl.steps"
        ),
        "group_size": _count(
            "Group size G", "Completions a question, in R1-Zero.", "train_r1_zero.group_size", 2
        ),
        "evaluation_samples": evaluation_samples(),
        "skip_cold_start": _tick("Skip the cold start", "Stage 2 starts from the base model."),
        "skip_general_sft": _tick("Skip stage 3", "Stage 4 starts from the stage-2 model."),
        "no_language_reward": _tick(
            "No language reward", "Stage 2 does not pay for keeping to one language."
        ),
        "require_approval": Param(
            False,
            title="Ask before promoting",
            description="The run waits (at most a day, then: no) for a person to approve registration and promotion.",
            section=_RELEASE,
            type="boolean",
        ),
        "revision": revision(),
        "overrides": overrides(),
    }


def _tick(title: str, description: str) -> Param:
    return Param(False, title=title, description=description, section=_ABLATIONS, type="boolean")


def distill_form() -> Mapping[str, Any]:
    """Return the form of `distill`."""
    return {
        "from_run": from_run(),
        "teacher": Param(
            look_up(PARAMS, "collect_distillation.teacher"),
            title="Teacher",
            description="A model of that run, a directory below models/.",
            section=_SETUP,
            type="string",
            pattern=NAME.pattern,
        ),
        "students": students(),
        "seed": seed(),
        "evaluation_samples": evaluation_samples(),
        "overrides": overrides(),
    }


def from_run() -> Param:
    """The finished run whose models are used."""
    text = "A finished run (run/<id>), a branch or a commit whose dvc.lock has the models. Empty: the latest finished run."
    return Param("", title="Models of run", description=text, section=_SETUP, type=["null", "string"])


def evaluate_form() -> Mapping[str, Any]:
    """Return the form of `evaluate`."""
    return {
        "models": Param(
            ["r1"],
            title="Models",
            description="One a line: a model of the run below (r1, r1_zero, a student); a registered model "
            "(models:/<name>@champion, models:/<name>/3); or the path of a model directory.",
            section=_SETUP,
            type="array",
            items={"type": "string", "minLength": 1},
            minItems=1,
        ),
        "from_run": from_run(),
        "suites": suites(),
        "evaluation_samples": evaluation_samples(),
        "seed": seed(),
        "overrides": overrides(),
    }
