"""What a person calls the models and stages of a run."""

from __future__ import annotations

from html import escape

MODELS = {
    "base": "Base",
    "r1_zero": "R1-Zero",
    "cold_start": "Stage 1 · cold start",
    "reasoning_rl": "Stage 2 · reasoning RL",
    "general_sft": "Stage 3 · general SFT",
    "r1": "R1",
    "student_rl": "Student · RL alone",
}
GROUPS = {
    "data": "Data",
    "r1_zero": "R1-Zero",
    "stage_1_cold_start": "Stage 1",
    "stage_2_reasoning_rl": "Stage 2",
    "stage_3_rejection_sft": "Stage 3",
    "stage_4_all_task_rl": "Stage 4",
    "distillation": "Distillation",
    "evaluation": "Evaluation",
    "release": "Release",
}


def model_name(model: str) -> str:
    """`r1_zero` -> `R1-Zero`; a student keeps its own name."""
    return MODELS.get(model, model)


def stage_name(stage: str) -> str:
    """`train_r1_zero` -> `train r1 zero`."""
    return stage.replace("_", " ")


def percent(value: float | None) -> str:
    """0.123 -> `12.3 %`; a dash for None."""
    return "–" if value is None else f"{100 * value:.1f} %"


def text(value: object) -> str:
    """Any value as escaped HTML text."""
    return escape(str(value))
