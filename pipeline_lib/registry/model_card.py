"""The model card: Markdown, generated from the lineage, the evaluation and the promotion decision. Deterministic."""

from __future__ import annotations

from pipeline_lib.evaluation.report import EvaluationReport
from pipeline_lib.evaluation.statistics import Estimate
from pipeline_lib.registry.lineage import Lineage
from pipeline_lib.registry.promotion import Decision

WHAT = {
    "prepare_base_model": "The base model the run starts from.",
    "train_r1_zero": "R1-Zero: reinforcement learning from the base with automatic rewards alone, no supervised step.",
    "train_cold_start_sft": "Stage 1: the base fine-tuned on a small set of readable chains of thought.",
    "train_reasoning_rl": "Stage 2: reinforcement learning on reasoning, with the language-consistency reward.",
    "train_general_sft": "Stage 3: the base fine-tuned again, on rejection samples and general data.",
    "train_all_task_rl": "Stage 4, R1: reinforcement learning on all tasks with rule and learned rewards.",
    "distill": "A small student fine-tuned on the teacher's samples; no reinforcement learning.",
    "train_student_rl": "A small student trained by reinforcement learning alone, to compare distillation with.",
}
"""One line about the model each stage makes."""


def model_card(
    lineage: Lineage, report: EvaluationReport, decision: Decision | None, *, git_commit: str, against: str
) -> str:
    """Return the card.

    Args:
        lineage: Where the model came from.
        report: Its evaluation.
        decision: What the promotion rule said; None for the baseline itself.
        git_commit: Commit of the code.
        against: The model the decision compares with.
    """
    lines = [
        f"# {lineage.model}",
        "",
        WHAT.get(lineage.stage, f"Written by the stage `{lineage.stage}`."),
        "",
        "## Results",
        "",
        "| suite | pass@1 | pass@k | cons@k | format | mixed languages | verifies | tokens |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for suite in report.suites.values():
        lines.append(
            f"| {suite.title} (v{suite.version}, {suite.problems} × {suite.samples}) | {_rate(suite.pass_at_1)} "
            f"| {_rate(suite.pass_at_k)} | {_rate(suite.cons_at_k)} | {_percent(suite.format_rate)} "
            f"| {_percent(suite.mixing_share)} | {_percent(suite.verification_share)} | {suite.mean_tokens:.0f} |"
        )
    lines += [
        "",
        "95 % bootstrap intervals over problems, held out from all training.",
        "",
        "## Promotion",
        "",
    ]
    if decision is None:
        lines.append("The baseline; other models are compared with it.")
    else:
        verdict = "promoted" if decision.promote else "not promoted"
        lines += [f"Against {against}: {verdict}.", "", *(f"- {reason}" for reason in decision.reasons)]
    lines += [
        "",
        "## Where it comes from",
        "",
        f"- content: `{lineage.content_hash}` (DVC, `models/{lineage.model}`)",
    ]
    lines.append(f"- made by `{lineage.address}` at commit `{git_commit or 'unknown'}`")
    if lineage.parent:
        lines.append(f"- started from `{lineage.parent}`")
    if lineage.teacher:
        lines.append(f"- taught by samples of `{lineage.teacher}`")
    lines += [
        f"- read `{path}` `{digest}`"
        for path, digest in sorted(lineage.deps.items())
        if not path.endswith(".py")
    ]
    lines += [
        "",
        "## Limits",
        "",
        "Scores hold for the suites above and their kind of question. Verification is counted by words, which misses "
        "paraphrase. Rewards were outcomes only: no step of the reasoning was checked.",
        "",
    ]
    return "\n".join(lines)


def _rate(value: Estimate | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value.mean:.1f} % [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
