"""`make claims`: the README's claims about the micro pipeline, over three seeds, on held-out problems.

Every seed is a whole pipeline run in its own worktree (`runs/claims-<seed>`), started from the last commit, sharing
DVC's cache: what was computed before is restored. Prints a table of claims with the mean over seeds, the 95 % t interval and
each seed's value; exits 1 when a claim does not hold.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

Evaluations = dict[str, dict[str, Any]]
"""Model -> reports/evaluation/<model>.json."""

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Two-sided 95 % quantile of Student's t for n seeds (n - 1 degrees of freedom)."""


@dataclass(frozen=True)
class Claim:
    """A sentence of the README, the number it is about, and what the number must be."""

    text: str
    value: Callable[[Evaluations], float]
    holds: Callable[[float], bool]
    unit: str = "%"

    def show(self, number: float) -> str:
        """The number as people read it."""
        return f"{100 * number:.1f} %" if self.unit == "%" else f"{number:.2f} {self.unit}".strip()


def suite(model: str, name: str, measure: str) -> Callable[[Evaluations], float]:
    """A number of one suite."""

    def read(evaluations: Evaluations) -> float:
        value = evaluations[model]["suites"][name][measure]
        return float(value["mean"] if isinstance(value, dict) else value)

    return read


def summary(model: str, measure: str) -> Callable[[Evaluations], float]:
    """A number of a model's summary."""
    return lambda evaluations: float(evaluations[model]["summary"][measure])


def ratio(
    above: Callable[[Evaluations], float], below: Callable[[Evaluations], float]
) -> Callable[[Evaluations], float]:
    """above / below; infinite where below is zero."""
    return lambda evaluations: above(evaluations) / below(evaluations) if below(evaluations) else math.inf


def difference(
    above: Callable[[Evaluations], float], below: Callable[[Evaluations], float]
) -> Callable[[Evaluations], float]:
    """above - below."""
    return lambda evaluations: above(evaluations) - below(evaluations)


def claims(students: Sequence[str], rl_student: str) -> list[Claim]:
    """What the README says, in its order."""

    def best_student(evaluations: Evaluations) -> float:
        return max(summary(name, "reasoning_score")(evaluations) for name in students)

    return [
        Claim("base: pass@1 on held-out hard math is at most 20 %", suite("base", "micro_math", "pass_at_1"), lambda x: x <= 0.20),
        Claim("R1-Zero: pass@1 on the same problems is at least 70 %", suite("r1_zero", "micro_math", "pass_at_1"), lambda x: x >= 0.70),
        Claim("R1-Zero: mean response length, against the base, at least 2x", ratio(suite("r1_zero", "micro_math", "mean_tokens"), suite("base", "micro_math", "mean_tokens")), lambda x: x >= 2, "x"),
        Claim("R1-Zero: share of self-verifying responses, against the base, at least 2x", ratio(suite("r1_zero", "micro_math", "verification_share"), suite("base", "micro_math", "verification_share")), lambda x: x >= 2, "x"),
        Claim("R1 minus R1-Zero: reasoning score, not below 0", difference(summary("r1", "reasoning_score"), summary("r1_zero", "reasoning_score")), lambda x: x >= 0),
        Claim("R1: format, at least 99 %", summary("r1", "format_rate"), lambda x: x >= 0.99),
        Claim("R1: responses that mix languages, at most 1 %", summary("r1", "mixing_share"), lambda x: x <= 0.01),
        Claim("R1-Zero minus R1: responses that mix languages, visibly above 0", difference(summary("r1_zero", "mixing_share"), summary("r1", "mixing_share")), lambda x: x >= 0.10),
        Claim("R1 minus R1-Zero: general score, at least 30 points", difference(summary("r1", "general_score"), summary("r1_zero", "general_score")), lambda x: x >= 0.30),
        Claim("best student against its teacher: reasoning score, at least 90 %", ratio(best_student, summary("r1", "reasoning_score")), lambda x: x >= 0.90),
        Claim("student distilled minus the same student by GRPO alone, above 0", difference(summary(rl_student, "reasoning_score"), summary("student_rl", "reasoning_score")), lambda x: x > 0),
    ]  # fmt: skip


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % t interval of the mean over seeds; the value itself for one seed."""
    half = T_95[len(values)] * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return mean(values) - half, mean(values) + half


def run_seed(root: Path, seed: int, overrides: dict[str, Any]) -> Path:
    """The whole pipeline for one seed, in its own worktree; returns the worktree."""
    from pipeline_lib.orchestration.runner import stage_environment
    from pipeline_lib.orchestration.worktree import create_run, finish_run, worktree_path

    name = f"claims-{seed}"
    create_run(root, name, profile="micro", overrides={**overrides, "run.seed": seed})
    worktree = worktree_path(root, name)
    environment = stage_environment(worktree, "claims", {"R1_PIPELINE_RUN": name})
    print(f"claims: seed {seed} in {worktree}", file=sys.stderr, flush=True)
    subprocess.run(
        [sys.executable, "-m", "dvc", "repro"], cwd=worktree, env=environment, check=True, stdout=sys.stderr
    )
    finish_run(root, name, f"make claims, seed {seed}")
    return worktree


def read_evaluations(worktree: Path) -> Evaluations:
    """Every model's evaluation of one run."""
    files = sorted((worktree / "reports" / "evaluation").glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def main() -> int:
    """Run the seeds and print the table."""
    parser = argparse.ArgumentParser(prog="make claims", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument(
        "--set", action="append", default=[], metavar="section.field=value", dest="assignments"
    )
    arguments = parser.parse_args()
    from pipeline_lib.params import load_params, parse_assignment

    root = Path.cwd()
    params = load_params(root / "params.yaml")
    overrides = dict(map(parse_assignment, arguments.assignments))
    runs = [read_evaluations(run_seed(root, seed, overrides)) for seed in arguments.seeds]
    failed = 0
    print(
        f"| claim | mean over {len(runs)} seeds | 95 % interval | each seed | holds |\n|---|---|---|---|---|"
    )
    for claim in claims(params.distill.students, params.train_student_rl.student):
        values = [claim.value(run) for run in runs]
        low, high = interval(values)
        holds = claim.holds(mean(values))
        failed += not holds
        each = ", ".join(map(claim.show, values))
        print(
            f"| {claim.text} | {claim.show(mean(values))} | {claim.show(low)} to {claim.show(high)} | {each} | {'yes' if holds else 'NO'} |"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
