"""Training sections: GRPO (and its relatives), SFT, reward models.

Each field says what it means, in which unit, and where its default comes from:
L = the lesson (`deepseek_r1_lesson.txt`), v2 = the revised DeepSeek-R1 report.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline_lib.params._base import (
    Fraction,
    Name,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    StrictModel,
)


class RewardWeights(StrictModel):
    """Weight of each reward in the sum R. 0 turns one off."""

    accuracy: NonNegativeFloat = Field(
        1.0, description="1 if the final answer is right / all tests pass (L ch.1)."
    )
    format: NonNegativeFloat = Field(
        0.1, description="Think tags and a designated answer (L ch.1: 0.1; v2: 1)."
    )
    language: NonNegativeFloat = Field(
        0.0, description="Share of target-language words in the chain of thought (v2 B.6)."
    )
    overlong: NonNegativeFloat = Field(0.0, description="Soft penalty near the length limit (DAPO).")
    helpfulness: NonNegativeFloat = Field(
        0.0, description="Learned helpfulness reward on general prompts (v2 B.3.1)."
    )
    safety: NonNegativeFloat = Field(0.0, description="Learned safety reward on general prompts (v2 B.3.1).")


class GrpoParams(StrictModel):
    """One reinforcement-learning stage."""

    algorithm: Literal["grpo", "dapo", "dr_grpo", "reinforce", "ppo"] = Field(
        "grpo", description="Objective (L ch.2; issue 3)."
    )
    steps: int = Field(
        ge=0,
        description="Rollouts, each of `minibatches` optimizer steps (v2 R1-Zero: 10,400 optimizer steps).",
    )
    problems_per_step: PositiveInt = Field(description="Questions sampled a step; v2: 32.")
    group_size: int = Field(
        ge=2, description="G, completions per question; L: 64, v2: 16. A group of one has no baseline."
    )
    max_new_tokens: PositiveInt = Field(description="Response limit in tokens; v2: 32,768, then 65,536.")
    temperature: PositiveFloat = Field(1.0, description="Sampling temperature; v2: 1, stage 4: 0.7.")
    learning_rate: PositiveFloat = Field(description="Peak AdamW learning rate; v2 R1-Zero: 3e-6 at 671B.")
    warmup_steps: int = Field(0, ge=0, description="Linear warm-up, in steps.")
    weight_decay: NonNegativeFloat = Field(0.0, description="AdamW decoupled weight decay.")
    max_grad_norm: PositiveFloat = Field(1.0, description="Gradient clipping by global norm.")
    clip_low: PositiveFloat = Field(0.2, description="Lower clip: ratio >= 1 - clip_low (L: 0.2; v2: 10).")
    clip_high: PositiveFloat = Field(
        0.2, description="Upper clip: ratio <= 1 + clip_high (L: 0.2; v2: 10; DAPO: 0.28)."
    )
    kl_coef: NonNegativeFloat = Field(
        0.01, description="beta; 0 needs no reference model (L code: 0.01; v2: 0.001)."
    )
    kl_estimator: Literal["k1", "k2", "k3"] = Field(
        "k3", description="KL estimator in the loss (v2 eq.2: k3; L code: k1)."
    )
    reference_refresh_steps: int = Field(
        0,
        ge=0,
        description="Copy policy into reference every n rollouts; 0 never (v2: every 400 optimizer steps).",
    )
    minibatches: PositiveInt = Field(
        1, description="Optimizer steps per rollout (v2: 16 from 8,192 outputs)."
    )
    importance_cap: PositiveFloat = Field(
        2.0, description="Truncation of the importance weight when off-policy."
    )
    overlong_buffer: int = Field(
        0, ge=0, description="Tokens before the limit in which the overlong penalty grows (DAPO)."
    )
    microbatch_tokens: PositiveInt = Field(
        8192, description="Tokens forwarded at once; memory only, the gradient is unchanged."
    )
    checkpoint_every: PositiveInt = Field(
        20, description="Steps between checkpoints; a kill loses at most this many."
    )
    sample_rows: int = Field(64, ge=0, description="Rollouts kept in the sample table.")
    masked_alarm: Fraction = Field(
        0.05, description="Warn when more than this share of samples is masked by the verifier."
    )
    rewards: RewardWeights = Field(default_factory=RewardWeights)

    @model_validator(mode="after")
    def _overlong_fits(self) -> GrpoParams:
        if self.overlong_buffer >= self.max_new_tokens:
            raise ValueError(
                f"overlong_buffer ({self.overlong_buffer}) must be smaller than max_new_tokens ({self.max_new_tokens})"
            )
        return self


class AllTaskGrpoParams(GrpoParams):
    """Stage 4: reasoning and general prompts together (v2 §2.3.4)."""

    general_fraction: Fraction = Field(
        0.25, description="Share of general prompts in the steps that have them."
    )
    general_last_steps: int = Field(
        ge=0, description="General data and preference rewards only in the last n steps (v2: 400 of 1,700)."
    )


class StudentGrpoParams(GrpoParams):
    """A student trained by RL alone: what distillation is compared with (v2 Table 6 discussion)."""

    student: Name = Field(description="Which of the students (profiles/students/<name>.yaml).")


class ReasoningGrpoParams(GrpoParams):
    """Stage 2."""


class SftParams(StrictModel):
    """Supervised fine-tuning; loss on the response only."""

    epochs: PositiveInt = Field(2, description="Passes over the data (v2 B.4.2: 2-3).")
    batch_size: PositiveInt = Field(description="Sequences per optimizer step (v2: 128; distillation 64).")
    learning_rate: PositiveFloat = Field(description="Peak learning rate (v2: 5e-5).")
    final_lr_ratio: Fraction = Field(
        0.1, description="Cosine ends at this share of the peak (v2: 5e-6 / 5e-5)."
    )
    warmup_ratio: Fraction = Field(0.03, description="Share of the steps spent warming up.")
    weight_decay: NonNegativeFloat = Field(0.0, description="AdamW decoupled weight decay.")
    max_grad_norm: PositiveFloat = Field(1.0, description="Gradient clipping by global norm.")
    max_tokens: PositiveInt = Field(description="Longest prompt + response kept (v2: 32,768).")
    microbatch_tokens: PositiveInt = Field(8192, description="Tokens forwarded at once; memory only.")
    checkpoint_every: PositiveInt = Field(50, description="Optimizer steps between checkpoints.")


class ColdStartSftParams(SftParams):
    """Stage 1."""

    skip: bool = Field(
        False, description="Ablation: hand the base model on unchanged (L ch.4: R1-Zero's formatting mess)."
    )


class GeneralSftParams(SftParams):
    """Stage 3, from the base again."""

    skip: bool = Field(False, description="Ablation: hand the stage-2 model on (L ch.4: a math-only model).")


class RewardModelParams(StrictModel):
    """Helpfulness (Bradley-Terry, pairwise) and safety (pointwise) reward models (v2 B.3.1)."""

    epochs: PositiveInt = Field(1, description="v2: 1.")
    batch_size: PositiveInt = Field(description="Pairs or examples per step (v2: 256).")
    learning_rate: PositiveFloat = Field(description="v2: 6e-6.")
    max_tokens: PositiveInt = Field(description="Longest prompt + response kept (v2: 8,192).")
    heldout_fraction: Fraction = Field(
        0.1, description="Share kept aside to measure the accuracy that is reported."
    )
    checkpoint_every: PositiveInt = Field(50, description="Optimizer steps between checkpoints.")
