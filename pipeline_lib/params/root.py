"""params.yaml as one typed tree, and how a profile, a file and overrides become one.

`params.yaml` in git is the micro profile. `profiles/<name>.yaml` overlays it; a DAG run's form and
`--set a.b=value` overlay that. The result is validated as a whole before anything runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from pipeline_lib.errors import ConfigError
from pipeline_lib.params._base import StrictModel
from pipeline_lib.params.data import (
    CollectColdStartParams,
    CollectDistillationParams,
    DistillParams,
    EvaluateParams,
    GateParams,
    PrepareBaseModelParams,
    PrepareProblemsParams,
    PretrainMicroBaseParams,
    RegisterModelsParams,
    ReportParams,
    SampleRejectionsParams,
    SelectHardProblemsParams,
)
from pipeline_lib.params.engine import EngineParams, RunParams
from pipeline_lib.params.students import StudentParams
from pipeline_lib.params.training import (
    AllTaskGrpoParams,
    ColdStartSftParams,
    GeneralSftParams,
    GrpoParams,
    ReasoningGrpoParams,
    RewardModelParams,
    StudentGrpoParams,
)

STAGE_MODELS = (
    "base",
    "r1_zero",
    "cold_start",
    "reasoning_rl",
    "general_sft",
    "r1",
    "student_rl",
    "reward_models",
)
"""Directories under models/ that stages write; a student may not take one of these names."""


class Params(StrictModel):
    """The whole of params.yaml. A section that is not `run` or `engine` is a stage's own."""

    run: RunParams
    engine: EngineParams
    prepare_problems: PrepareProblemsParams
    validate_problems: GateParams
    pretrain_micro_base: PretrainMicroBaseParams
    prepare_base_model: PrepareBaseModelParams
    select_hard_problems: SelectHardProblemsParams
    train_r1_zero: GrpoParams
    collect_cold_start: CollectColdStartParams
    validate_cold_start: GateParams
    train_cold_start_sft: ColdStartSftParams
    train_reasoning_rl: ReasoningGrpoParams
    sample_rejections: SampleRejectionsParams
    validate_rejections: GateParams
    train_general_sft: GeneralSftParams
    validate_preferences: GateParams
    train_reward_models: RewardModelParams
    train_all_task_rl: AllTaskGrpoParams
    collect_distillation: CollectDistillationParams
    validate_distillation: GateParams
    distill: DistillParams
    train_student_rl: StudentGrpoParams
    evaluate: EvaluateParams
    report: ReportParams
    register_models: RegisterModelsParams
    students: dict[str, StudentParams] = Field(default_factory=dict, exclude=True)
    """Filled from profiles/students/*.yaml for the students named; never written in params.yaml."""

    @model_validator(mode="after")
    def _names_agree(self) -> Params:
        for student in self.distill.students:
            if student in STAGE_MODELS:
                raise ValueError(
                    f"distill.students: {student!r} is a stage's own model name; choose another name"
                )
        missing = [s for s in self.distill.students if s not in self.evaluate.models]
        if missing:
            raise ValueError(
                f"evaluate.models: student {missing[0]!r} of distill.students is not evaluated; add it"
            )
        strangers = [
            m for m in self.evaluate.models if m not in STAGE_MODELS and m not in self.distill.students
        ]
        if strangers:
            raise ValueError(
                f"evaluate.models: {strangers[0]!r} is neither a stage's model nor a student; known: {', '.join(STAGE_MODELS + tuple(self.distill.students))}"
            )
        if self.train_all_task_rl.general_last_steps > self.train_all_task_rl.steps:
            raise ValueError("train_all_task_rl.general_last_steps must not exceed train_all_task_rl.steps")
        return self


def load_params(path: Path | str = "params.yaml", *, root: Path | None = None) -> Params:
    """Read and validate params.yaml and the student files it names.

    Args:
        path: The file.
        root: Directory that holds `profiles/`; by default the file's own directory.

    Raises:
        ConfigError: With the dotted field, the value and the remedy.
    """
    path = Path(path)
    return build_params(read_yaml(path), root=root or path.resolve().parent)


def build_params(tree: Mapping[str, Any], *, root: Path) -> Params:
    """Validate a tree of parameters; see `load_params`."""
    tree = dict(tree)
    if "students" in tree:
        raise ConfigError(
            "students",
            "...",
            "a student is a file, profiles/students/<name>.yaml, not a section of params.yaml",
        )
    names = set((tree.get("distill") or {}).get("students") or []) | {
        (tree.get("train_student_rl") or {}).get("student")
    }
    try:
        params = Params.model_validate(tree)
        students = {name: _student(str(name), root) for name in sorted(n for n in names if n)}
        return params.model_copy(update={"students": students})
    except ValidationError as error:
        raise first_error(error, tree) from error


def compose(profile: str, overrides: Mapping[str, Any] | None = None, *, root: Path) -> dict[str, Any]:
    """params.yaml (micro) + profiles/<profile>.yaml + dotted overrides, validated; the tree to write.

    `distill.students` given alone also decides the students that are evaluated.
    """
    known = sorted(p.stem for p in (root / "profiles").glob("*.yaml"))
    if profile not in known:
        raise ConfigError("profile", profile, f"unknown profile; known: {', '.join(known)}")
    tree = read_yaml(root / "params.yaml")
    overlay = read_yaml(root / "profiles" / f"{profile}.yaml")
    before = list(tree["distill"]["students"])
    tree = merge(tree, overlay)
    tree["run"]["profile"] = profile
    for dotted, value in (overrides or {}).items():
        set_dotted(tree, dotted, value)
    if not (overrides and "evaluate.models" in overrides):
        _evaluate_the_students(tree, before)
    build_params(tree, root=root)
    return tree


def _evaluate_the_students(tree: dict[str, Any], before: list[str]) -> None:
    students = tree["distill"]["students"]
    if not isinstance(students, list):
        raise ConfigError("distill.students", students, "write a list of student names")
    stages = [m for m in tree["evaluate"]["models"] if m not in before and m not in students]
    tree["evaluate"]["models"] = stages + list(dict.fromkeys(students))


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Overlay wins; mappings merge, everything else (lists too) is replaced."""
    merged = dict(base)
    for key, value in overlay.items():
        current = merged.get(key)
        merged[key] = (
            merge(current, value) if isinstance(current, Mapping) and isinstance(value, Mapping) else value
        )
    return merged


def set_dotted(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `a.b.c` in a nested tree; the section must exist (unknown fields are named by validation)."""
    try:
        json.dumps([dotted, value], ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        raise ConfigError(
            dotted, value, "holds half of a character (a lone surrogate); write UTF-8"
        ) from None
    *sections, last = dotted.split(".")
    node = tree
    for section in sections:
        child = node.get(section)
        if not isinstance(child, dict):
            raise ConfigError(
                dotted, value, f"unknown parameter: there is no section {section!r}; see params.yaml"
            )
        child = dict(child)
        node[section] = child
        node = child
    node[last] = value


def parse_assignment(text: str) -> tuple[str, Any]:
    """`a.b=3` -> ("a.b", 3); the value is YAML."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError("--set", text, "write --set section.field=value")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(name, value, "the value is not valid YAML") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Parse a YAML mapping, or say what is wrong with the file."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("file", str(path), "does not exist; run from the root of a checkout") from None
    except yaml.YAMLError as error:
        raise ConfigError("file", str(path), f"is not valid YAML: {str(error).splitlines()[0]}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError("file", str(path), "must be a mapping of sections")
    return tree


def _student(name: str, root: Path) -> StudentParams:
    folder = root / "profiles" / "students"
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    if name not in known:
        raise ConfigError(
            "distill.students", name, f"no file profiles/students/{name}.yaml; known: {', '.join(known)}"
        )
    tree = read_yaml(folder / f"{name}.yaml")
    try:
        return StudentParams.model_validate(tree)
    except ValidationError as error:
        raise first_error(error, tree, prefix=f"profiles/students/{name}.yaml:") from error


def first_error(error: ValidationError, tree: Mapping[str, Any], prefix: str = "") -> ConfigError:
    """The first of pydantic's complaints as one line: field, value, remedy."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "params"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        section = ".".join(str(part) for part in first["loc"][:-1]) or "the top level"
        message = f"unknown parameter in {section}; check the spelling against params.yaml"
    value = first.get("input", tree)
    if isinstance(value, dict | StrictModel):
        value = "..." if first["type"] != "missing" else "(missing)"
    return ConfigError(prefix + field, value, message[0].lower() + message[1:])
