"""A small run's files, written the way the stages write them; the numbers are invented."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.evaluation.evaluate import JudgedSample, summarise
from pipeline_lib.evaluation.report import EvaluationReport, write_report
from pipeline_lib.evaluation.suites import load_suite
from pipeline_lib.params import Params, load_params
from pipeline_lib.training.metrics import to_csv
from pipeline_lib.training.samples_table import RolloutRow, write_rollouts
from pipeline_lib.types import Completion, Domain, Outcome, Problem, SamplingParams, Verdict

PROJECT = Path(__file__).resolve().parents[3]
SKILL = {
    "base": (0.16, 0.55, 0.12, 9),
    "r1_zero": (0.74, 0.2, 0.31, 31),
    "cold_start": (0.45, 0.3, 0.0, 26),
    "reasoning_rl": (0.78, 0.3, 0.0, 34),
    "general_sft": (0.72, 0.86, 0.0, 33),
    "r1": (0.82, 0.93, 0.0, 36),
    "student_rl": (0.41, 0.15, 0.2, 24),
    "qwen-xs": (0.77, 0.9, 0.0, 35),
    "llama-xs": (0.7, 0.88, 0.0, 35),
}
"""Model -> reasoning accuracy, general accuracy, language mixing, length."""


@pytest.fixture(scope="session")
def run_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    write_run(root)
    return root


@pytest.fixture(scope="session")
def run_params(run_root: Path) -> Params:
    return load_params(run_root / "params.yaml")


def write_run(root: Path) -> None:
    """Write params.yaml, dvc.yaml, dvc.lock, evaluations, curves, samples, metrics and gates."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(PROJECT / name, root / name)
    shutil.copytree(PROJECT / "profiles", root / "profiles")
    for model, skill in SKILL.items():
        write_report(root / f"reports/evaluation/{model}.json", evaluation(model, skill))
    write_curves(root)
    for name, metrics in {
        "prepare_problems": {"train.kept": 3300, "train.dropped_benchmark": 12},
        "select_hard_problems": {"kept": 1480, "pass_rate_histogram": {"0.0": 900, "0.1": 300}},
        "collect_cold_start": {"kept": 400, "sampled": 2400, "dropped": {"wrong": 900}},
    }.items():
        write_json(root / f"reports/metrics/{name}.json", metrics)
    gate = {"rows": 3300, "expectations": [{"success": True}]}
    write_json(root / "reports/gates/validate_problems.json",
               {"gate": "validate_problems", "success": True, "datasets": {"train": gate}})  # fmt: skip
    (root / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n"
        "  prepare_problems:\n    cmd: x\n    outs:\n    - {path: data/problems, md5: aa.dir}\n"
        "  train_r1_zero:\n    cmd: x\n    outs:\n    - {path: models/r1_zero, md5: bb.dir}\n"
        "  register_models:\n    cmd: x\n    outs:\n    - {path: data/later, md5: cc}\n",
        encoding="utf-8",
    )


def evaluation(model: str, skill: tuple[float, float, float, int]) -> EvaluationReport:
    reasoning, general, mixing, length = skill
    rng = random.Random(model)
    suites = {}
    for name in ("micro_math", "micro_code", "micro_general"):
        suite = load_suite(name)
        accuracy = general if suite.kind == "general" else reasoning
        problems = [Problem(f"{name}-{i}", Domain.MATH, f"q{i}", "4", category="chain") for i in range(60)]
        judged = [[_sample(p, rng, accuracy, mixing, length) for _ in range(4)] for p in problems]
        suites[name] = summarise(suite, judged, SamplingParams(4, 128))
    return EvaluationReport(model, 7, suites)


def _sample(
    problem: Problem, rng: random.Random, accuracy: float, mixing: float, length: int
) -> JudgedSample:
    right = rng.random() < accuracy
    words = (
        "so 4 得 4" if rng.random() < mixing else ("so 4 check 4" if rng.random() < accuracy / 2 else "so 4")
    )
    answer = "4" if right else "5"
    tokens = tuple(range(max(1, round(rng.gauss(length, 3)))))
    completion = Completion(
        problem.id,
        (1,),
        tokens,
        (0.0,) * len(tokens),
        f"<think>{words}</think><answer>{answer}</answer>",
        True,
    )
    return JudgedSample(problem, completion, Verdict(Outcome.CORRECT if right else Outcome.WRONG, answer))


def write_curves(root: Path) -> None:
    plots = root / "reports/plots"
    plots.mkdir(parents=True)
    rng = random.Random(0)
    for stage, steps, start in (
        ("train_r1_zero", 150, 0.16),
        ("train_reasoning_rl", 60, 0.45),
        ("train_all_task_rl", 40, 0.7),
    ):
        rows = []
        for step in range(steps):
            grown = 1 / (1 + math.exp(-(step - 60) / 15))
            accuracy = start + (0.8 - start) * grown + rng.gauss(0, 0.03)
            rows.append(
                {
                    "step": float(step),
                    "accuracy": accuracy,
                    "reward": accuracy + 0.1,
                    "length": 9 + 24 * grown + rng.gauss(0, 1),
                    "verification_share": 0.05 + 0.5 * grown + rng.gauss(0, 0.02),
                    "reflection_share": 0.02 + 0.2 * grown,
                    "backtracking_share": 0.02 + 0.12 * grown,
                    "format_rate": 0.7 + 0.3 * grown,
                    "language_mixing": 0.12 + 0.15 * grown,
                    "truncated_share": 0.05 * (1 - grown),
                    "all_wrong_share": 0.4 * (1 - grown),
                    "entropy": 1.1 - 0.7 * grown,
                }
            )
        (plots / f"{stage}.csv").write_text(to_csv(rows), encoding="utf-8")
        write_rollouts(
            root / f"data/rollouts/{stage}.parquet",
            [
                _row(s, p, g, rng)
                for s in (0, steps - 1)
                for p in range(4)
                for g in range(16 if p == 0 else 1)
            ],
        )
    for name in ("train_cold_start_sft", "distill-qwen-xs"):
        rows = [{"step": float(s), "loss": 2.0 * math.exp(-s / 20) + 0.3} for s in range(60)]
        (plots / f"{name}.csv").write_text(to_csv(rows), encoding="utf-8")


def _row(step: int, problem: int, sample: int, rng: random.Random) -> RolloutRow:
    right = rng.random() < (0.2 if step == 0 else 0.8)
    thought = " ① so 5 ② so 3 check 3" if right else " so 5"
    return RolloutRow(
        step=step,
        problem_id=f"p{problem}",
        domain="math",
        prompt="4 a-2 b+5 c*2 <script>alert(1)</script> mod 7",
        response=f"<think>{thought}</think><answer>{3 if right else sample % 7}</answer>",
        outcome="correct" if right else "wrong",
        extracted="3",
        reward=1.1 if right else 0.1,
        tokens=len(thought),
        finished=True,
    )


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
