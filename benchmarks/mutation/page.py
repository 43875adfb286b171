"""docs/mutation.md: the rows in which survivors are explained, and the table of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from benchmarks.mutation.runner import Fate


def row_of(mutant: Mapping[str, str]) -> str:
    """How the page names a mutant: file and change, not the line's number, which every edit would move."""
    change = f"| {mutant['file']} | {_code(mutant['before'])} | {_code(mutant['after'])} |"
    return change


def explained(page: Path) -> set[str]:
    """The mutants that the page explains: rows of four cells whose last is not empty."""
    rows = set()
    for line in page.read_text(encoding="utf-8").splitlines():
        head, _, reason = line.removesuffix(" |").rpartition(" | ")
        if line.startswith("| pipeline_lib/") and head.count("`") >= 2 and reason.strip():
            rows.add(f"{head} |")
    return rows


def table(fates: Mapping[str, Counter[Fate]]) -> str:
    """Markdown: mutants, killed, timed out, survived for every file and package."""
    lines = [
        "| file | mutants | killed | of these by timeout | survived | killed, % |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    packages: dict[str, Counter[Fate]] = {}
    for file, counts in fates.items():
        packages.setdefault(file.rpartition("/")[0], Counter()).update(counts)
    for name, counts in [*fates.items(), *((f"**{name}**", counts) for name, counts in packages.items())]:
        if total := counts.total():
            killed = total - counts[Fate.SURVIVED]
            cells = (
                name,
                total,
                killed,
                counts[Fate.TIMEOUT],
                counts[Fate.SURVIVED],
                f"{100 * killed / total:.1f}",
            )
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else "(nothing)"
