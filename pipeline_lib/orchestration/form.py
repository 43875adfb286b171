"""From a trigger form to parameters: every field of the form is one dotted name of params.yaml.

An empty field means "as the profile says". Nothing here trusts the form: names are checked, values
are data, and the whole tree is validated by `pipeline_lib.params` of the commit that the run starts from.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline_lib.errors import EXIT_BAD_INPUT, ConfigError, DataError, PipelineError
from pipeline_lib.orchestration.graph import check_names, load_yaml

FIELDS: Mapping[str, str] = {
    "seed": "run.seed",
    "students": "distill.students",
    "teacher": "collect_distillation.teacher",
    "models": "evaluate.models",
    "suites": "evaluate.suites",
    "r1_zero_steps": "train_r1_zero.steps",
    "reasoning_rl_steps": "train_reasoning_rl.steps",
    "all_task_rl_steps": "train_all_task_rl.steps",
    "student_rl_steps": "train_student_rl.steps",
    "group_size": "train_r1_zero.group_size",
    "evaluation_samples": "evaluate.samples",
}
"""Field of a trigger form -> the parameter it sets."""

ABLATIONS: Mapping[str, tuple[str, Any]] = {
    "skip_cold_start": ("train_cold_start_sft.skip", True),
    "skip_general_sft": ("train_general_sft.skip", True),
    "no_language_reward": ("train_reasoning_rl.rewards.language", 0.0),
}
"""Tick box of the form -> the parameter and value it stands for when ticked."""

_NAME_LISTS = ("students", "models", "suites")


def profiles(root: Path) -> tuple[str, ...]:
    """Return the names of the profiles in `root/profiles`, `micro` first."""
    names = sorted(path.stem for path in (root / "profiles").glob("*.yaml"))
    return tuple(sorted(names, key=lambda name: name != "micro"))


def overrides_from_form(form: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"dotted.name": value}` for the fields that were filled in.

    Raises:
        ConfigError: A name that is none, one listed twice, or a field set in two places.
    """
    overrides: dict[str, Any] = {}
    for field, dotted in FIELDS.items():
        value = form.get(field)
        if value is None or value in ("", []):
            continue
        overrides[dotted] = list(check_names(field, value)) if field in _NAME_LISTS else value
    for field, (dotted, value) in ABLATIONS.items():
        if form.get(field):
            overrides[dotted] = value
    free = form.get("overrides") or {}
    if not isinstance(free, Mapping):
        raise ConfigError("overrides", free, 'must be an object, for example {"train_r1_zero.steps": 20}')
    for dotted, value in free.items():
        if dotted in overrides and overrides[dotted] != value:
            raise ConfigError(
                f"overrides.{dotted}", value, "the form sets it too; leave one of the two empty"
            )
        overrides[dotted] = value
    return overrides


def committed_params(worktree: Path, profile: str | None) -> dict[str, Any]:
    """Return the parameters that the commit of `worktree` and the profile give, before a form changes any; neither is validated."""
    from pipeline_lib.params.root import merge

    tree = load_yaml(worktree / "params.yaml")
    if profile not in profiles(worktree):  # the commit's own, or a name that `write_params` refuses
        return tree
    return merge(tree, load_yaml(worktree / "profiles" / f"{profile}.yaml"))


def write_params(worktree: Path, profile: str | None, overrides: Mapping[str, Any]) -> bool:
    """Compose profile and overrides with the worktree's own code and write its params.yaml.

    Returns:
        True when the parameters differ from the commit's; otherwise the file is left as it is.

    Raises:
        ConfigError: As `pipeline_lib.params.compose` raises it, one line that names the field.
    """
    request = json.dumps({"profile": profile, "overrides": overrides})
    done = subprocess.run(
        [sys.executable, "-m", "pipeline_lib.orchestration.form"],
        cwd=worktree,
        input=request,
        capture_output=True,
        text=True,
        env={"PATH": str(Path(sys.executable).parent), "PYTHONPATH": str(worktree)},
        check=False,
    )
    if done.returncode == EXIT_BAD_INPUT:
        raise DataError(done.stderr.strip())
    if done.returncode != 0:
        raise PipelineError(f"params.yaml could not be written:\n{done.stderr.strip()}")
    return done.stdout.strip() == "changed"


def _write(root: Path, profile: str | None, overrides: Mapping[str, Any]) -> bool:
    import yaml

    from pipeline_lib.params import compose

    tree = compose(profile, overrides, root=root) if profile else _amend(root, overrides)
    path = root / "params.yaml"
    if tree == load_yaml(path):
        return False
    path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return True


def _amend(root: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the commit's own params.yaml with overrides; students given alone also decide who is evaluated."""
    from pipeline_lib.params import build_params
    from pipeline_lib.params.root import set_dotted

    tree = load_yaml(root / "params.yaml")
    before = tree["distill"]["students"]
    for dotted, value in overrides.items():
        set_dotted(tree, dotted, value)
    students = tree["distill"]["students"]
    if "distill.students" in overrides and "evaluate.models" not in overrides:
        stages = [model for model in tree["evaluate"]["models"] if model not in [*before, *students]]
        tree["evaluate"]["models"] = [*stages, *students]
    build_params(tree, root=root)
    return tree


def main() -> int:
    """Read {"profile", "overrides"} from standard input, write ./params.yaml, print `changed` or `same`."""
    request = json.load(sys.stdin)
    try:
        changed = _write(Path.cwd(), request["profile"], request["overrides"])
    except PipelineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print("changed" if changed else "same")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
