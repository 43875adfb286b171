"""What both sides of a comparison are told and share: the task, the judge, the clock, and a pipe to whoever measures.

Runs in the product's environment and in the peer's, so it imports only what both have.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pipeline_lib.types import Completion, Problem


@dataclass(frozen=True)
class Work:
    """One training run, in words that every trainer understands."""

    model: str
    """A model directory."""
    problems: str
    """A problem set (Parquet)."""
    heldout: str = ""
    """Problems for `measure`; empty: none."""
    seed: int = 7
    steps: int = 1000
    """More than will be asked for; the one who measures says when to stop."""
    problems_per_step: int = 16
    group_size: int = 16
    max_new_tokens: int = 128
    temperature: float = 1.0
    learning_rate: float = 3e-4
    warmup_steps: int = 5
    accuracy: float = 1.0
    format: float = 0.1
    judge: str = "rules"
    """`rules`: the pipeline's verifier. `coin`: a reward drawn from the text's hash, for models that solve nothing."""
    threads: int = 2
    algorithm: str = "grpo"
    kl_coef: float = 0.0
    microbatch_tokens: int = 8192
    """Ours: tokens forwarded at once."""
    peer_rows: int = 0
    """The peer: completions forwarded at once; 0: all of a step."""
    switches: dict[str, bool] = field(default_factory=dict)
    world_size: int = 1
    zero_stage: int = 0
    rollout: str = "torch"
    dtype: str = "float32"
    device: str = "cpu"
    """`cuda`: on the first GPU; both trainers then sample with vLLM in their own process."""


class Phases:
    """Seconds by name, from functions that are wrapped to be timed."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the time inside to `name`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        """Replace `owner.attribute` by itself, timed."""
        inner: Callable[..., Any] = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.time(name):
                return inner(*args, **kwargs)

        setattr(owner, attribute, timed)

    def take(self) -> dict[str, float]:
        """What was added since the last call."""
        seconds, self.seconds = self.seconds, {}
        return seconds


class Pipe:
    """JSON lines to the measuring process; everything else that prints goes to stderr."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def tell(self, **message: Any) -> None:
        """Say something."""
        self._out.write(json.dumps(message) + "\n")

    def wait(self) -> str:
        """The next order: `step`, `measure`, or `stop` (also when the other end is gone)."""
        return sys.stdin.readline().strip() or "stop"


class Turn:
    """One step at a time, when told to: the trainer calls `begin` before a step and `end` after it."""

    def __init__(self, pipe: Pipe, phases: Phases, measure: Callable[[], dict[str, float]]) -> None:
        self._pipe, self._phases, self._measure = pipe, phases, measure
        self._began = 0.0

    def begin(self) -> None:
        """Wait for leave to make a step. SystemExit when there will be none."""
        while True:
            order = self._pipe.wait()
            if order == "step":
                self._phases.take()
                self._began = time.perf_counter()
                return
            if order != "measure":
                raise SystemExit(0)
            self._pipe.tell(**self._measure())

    def end(self, **facts: float) -> None:
        """Report the step."""
        seconds = time.perf_counter() - self._began
        self._pipe.tell(seconds=seconds, phases=self._phases.take(), **facts)


def read_work() -> Work:
    """The work named on the command line."""
    return Work(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))


def heldout_accuracy(
    work: Work, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, judge: Any
) -> dict[str, float]:
    """pass@1 on the held-out problems, two samples each, by the same sampler and the same judge for every trainer."""
    from pipeline_lib.data.schema import read_problems
    from pipeline_lib.modeling import render_prompt
    from pipeline_lib.rollout.torch_generator import TorchGenerator
    from pipeline_lib.types import Outcome, SamplingParams

    problems = read_problems(Path(work.heldout))
    generator = TorchGenerator(model, tokenizer)
    groups = generator.generate(
        [render_prompt(tokenizer, problem.prompt) for problem in problems],
        [problem.id for problem in problems],
        SamplingParams(2, work.max_new_tokens, 1.0),
        seed=work.seed,
    )
    owners = [problem for problem in problems for _ in range(2)]
    flat = [completion for group in groups for completion in group]
    verdicts = [reward.verdict.outcome for reward in judge(owners, flat)]
    return {
        "pass_at_1": sum(verdict is Outcome.CORRECT for verdict in verdicts) / len(verdicts),
        "tokens": sum(len(completion.token_ids) for completion in flat) / len(flat),
    }


@contextmanager
def judging(work: Work) -> Iterator[Callable[[Sequence[Problem], Sequence[Completion]], list[Any]]]:
    """Inside: (problems, completions) -> rewards, the same for every trainer."""
    from pipeline_lib.rewards.combine import Scorer
    from pipeline_lib.rewards.registry import ScoreSettings
    from pipeline_lib.types import Outcome, Reward, Verdict

    if work.judge == "coin":

        def coin(_: Sequence[Problem], completions: Sequence[Completion]) -> list[Reward]:
            heads = [hashlib.sha256(repr(c.token_ids).encode()).digest()[0] % 2 for c in completions]
            return [
                Reward(float(head), {}, Verdict(Outcome.CORRECT if head else Outcome.WRONG)) for head in heads
            ]

        yield coin
        return
    weights = {"accuracy": work.accuracy, "format": work.format}
    settings = ScoreSettings(language="en", max_new_tokens=work.max_new_tokens, overlong_buffer=0)
    with Scorer(settings) as scorer:
        yield lambda problems, completions: scorer.score_batch(problems, completions, weights, {})
