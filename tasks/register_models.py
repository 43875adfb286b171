"""Register the run's models by reference, with their lineage and a model card; promote by mlflow/registry_policy.yaml."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks._main import StageContext, run_stage

if TYPE_CHECKING:
    from pipeline_lib.registry.versions import Entry


def register_models(ctx: StageContext) -> None:
    """Register every evaluated model; write reports/registered.json, which holds nothing a registry decides."""
    from pipeline_lib.errors import ConfigError
    from pipeline_lib.evaluation.report import read_report
    from pipeline_lib.registry.lineage import model_lineage
    from pipeline_lib.registry.promotion import read_policy
    from pipeline_lib.registry.versions import prepare, register
    from pipeline_lib.storage.atomic import write_json

    section = ctx.section
    policy = read_policy(ctx.root / section.policy)
    models = ctx.params.evaluate.models
    reports = {model: read_report(ctx.root / f"reports/evaluation/{model}.json") for model in models}
    if policy.baseline not in reports:
        raise ConfigError(
            "evaluate.models", models, f"must hold {policy.baseline!r}, the registry policy's baseline"
        )
    entries = prepare(
        [model_lineage(model, ctx.root) for model in models], reports, policy, margin=section.margin
    )
    registered = register(entries, policy, ctx.root, prefix=section.prefix, margin=section.margin)
    cards = ctx.root / ".run" / "model_cards"
    cards.mkdir(parents=True, exist_ok=True)
    for entry, result in zip(entries, registered, strict=True):
        card = cards / f"{entry.lineage.model}.md"
        card.write_text(result.card, encoding="utf-8")
        ctx.run.log_artifact(card, "model_cards")
        promoted = result.decision is not None and result.decision.promote
        print(f"{result.name} version {result.version}: {'champion' if promoted else 'candidate'}")
    ctx.run.log_table(
        "registered",
        ["name", "version", "against", "promoted", "why"],
        [
            [
                r.name,
                r.version,
                r.against,
                bool(r.decision and r.decision.promote),
                "; ".join(r.decision.reasons if r.decision else ()),
            ]
            for r in registered
        ],
    )
    write_json(
        ctx.root / "reports" / "registered.json",
        {"models": {entry.lineage.model: _plain(entry, section.prefix) for entry in entries}},
    )


def _plain(entry: Entry, prefix: str) -> dict[str, Any]:
    """What every clone agrees on: content, origin, and the rule's verdict against the run's own baseline."""
    lineage, decision = entry.lineage, entry.against_baseline
    return {
        "name": f"{prefix}-{lineage.model}",
        "content_hash": lineage.content_hash,
        "stage": lineage.address,
        "parent": lineage.parent,
        "teacher": lineage.teacher,
        "beats_baseline": decision.promote if decision else None,
        "reasons": list(decision.reasons) if decision else [],
    }


if __name__ == "__main__":
    run_stage("register_models", register_models, inputs=["reports/evaluation"])
