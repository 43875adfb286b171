"""The shape of the project: names, layers, declared dependencies (design §2-3)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipeline_lib.orchestration.code_deps import differences
from pipeline_lib.params import Params, compose, load_params
from pipeline_lib.params.students import StudentParams

ROOT = Path(__file__).resolve().parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
SHARED = {"run", "engine"}
PROFILES = sorted(p.stem for p in (ROOT / "profiles").glob("*.yaml"))
DESIGN_STAGES = {
    "prepare_problems", "validate_problems", "prepare_base_model", "select_hard_problems", "train_r1_zero", "collect_cold_start",
    "validate_cold_start", "train_cold_start_sft", "train_reasoning_rl", "sample_rejections", "validate_rejections",
    "train_general_sft", "train_reward_models", "train_all_task_rl", "distill", "evaluate", "report", "register_models",
}  # fmt: skip


def test_no_stage_of_the_design_is_missing() -> None:
    assert set(STAGES) >= DESIGN_STAGES


def test_a_stage_has_one_name_in_five_places() -> None:
    sections = set(Params.model_fields) - SHARED - {"students"}
    modules = {p.stem for p in (ROOT / "tasks").glob("*.py") if not p.stem.startswith("_")} - {
        "configure",
        "plan",
        "run_on_node",
    }
    assert set(STAGES) == sections
    assert set(STAGES) == modules
    for stage, body in STAGES.items():
        assert body["cmd"].split()[:3] == ["python", "-m", f"tasks.{stage}"]
        text = (ROOT / "tasks" / f"{stage}.py").read_text(encoding="utf-8")
        assert re.search(rf'run_stage\(\s*"{stage}",\s*{stage}\b', text), stage


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_has_a_group_and_a_description(stage: str) -> None:
    assert STAGES[stage]["meta"]["group"]
    assert STAGES[stage]["desc"].endswith(".")


def test_declared_code_deps_are_the_modules_used() -> None:
    assert differences(ROOT) == {}, "run `make deps`"


def test_dvc_reads_yaml_in_c() -> None:
    """ruamel.yaml falls back to Python in silence, and every stage reads a lock of four thousand lines."""
    from ruamel.yaml.cyaml import CParser

    assert CParser is not None


def test_params_yaml_spells_out_every_field() -> None:
    """A default hidden in the code would change results without DVC seeing it (code_deps leaves params out)."""
    written = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert load_params(ROOT / "params.yaml").model_dump(mode="json") == written


@pytest.mark.parametrize(
    "path", sorted((ROOT / "profiles" / "students").glob("*.yaml")), ids=lambda p: p.stem
)
def test_student_files_spell_out_every_field(path: Path) -> None:
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert StudentParams.model_validate(written).model_dump(mode="json") == written


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_valid(profile: str) -> None:
    assert compose(profile, root=ROOT)["run"]["profile"] == profile


def test_the_design_profiles_exist() -> None:
    assert set(PROFILES) >= {"micro", "smollm2", "qwen2.5-1.5b", "qwen2.5-32b", "deepseek-v3"}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "pipeline_lib" / "algorithms").glob("*.py")), ids=lambda p: p.name
)
def test_algorithms_import_torch_alone_and_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    allowed = {"__future__", "torch", "pipeline_lib", "dataclasses", "typing", "collections", "enum", "math"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            assert name.split(".")[0] in allowed, f"{path.name} imports {name}"
            if name.startswith("pipeline_lib"):
                assert name.startswith("pipeline_lib.algorithms"), f"{path.name} imports {name}"
    assert text.count("\n") <= 150


def test_no_python_under_mlflow() -> None:
    """A package there would shadow MLflow itself."""
    assert list((ROOT / "mlflow").rglob("*.py")) == []


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_imports_nothing_heavy_before_its_arguments(stage: str) -> None:
    code = f"import sys, tasks.{stage}; print([m for m in ('torch', 'mlflow', 'great_expectations', 'transformers', 'deepspeed', 'vllm', 'pandas', 'pyarrow') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_help_answers_in_under_a_second() -> None:
    def once() -> float:
        started = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "tasks.train_r1_zero", "--help"],
            cwd=ROOT,
            capture_output=True,
            check=True,
            timeout=60,
        )
        return time.monotonic() - started

    assert min(once() for _ in range(4)) < 1.0
