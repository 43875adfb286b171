"""Score responses: extract, judge, add up (L ch.1: accuracy + format; v2 eq.8-10: rule, learned and language rewards).

`Scorer` owns the sandbox and the math verifier, and judges a batch with both at once. Learned rewards are computed by the trainer
and come in through `extra_parts`. What our verifier could not judge is masked: it carries no learning signal, and is counted.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType

from pipeline_lib.errors import ConfigError, NonFiniteError
from pipeline_lib.rewards.accuracy import Question, judge_quickly, verdict_of
from pipeline_lib.rewards.code import code_job, with_answer
from pipeline_lib.rewards.counter import VerdictCounter
from pipeline_lib.rewards.general import verify_general
from pipeline_lib.rewards.math_pool import MathPool
from pipeline_lib.rewards.registry import Sample, ScoreSettings, reward_parts
from pipeline_lib.rewards.response import THINK, AnswerExtractor, AnswerStyle
from pipeline_lib.sandbox.limits import Limits
from pipeline_lib.sandbox.pool import Job, SandboxPool
from pipeline_lib.types import Completion, Domain, Outcome, Problem, Reward, Verdict


@dataclass(frozen=True, slots=True)
class _Pending:
    """A response whose verdict waits for a program run or for algebra."""

    answer: str
    work: Job | Question


class Scorer:
    """Judges and scores responses. Use as a context manager; thread-safe.

    Nothing starts before it is needed: a batch of numbers starts neither the sandbox nor the math verifier.

    Raises (from the judging calls):
        SandboxUnavailable: there is code to judge and the jail cannot be built here.
    """

    def __init__(
        self,
        settings: ScoreSettings | None = None,
        *,
        answer_style: AnswerStyle = AnswerStyle.TAG,
        code_style: AnswerStyle | None = None,
        think_prefilled: bool = False,
        limits: Limits | None = None,
        workers: int = 2,
        alarm_share: float = 0.05,
    ) -> None:
        """
        Args:
            settings: what the reward parts need to know.
            answer_style: where the final answer stands.
            code_style: where a program stands, if elsewhere.
            think_prefilled: the chat template ends with the opening think tag, so the response does not begin with it.
            limits: bounds of one program.
            workers: sandboxes, and math processes, at most.
            alarm_share: masked share of a batch above which `counter` warns.
        """
        self.settings = settings or ScoreSettings()
        self.counter = VerdictCounter(alarm_share)
        self._extract = AnswerExtractor(answer_style)
        self._extract_code = AnswerExtractor(code_style or answer_style)
        self._think_prefilled = think_prefilled
        self._limits = limits or Limits()
        self._math = MathPool(workers)
        self._sandbox: SandboxPool | None = None
        self._workers = workers
        self._starting = threading.Lock()
        self._background = ThreadPoolExecutor(1, thread_name_prefix="scorer")

    def __enter__(self) -> Scorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop every process this scorer started."""
        self._background.shutdown()
        self._math.close()
        if self._sandbox is not None:
            self._sandbox.close()

    def verify_batch(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Verdict]:
        """A verdict per response, in order; counted in `counter`.

        Equal answers to the same problem are judged once.

        Args:
            problems: the problem of each response (repeated for a group).
            responses: whole texts, tags included.
        """
        verdicts: dict[tuple[str, str | None], Verdict] = {}
        pending: dict[tuple[str, str | None], _Pending] = {}
        keys: list[tuple[str, str | None]] = []
        for problem, response in zip(problems, responses, strict=True):
            extractor = self._extract_code if problem.domain is Domain.CODE else self._extract
            found = extractor.extract(self._whole(response))
            key = (problem.id, found.answer if found.answer is not None else found.reason + "\0")
            keys.append(key)
            if key in verdicts or key in pending:
                continue
            if found.answer is None:
                verdicts[key] = Verdict(Outcome.WRONG, detail=found.reason)
                continue
            judged = self._judge(problem, found.answer)
            if isinstance(judged, Verdict):
                verdicts[key] = judged
            else:
                pending[key] = _Pending(found.answer, judged)
        verdicts.update(self._settle(pending))
        ordered = [verdicts[key] for key in keys]
        self.counter.add(ordered)
        return ordered

    def score_batch(
        self,
        problems: Sequence[Problem],
        completions: Sequence[Completion],
        weights: Mapping[str, float],
        extra_parts: Mapping[str, Sequence[float]] | None = None,
    ) -> list[Reward]:
        """A reward per completion, in order.

        Args:
            problems: the problem of each completion.
            completions: sampled responses.
            weights: part name -> weight; 0 leaves a part out. Every other name must be a reward module or in `extra_parts`.
            extra_parts: learned rewards, name -> one unweighted number per completion.

        Raises:
            ConfigError: a weighted name that nobody computes, or an extra part of the wrong length.
            NonFiniteError: a learned reward is NaN or infinity; names problem and sample.
        """
        extra = extra_parts or {}
        _check_parts(weights, extra, problems)
        verdicts = self.verify_batch(problems, [completion.text for completion in completions])
        return [
            self._add_up(
                Sample(problem, completion, self._whole(completion.text), verdict, self.settings),
                weights,
                extra,
                row,
            )
            for row, (problem, completion, verdict) in enumerate(
                zip(problems, completions, verdicts, strict=True)
            )
        ]

    def _whole(self, response: str) -> str:
        return (
            THINK + response
            if self._think_prefilled and not response.lstrip().startswith(THINK)
            else response
        )

    def _judge(self, problem: Problem, answer: str) -> Verdict | Job | Question:
        if problem.domain is Domain.CODE:
            return code_job(problem, answer, self._limits)
        if problem.domain is Domain.GENERAL:
            return verify_general(problem.answer, answer)
        if problem.answer is None:
            return Verdict(
                Outcome.VERIFIER_ERROR, answer, detail=f"problem {problem.id!r} has no answer to compare with"
            )
        return judge_quickly(problem.answer, answer)

    def _settle(
        self, pending: Mapping[tuple[str, str | None], _Pending]
    ) -> dict[tuple[str, str | None], Verdict]:
        """Run programs and algebra side by side."""
        programs = {
            key: (item.answer, item.work) for key, item in pending.items() if isinstance(item.work, Job)
        }
        algebra = {
            key: (item.answer, item.work) for key, item in pending.items() if isinstance(item.work, Question)
        }
        jobs = [job for _, job in programs.values()]
        formulas = [(question.gold, question.answer) for _, question in algebra.values()]
        running = self._background.submit(self._programs().run_batch, jobs) if jobs else None
        comparisons = self._math.compare_batch(formulas) if formulas else []
        settled = {
            key: verdict_of(question, answer, comparison)
            for (key, (answer, question)), comparison in zip(algebra.items(), comparisons, strict=True)
        }
        if running is not None:
            for (key, (answer, _)), verdict in zip(programs.items(), running.result(), strict=True):
                settled[key] = with_answer(verdict, answer)
        return settled

    def _programs(self) -> SandboxPool:
        with self._starting:
            if self._sandbox is None:
                self._sandbox = SandboxPool(self._workers).__enter__()
            return self._sandbox

    def _add_up(
        self, sample: Sample, weights: Mapping[str, float], extra: Mapping[str, Sequence[float]], row: int
    ) -> Reward:
        parts: dict[str, float] = {}
        for name, weight in weights.items():
            if weight:
                value = extra[name][row] if name in extra else reward_parts()[name].score(sample)
                parts[name] = weight * value
        return Reward(
            total=math.fsum(parts.values()),
            parts=parts,
            verdict=sample.verdict,
            masked=not sample.verdict.outcome.is_signal,
        )


def _check_parts(
    weights: Mapping[str, float], extra: Mapping[str, Sequence[float]], problems: Sequence[Problem]
) -> None:
    known = reward_parts()
    for name, weight in weights.items():
        if weight and name not in known and name not in extra:
            raise ConfigError(
                f"rewards.{name}",
                weight,
                f"nobody computes it; there are {', '.join(sorted([*known, *extra]))}",
            )
    for name, values in extra.items():
        if len(values) != len(problems):
            raise ConfigError(
                f"extra_parts.{name}",
                len(values),
                f"must hold one number for each of {len(problems)} completions",
            )
        for row, value in enumerate(values):
            if not math.isfinite(value):
                sample = sum(before.id == problems[row].id for before in problems[:row])
                raise NonFiniteError(
                    f"problem {problems[row].id}, sample {sample}: the learned reward {name} is {value}"
                )


def without_time(verdict: Verdict) -> Verdict:
    """The verdict as it may stand in a file that DVC hashes."""
    return replace(verdict, seconds=0.0)
