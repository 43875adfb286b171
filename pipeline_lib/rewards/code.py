"""Is a program right? Run its problem's hidden tests in the sandbox (L ch.1: all tests pass = 1, any fails = 0)."""

from __future__ import annotations

from dataclasses import replace

from pipeline_lib.rewards.response import strip_fence
from pipeline_lib.sandbox.limits import Limits
from pipeline_lib.sandbox.pool import Job
from pipeline_lib.types import Outcome, Problem, Verdict


def code_job(problem: Problem, answer: str, limits: Limits) -> Job | Verdict:
    """What the sandbox shall run for an extracted answer; a verdict where the problem itself cannot be run."""
    if not problem.tests or not problem.entry_point:
        return Verdict(
            Outcome.VERIFIER_ERROR, answer, detail=f"problem {problem.id!r} has no tests or no entry point"
        )
    return Job(strip_fence(answer), problem.entry_point, problem.tests, limits)


def with_answer(verdict: Verdict, answer: str) -> Verdict:
    """The sandbox's verdict with the program that it judged."""
    return replace(verdict, extracted=answer)
