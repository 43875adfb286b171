"""What the three sampling stages share: open the model, sample, judge, write samples and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks._main import StageContext

if TYPE_CHECKING:
    from pipeline_lib.params.data import SamplingSection
    from pipeline_lib.rejection_sampling import Judged
    from pipeline_lib.types import Problem


def sample_model(
    ctx: StageContext, model: str, problems: Sequence[Problem], section: SamplingSection
) -> list[Judged]:
    """Sample models/<model> on `problems` under the stage's seed."""
    from pipeline_lib.modeling import load_tokenizer
    from pipeline_lib.rejection_sampling import sample_and_judge
    from pipeline_lib.rewards.combine import Scorer
    from pipeline_lib.rollout import open_generator
    from pipeline_lib.seeds import derive_seed
    from pipeline_lib.types import SamplingParams

    sampling = SamplingParams(section.samples, section.max_new_tokens, section.temperature)
    generator = open_generator(ctx.root / "models" / model, ctx.params.engine)
    try:
        with Scorer() as scorer:
            tokenizer = load_tokenizer(ctx.root / "models" / model)
            seed = derive_seed(ctx.params.run.seed, ctx.stage)
            return list(
                sample_and_judge(generator, tokenizer, scorer, problems, sampling, seed=seed, title=ctx.stage)
            )
    finally:
        generator.close()
