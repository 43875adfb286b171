"""What the five gates share: settings in, one check, counts to MLflow, Data Docs as an artifact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tasks._main import StageContext

if TYPE_CHECKING:
    from pipeline_lib.quality.gates import GateSettings


def run_check(ctx: StageContext, check: Callable[[GateSettings], dict[str, int]]) -> None:
    """Run one gate. Its Data Docs are logged whether it passes or not. Raises GateFailed."""
    from pipeline_lib.quality import gates

    settings = gates.GateSettings(
        stage=ctx.stage,
        bounds=ctx.section,
        language=ctx.params.run.target_language,
        ngram=ctx.params.prepare_problems.decontamination_ngram,
        root=ctx.root,
    )
    try:
        counts = check(settings)
        ctx.run.log_metrics({f"gate/{name}": float(value) for name, value in counts.items()})
    finally:
        if (ctx.root / gates.docs_path(ctx.stage)).exists():
            ctx.run.log_artifact(gates.docs_path(ctx.stage), "data_docs")


def check_sample_file(ctx: StageContext, path: str) -> None:
    """Run the gate of one file of SFT data. Raises GateFailed."""
    from pipeline_lib.quality import gates

    run_check(ctx, lambda settings: gates.check_samples(settings, Path(path)))
