"""The parts of the page about training: progression, behaviours, one real group, samples before and after."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pipeline_lib.report.load import ReportData, Rollout
from pipeline_lib.report.names import model_name, stage_name, text
from pipeline_lib.report.svg import Series, advantage_chart, line_chart

ZERO = "train_r1_zero"


def progression(data: ReportData) -> str:
    """R1-Zero over its steps: accuracy, length, verification (lesson ch.1); the later RL stages beside it."""
    stages = [
        s for s in (ZERO, "train_reasoning_rl", "train_all_task_rl", "train_student_rl") if s in data.curves
    ]
    buttons = "".join(f'<button data-show="{s}">{text(stage_name(s))}</button>' for s in stages)
    panes = []
    for stage in stages:
        curve = data.curves[stage]
        charts = (
            (
                "Accuracy",
                line_chart([Series("accuracy", curve.points("accuracy"), 1)], percent=True, label="accuracy"),
            ),
            (
                "Response length, tokens",
                line_chart([Series("length", curve.points("length"), 3)], label="length"),
            ),
            (
                "Responses that verify",
                line_chart(
                    [Series("verification", curve.points("verification_share"), 2)],
                    percent=True,
                    label="verification",
                ),
            ),
        )
        panels = "".join(f'<div class="panel"><h3>{name}</h3>{chart}</div>' for name, chart in charts)
        hidden = "" if stage == stages[0] else " hidden"
        panes.append(f'<div data-pane="{stage}"{hidden} class="row">{panels}</div>')
    return f'<div data-tabs><div class="tabs">{buttons}</div>{"".join(panes)}</div>'


def behaviours(data: ReportData) -> str:
    """When behaviours appear during R1-Zero's training (lesson ch.3), and what the groups look like meanwhile."""
    curve = data.curves.get(ZERO)
    if curve is None:
        return '<p class="empty">R1-Zero was not trained in this run.</p>'
    words = [
        Series("verification", curve.points("verification_share"), 2),
        Series("reflection", curve.points("reflection_share"), 4),
        Series("backtracking", curve.points("backtracking_share"), 5),
    ]
    form = [
        Series("well-formed", curve.points("format_rate"), 1),
        Series("mixed languages", curve.points("language_mixing"), 2),
        Series("cut by the length limit", curve.points("truncated_share"), 5),
    ]
    groups = [
        Series("no correct answer", curve.points("all_wrong_share"), 2),
    ]
    entropy = [Series("entropy", curve.points("entropy"), 3)]
    charts = (
        ("Words of verification, reflection, backtracking", line_chart(words, percent=True)),
        ("Form", line_chart(form, percent=True)),
        ("Groups without a correct answer", line_chart(groups, percent=True)),
        ("Entropy per token, nats", line_chart(entropy)),
    )
    panels = "".join(f'<div class="panel"><h3>{name}</h3>{chart}</div>' for name, chart in charts)
    return f'<div class="row two">{panels}</div>'


def one_group(data: ReportData) -> str:
    """Rewards and advantages of whole groups that R1-Zero really sampled: z-scores within the group (lesson ch.2)."""
    groups = whole_groups(data.rollouts.get(ZERO, ()))
    if not groups:
        return '<p class="empty">The sample table holds no whole group with different rewards.</p>'
    shown = [groups[round(i * (len(groups) - 1) / 3)] for i in range(4)] if len(groups) > 4 else groups
    buttons = "".join(f'<button data-show="g{g[0].step}">step {g[0].step}</button>' for g in shown)
    panes = []
    for number, group in enumerate(shown):
        rewards = [row.reward for row in group]
        chart = advantage_chart(rewards, advantages(rewards), [row.outcome == "correct" for row in group])
        right = sum(row.outcome == "correct" for row in group)
        hidden = " hidden" if number else ""
        panes.append(
            f'<div data-pane="g{group[0].step}"{hidden}><p class="note">{right} of {len(group)} correct. '
            f"<code>{text(group[0].prompt)}</code></p>{chart}</div>"
        )
    return f'<div class="panel" data-tabs><div class="tabs">{buttons}</div>{"".join(panes)}</div>'


def whole_groups(rows: Sequence[Rollout]) -> list[list[Rollout]]:
    """The groups of the sample table that were kept whole and whose rewards differ, by step."""
    groups: dict[tuple[int, str], list[Rollout]] = defaultdict(list)
    for row in rows:
        groups[row.step, row.problem_id].append(row)
    return [group for _, group in sorted(groups.items()) if len({row.reward for row in group}) > 1]


def advantages(rewards: Sequence[float]) -> list[float]:
    """A_i = (r_i - mean) / std with G - 1, as pipeline_lib.algorithms.advantages.zscore; without torch."""
    mean = sum(rewards) / len(rewards)
    std = (sum((r - mean) ** 2 for r in rewards) / max(len(rewards) - 1, 1)) ** 0.5
    return [(r - mean) / (std + 1e-8) for r in rewards]


def samples(data: ReportData) -> str:
    """What a model wrote early and late in its training, a tab a stage."""
    stages = [stage for stage, rows in data.rollouts.items() if rows]
    stages.sort(key=lambda stage: stage != ZERO)
    buttons = "".join(f'<button data-show="s-{s}">{text(stage_name(s))}</button>' for s in stages)
    panes = []
    for number, stage in enumerate(stages):
        rows = data.rollouts[stage]
        first, last = min(row.step for row in rows), max(row.step for row in rows)
        early, late = (_one_each([r for r in rows if r.step == step]) for step in (first, last))
        pairs = "".join(
            f'<div class="pair"><div>{_sample(a)}</div><div>{_sample(b)}</div></div>'
            for a, b in list(zip(early, late, strict=False))[: data.sample_rows]
        )
        hidden = " hidden" if number else ""
        panes.append(
            f'<div data-pane="s-{stage}"{hidden}><div class="pair note"><div>step {first}</div>'
            f"<div>step {last}</div></div>{pairs}</div>"
        )
    if not panes:
        return '<p class="empty">No sample tables were written.</p>'
    return f'<div class="panel" data-tabs><div class="tabs">{buttons}</div>{"".join(panes)}</div>'


def _one_each(rows: Sequence[Rollout]) -> list[Rollout]:
    """The first sample of every problem."""
    return list({row.problem_id: row for row in reversed(rows)}.values())[::-1]


def _sample(row: Rollout) -> str:
    kind = "ok" if row.outcome == "correct" else "no"
    return (
        f'<div class="sample"><div class="q">{text(row.prompt)}</div><span class="chip {kind}">{text(row.outcome)}</span> '
        f'<span class="chip">{row.tokens} tokens</span> <span class="chip">reward {row.reward:.2f}</span>'
        f"<pre>{text(row.response)}</pre></div>"
    )


def loss_stages(data: ReportData) -> list[str]:
    """Names of the supervised stages with a learning curve."""
    return [
        name for name, curve in data.curves.items() if curve.points("loss") and not curve.points("reward")
    ]


def supervised(data: ReportData) -> str:
    """Loss of the supervised stages."""
    names = loss_stages(data)
    if not names:
        return '<p class="empty">No supervised stage was run.</p>'
    panels = "".join(
        f'<div class="panel"><h3>{text(model_name(name.removeprefix("distill-")) if name.startswith("distill-") else stage_name(name))}</h3>'
        f"{line_chart([Series('loss', data.curves[name].points('loss'), 1)], label=name)}</div>"
        for name in names
    )
    return f'<div class="row">{panels}</div>'
