"""The parts of the page about results: headline, models × suites, R1-Zero against R1, languages, distillation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline_lib.evaluation.report import EvaluationReport, SuiteReport
from pipeline_lib.evaluation.statistics import Estimate
from pipeline_lib.report.load import ReportData
from pipeline_lib.report.names import model_name, percent, text
from pipeline_lib.report.svg import Bar, bar_chart


def headline(data: ReportData) -> str:
    """The run's story in four numbers, as far as its models were evaluated."""
    scores = data.evaluations
    cards = []
    for model, note in (
        ("base", "base model, before"),
        ("r1_zero", "R1-Zero, reinforcement learning alone"),
        ("r1", "R1, four stages"),
    ):
        if model in scores and scores[model].reasoning_score is not None:
            cards.append((percent(scores[model].reasoning_score), f"{note}: pass@1 on held-out reasoning"))
    students = [(scores[s].reasoning_score or 0.0, s) for s in data.students if s in scores]
    teacher = scores[data.teacher].reasoning_score if data.teacher in scores else None
    if students and teacher:
        score, name = max(students)
        cards.append((percent(score / teacher), f"of its teacher's score: the best student, {text(name)}"))
    return '<div class="cards">' + "".join(
        f'<div class="card"><b>{value}</b><span>{note}</span></div>' for value, note in cards
    ) + "</div>"  # fmt: skip


def results(data: ReportData) -> str:
    """Models × suites with intervals; a tab for each measure."""
    suites: dict[str, SuiteReport] = {}
    for report in data.evaluations.values():
        suites.update(report.suites)
    panes: list[tuple[str, str, Callable[[SuiteReport], Estimate | None]]] = [
        ("pass1", "pass@1", lambda suite: suite.pass_at_1),
        ("passk", "pass@k", lambda suite: suite.pass_at_k),
        ("consk", "cons@k", lambda suite: suite.cons_at_k),
    ]
    buttons = "".join(f'<button data-show="{key}">{name}</button>' for key, name, _ in panes)
    tables = "".join(
        f'<div data-pane="{key}"{"" if key == "pass1" else " hidden"} class="scroll">{_table(data, suites, pick)}</div>'
        for key, _, pick in panes
    )
    asked = " · ".join(
        f"{text(s.title)} v{s.version}: {s.problems} problems × {s.samples} samples, T {s.temperature:g}"
        for s in suites.values()
    )
    return (
        f'<div data-tabs><div class="tabs">{buttons}</div>{tables}</div>'
        f'<p class="note">{asked}. Small: 95 % bootstrap interval over problems. The best of a column is marked.</p>'
        f"{_published(data, suites)}"
    )


def _table(
    data: ReportData, suites: dict[str, SuiteReport], pick: Callable[[SuiteReport], Estimate | None]
) -> str:
    best = {
        name: max(
            (e.mean for r in data.evaluations.values() if name in r.suites and (e := pick(r.suites[name]))),
            default=None,
        )
        for name in suites
    }
    head = "".join(f"<th>{text(suite.title)}</th>" for suite in suites.values())
    rows = []
    for model, report in data.evaluations.items():
        cells = [f"<td>{text(model_name(model))}</td>"]
        for name in suites:
            value = pick(report.suites[name]) if name in report.suites else None
            if value is None:
                cells.append("<td>–</td>")
                continue
            kind = ' class="best"' if value.mean == best[name] and value.mean > 0 else ""
            interval = f"{100 * value.low:.0f}–{100 * value.high:.0f}"
            cells.append(f"<td{kind}><b>{100 * value.mean:.1f}</b> <small>{interval}</small></td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr><th>model</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _published(data: ReportData, suites: dict[str, SuiteReport]) -> str:
    """What the paper reports for the suites of this run, where it does."""
    from pipeline_lib.evaluation.suites import load_suite

    lines = []
    for name, suite in suites.items():
        published = load_suite(name).published
        if published:
            scores = ", ".join(f"{text(model)} {percent(score)}" for model, score in published.items())
            lines.append(f"<li>{text(suite.title)}: {scores}</li>")
    return f'<p class="note">Published (DeepSeek-AI 2025):</p><ul>{"".join(lines)}</ul>' if lines else ""


def zero_against_r1(data: ReportData) -> str:
    """The lesson's table (ch.5): accuracy, formatting, general tasks."""
    measures: Sequence[tuple[str, Callable[[EvaluationReport], str]]] = (
        ("reasoning pass@1", lambda r: percent(r.reasoning_score)),
        ("well-formed responses", lambda r: percent(r.reasoning_mean("format_rate"))),
        ("mixed languages", lambda r: percent(r.reasoning_mean("mixing_share"))),
        ("target-language words", lambda r: percent(r.reasoning_mean("language_share"))),
        ("general score", lambda r: percent(r.general_score)),
        ("responses that verify", lambda r: percent(r.reasoning_mean("verification_share"))),
        ("mean length, tokens", lambda r: f"{r.reasoning_mean('mean_tokens') or 0:.1f}"),
    )
    models = [m for m in ("base", "r1_zero", "r1") if m in data.evaluations]
    head = "".join(f"<th>{text(model_name(m))}</th>" for m in models)
    rows = "".join(
        f"<tr><td>{name}</td>" + "".join(f"<td>{show(data.evaluations[m])}</td>" for m in models) + "</tr>"
        for name, show in measures
    )
    return f'<div class="panel scroll"><table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def languages(data: ReportData) -> str:
    """Share of responses whose thought mixes languages, a bar a model."""
    bars = [
        Bar(
            model_name(model),
            report.reasoning_mean("mixing_share") or 0.0,
            slot=2 if model == "r1_zero" else 1,
        )
        for model, report in data.evaluations.items()
    ]
    return f'<div class="panel">{bar_chart(bars, label="Share of responses that mix languages")}</div>'


def distillation(data: ReportData) -> str:
    """Teacher, students, and the same student by RL alone, on the reasoning suites (lesson ch.4, v2 §4)."""
    models = [m for m in (data.teacher, *data.students, "student_rl") if m in data.evaluations]
    slots = {data.teacher: 1, "student_rl": 2}
    panels = []
    suites = {
        name: s for m in models for name, s in data.evaluations[m].suites.items() if s.kind == "reasoning"
    }
    for name, suite in suites.items():
        bars = []
        for model in models:
            if name not in data.evaluations[model].suites:
                continue
            score = data.evaluations[model].suites[name].pass_at_1
            label = f"{model_name(model)} (teacher)" if model == data.teacher else model_name(model)
            bars.append(Bar(label, score.mean, score.low, score.high, slots.get(model, 3)))
        panels.append(
            f'<div class="panel"><h3>{text(suite.title)}</h3>{bar_chart(bars, label=suite.title)}</div>'
        )
    note = f"Student · RL alone starts where {text(data.student_rl)} starts and is trained by reinforcement learning, without a teacher."
    return f'<div class="row">{"".join(panels)}</div><p class="note">{note}</p>'
