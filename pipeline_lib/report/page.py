"""Put the parts together: one self-contained HTML page, the same bytes for the same run."""

from __future__ import annotations

from collections.abc import Callable

from pipeline_lib.report import pipeline, sections, training
from pipeline_lib.report.load import ReportData
from pipeline_lib.report.names import text
from pipeline_lib.report.theme import SCRIPT, STYLE

Part = Callable[[ReportData], str]
PARTS: tuple[tuple[str, str, str, Part], ...] = (
    ("results", "Results", "Every model of the run on the same held-out questions.", sections.results),
    ("progression", "How reasoning appears", "Reinforcement learning, step by step: no one showed the model how to reason.", training.progression),
    ("behaviours", "Behaviours over R1-Zero's training", "Counted by words in the chain of thought.", training.behaviours),
    ("group", "GRPO: the group is the baseline", "A real group of answers to one problem: rewards above, advantages (r − mean) / std below. Green: correct, or reinforced.", training.one_group),
    ("zero", "R1-Zero and R1", "What the four stages add to reinforcement learning alone.", sections.zero_against_r1),
    ("languages", "Language mixing", "Share of responses whose chain of thought mixes languages.", sections.languages),
    ("distillation", "Distillation", "Small students taught by the big model's samples.", sections.distillation),
    ("samples", "Samples, before and after", "Responses at the first and the last kept step of a stage.", training.samples),
    ("pipeline", "The pipeline", "Click a stage.", pipeline.visualiser),
    ("supervised", "Supervised stages", "Loss on the response tokens.", training.supervised),
    ("lineage", "Lineage", "What this page was computed from: `dvc checkout` brings these bytes back.", pipeline.lineage),
)  # fmt: skip
"""Anchor, title, one line, and the function that writes the part."""


def render(data: ReportData) -> str:
    """Return the page as HTML."""
    links = "".join(f'<a href="#{anchor}">{text(title)}</a>' for anchor, title, _, _ in PARTS)
    body = "".join(
        f'<section id="{anchor}"><h2>{text(title)}</h2><p class="note">{text(line)}</p>{write(data)}</section>'
        for anchor, title, line, write in PARTS
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<title>{text(data.title)}</title><link rel="icon" href="data:,"><style>{STYLE}</style></head><body><main>'
        f'<header><button id="theme">light / dark</button><h1>{text(data.title)}</h1>'
        f"<p>profile {text(data.profile)}, seed {data.seed}</p></header><nav>{links}</nav>"
        f"{sections.headline(data)}{body}</main><script>{SCRIPT}</script></body></html>\n"
    )
