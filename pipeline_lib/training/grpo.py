"""Reinforcement learning, one stage: the loop around sampling and learning (lesson ch.2, v2 §2.2-2.3).

    for each step:  problems -> G completions each -> verdicts -> advantages -> update

Everything random is a function of (seed, step), so a run that was killed and resumed is the run that was not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline_lib.algorithms.dapo import keeps_group
from pipeline_lib.data.schema import read_problems
from pipeline_lib.errors import DataError
from pipeline_lib.modeling import load_model, load_tokenizer, render_prompt
from pipeline_lib.params import AllTaskGrpoParams, EngineParams, GrpoParams
from pipeline_lib.rollout import build_generator
from pipeline_lib.training.agreement import require_agreement
from pipeline_lib.training.context import JobContext
from pipeline_lib.training.distributed import Engine
from pipeline_lib.training.metrics import Row, final_summary, judged, sample_metrics
from pipeline_lib.training.order import Cursor, derived_seed
from pipeline_lib.training.policy import Switches
from pipeline_lib.training.rollout_step import Group, LearnedReward, Sampler, ScoreFunction, reward_matrix
from pipeline_lib.training.samples_table import RolloutRow, keep_steps, rows_of, write_rollouts
from pipeline_lib.training.schedule import warmup_constant
from pipeline_lib.training.update import PolicyTrainer, UpdateStats
from pipeline_lib.types import Problem, SamplingParams

if TYPE_CHECKING:
    from pipeline_lib.rollout.protocol import Generator

SAMPLES_PER_STEP = 4
"""Rollouts of one step in the sample table."""
RESAMPLING_ROUNDS = 4
"""DAPO: how often a step samples again for groups without variance before it trains on what it has."""
LEARNED = ("helpfulness", "safety")


@dataclass(slots=True)
class GrpoState:
    """What a checkpoint remembers besides weights."""

    step: int = 0
    version: int = 0
    """Optimizer updates so far; stamped on every sample."""
    reference_age: int = 0
    """Steps since the reference model was last a copy of the policy."""
    reasoning: int = 0
    general: int = 0
    """Positions of the two data cursors."""
    rows: list[Row] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    """The sample table so far."""


def run_grpo(context: JobContext, score: ScoreFunction, learned: Mapping[str, LearnedReward]) -> None:
    """Run (or continue) the job to its end and write its outputs.

    Args:
        score: Judges completions: `rewards.Scorer.score_batch`, or a test's own.
        learned: Learned rewards by the name of their weight; used on general prompts in the last steps.
    """
    loop = _Loop(context, score, learned)
    try:
        loop.run()
    finally:
        loop.generator.close()


class _Loop:
    def __init__(
        self, context: JobContext, score: ScoreFunction, learned: Mapping[str, LearnedReward]
    ) -> None:
        spec, self.context, self.learned = context.spec, context, learned
        self.params = parse_section(spec.section)
        self.engine_params = EngineParams.model_validate(spec.engine)
        self.problems = read_problems(context.input("problems"))
        self.general = read_problems(context.input("general")) if "general" in spec.inputs else []
        self.tokenizer = load_tokenizer(context.input("model"))
        self.lm = load_model(context.input("model"), self.engine_params.dtype).to(context.world.device)
        self.trainer = PolicyTrainer(
            self.lm, self.params, self.engine_params, context.world, Switches(**spec.switches)
        )
        self.state = GrpoState()
        self._resume()
        with self.trainer.engine.whole_weights():
            self.generator: Generator = build_generator(
                self.engine_params,
                self.lm,
                self.tokenizer,
                weight_version=self.state.version,
                switches=spec.sampling_switches,
            )
        sampling = SamplingParams(self.params.group_size, self.params.max_new_tokens, self.params.temperature)
        self.sampler = Sampler(
            self.generator,
            score,
            sampling,
            lambda text: render_prompt(self.tokenizer, text),
            judge_early=spec.judge_early,
        )
        self.reasoning_order = Cursor(
            len(self.problems), derived_seed(spec.seed, spec.name), self.state.reasoning
        )
        self.general_order = Cursor(
            max(len(self.general), 1), derived_seed(spec.seed, spec.name, "general"), self.state.general
        )

    def run(self) -> None:
        params, state = self.params, self.state
        shown = keep_steps(params.steps, params.sample_rows, SAMPLES_PER_STEP)
        progress = self.context.progress(params.steps, state.step)
        while state.step < params.steps:
            row = self._step(shown)
            state.step += 1
            progress.step(state.step, row)
            if state.step % params.checkpoint_every == 0 and state.step < params.steps:
                self.context.store.save(state.step, self._engines(), self._saved(), self._tensors())
            if state.step < params.steps:
                self.context.leave_if_asked(state.step, self._engines(), self._saved(), self._tensors())
        if self.context.world.is_first:
            write_rollouts(self.context.output("rollouts"), [RolloutRow(**row) for row in state.kept])
        self.context.finish(
            self.trainer.engine, self.lm, self.tokenizer, state.rows, final_summary(state.rows)
        )

    def _step(self, shown: frozenset[int]) -> Row:
        """Sample, learn, measure; returns the step's row."""
        state, params = self.state, self.params
        began = time.perf_counter()
        if params.reference_refresh_steps and state.reference_age >= params.reference_refresh_steps:
            self.trainer.refresh_reference()
            state.reference_age = 0
        seen, groups, resampled = self._sample()
        sampled = time.perf_counter()
        rate = warmup_constant(state.step, params.learning_rate, params.warmup_steps)
        with self._asleep():
            stats = self.trainer.update(groups, rate)
        engine = self.engine_params
        require_agreement(stats.agreement, rollout=engine.rollout, dtype=engine.dtype, step=state.step)
        if stats.updates:
            state.version += stats.updates
            with self.trainer.engine.whole_weights():
                self.generator.update_weights(self.lm, state.version)
        state.reference_age += 1
        learned = time.perf_counter()
        gathered = [group for rank in self.context.world.gather(judged(seen)) for group in rank]
        row: Row = {
            "step": float(state.step),
            "lr": rate,
            **sample_metrics(gathered),
            **update_metrics(stats),
        }
        row["skipped_step"] = float(stats.updates == 0)
        if self.trainer.objective.dynamic_sampling:
            row["resampled_groups"] = float(resampled)
        state.rows.append(row)
        if state.step in shown:
            state.kept += [_as_json(kept) for kept in rows_of(state.step, seen, SAMPLES_PER_STEP)]
        self._warn(row)
        tokens = sum(sample.tokens for group in gathered for sample in group)
        self.context.log(
            {
                **row,
                **self.generator.metrics(),
                **stats.agreement.histogram(),
                "time/sample_s": sampled - began,
                "time/update_s": learned - sampled,
                "time/measure_s": time.perf_counter() - learned,
                "time/step_s": time.perf_counter() - began,
                "time/sampled_tokens_per_s": tokens / max(sampled - began, 1e-9),
                "time/trained_tokens_per_s": stats.trained_tokens / max(learned - sampled, 1e-9),
            },
            state.step,
        )
        return row

    @contextmanager
    def _asleep(self) -> Iterator[None]:
        """Inside, a sampler on the trainer's own GPU gives its cache and weights' memory to the update (design §5)."""
        if self.context.world.device.type != "cuda":
            yield
            return
        self.generator.sleep()
        try:
            yield
        finally:
            self.generator.wake()

    def _sample(self) -> tuple[list[Group], list[Group], int]:
        """This rank's groups: (all that were sampled, those to learn from, how many were sampled again)."""
        seen = self._groups(self._next_problems(self.params.problems_per_step), 0)
        if not self.trainer.objective.dynamic_sampling:
            return seen, seen, 0
        kept = _with_variance(seen)
        resampled = 0
        for attempt in range(1, RESAMPLING_ROUNDS):
            missing = self.params.problems_per_step - int(self.context.world.sum([len(kept)])[0])
            if missing <= 0:
                break
            resampled += missing
            more = self._groups(self._next_problems(missing), attempt)
            seen, kept = seen + more, kept + _with_variance(more)
        return seen, kept, resampled

    def _groups(self, problems: Sequence[Problem], attempt: int) -> list[Group]:
        world, spec = self.context.world, self.context.spec
        mine = problems[world.rank :: world.size]
        learned = self.learned if self._is_general_step() else {}
        weights = self.params.rewards.model_dump()
        weights.update({name: 0.0 for name in LEARNED if name not in learned})
        with self.trainer.engine.whole_weights():
            return self.sampler.groups(
                mine,
                seed=derived_seed("rollout", spec.seed, spec.name, self.state.step, attempt, world.rank),
                version=self.state.version,
                weights=weights,
                learned=learned,
            )

    def _next_problems(self, count: int) -> list[Problem]:
        """The step's problems: general prompts only in the last steps of the all-task stage (v2)."""
        wanted = 0
        if isinstance(self.params, AllTaskGrpoParams) and self._is_general_step():
            wanted = round(count * self.params.general_fraction)
        general = [self.general[index] for index in self.general_order.take(wanted)]
        reasoning = [self.problems[index] for index in self.reasoning_order.take(count - wanted)]
        self.state.reasoning, self.state.general = self.reasoning_order.position, self.general_order.position
        return reasoning + general

    def _is_general_step(self) -> bool:
        if not isinstance(self.params, AllTaskGrpoParams):
            return False
        return self.state.step >= self.params.steps - self.params.general_last_steps

    def _warn(self, row: Row) -> None:
        if not self.context.world.is_first:
            return
        if row["masked_share"] > self.params.masked_alarm:
            warn(f"step {self.state.step}: the verifier masked {row['masked_share']:.0%} of the samples")
        if row["skipped_step"]:
            warn(f"step {self.state.step}: no group has any signal; the step is skipped")

    def _engines(self) -> dict[str, Engine]:
        return self.trainer.engines()

    def _saved(self) -> dict[str, Any]:
        return _as_json(self.state)

    def _tensors(self) -> dict[str, Any]:
        reference = self.trainer.reference
        return {} if reference is None else {"reference": reference.lm.state_dict()}

    def _resume(self) -> None:
        found = self.context.store.load(self._engines())
        if found is None:
            if not self.problems:
                raise DataError(f"{self.context.input('problems')}: holds no problem")
            return
        state, tensors = found
        self.state = GrpoState(**state)
        if self.trainer.reference is not None:
            self.trainer.reference.lm.load_state_dict(tensors["reference"])


def parse_section(section: Mapping[str, Any]) -> GrpoParams:
    """The stage's section as its own type: all-task RL has two fields more."""
    if "general_last_steps" in section:
        return AllTaskGrpoParams.model_validate(section)
    return GrpoParams.model_validate({key: value for key, value in section.items() if key != "student"})


def update_metrics(stats: UpdateStats) -> Row:
    """The learning half of a step's row."""
    return {
        "loss": stats.loss,
        "grad_norm": stats.grad_norm,
        "clip_share": stats.clip_share,
        "kl": stats.kl,
        "trained_tokens": float(stats.trained_tokens),
        **stats.agreement.metrics(),
    }


def warn(message: str) -> None:
    """One line on stderr."""
    import sys

    print(f"warning: {message}", file=sys.stderr, flush=True)


def _with_variance(groups: list[Group]) -> list[Group]:
    if not groups:
        return []
    keep = keeps_group(*reward_matrix(groups)).tolist()
    return [group for group, kept in zip(groups, keep, strict=True) if kept]


def _as_json(value: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(value)
