"""Pretrain the micro world's base model and student initialisations into assets/micro (frozen: trained once, shipped)."""

from __future__ import annotations

from tasks._main import StageContext, run_stage


def pretrain_micro_base(ctx: StageContext) -> None:
    """One model directory per architecture, fp16 safetensors with the tokenizer."""
    from pipeline_lib.training.pretrain import ARCHITECTURES, PretrainConfig, pretrain, save

    settings = ctx.section.model_dump()
    for model in ARCHITECTURES:
        config = PretrainConfig(model=model, **settings)
        save(*pretrain(config), ctx.root / "assets" / "micro" / model)


if __name__ == "__main__":
    run_stage("pretrain_micro_base", pretrain_micro_base)
