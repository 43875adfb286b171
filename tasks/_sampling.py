"""What the four sampling stages share: sample a model into a journal, judge, go on where a killed run stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks._main import StageContext

if TYPE_CHECKING:
    from pipeline_lib.params.data import SamplingSection
    from pipeline_lib.sample_journal import Judged, SampleJournal
    from pipeline_lib.types import Problem, SamplingParams


@contextmanager
def sampled(
    ctx: StageContext, model: str, problems: Sequence[Problem], section: SamplingSection
) -> Iterator[Iterator[Judged]]:
    """Sample models/<model> on `problems` under the stage's seed; gives every response, read from the disk.

    The stage writes its outputs inside: the journal is removed afterwards, and kept when something fails.
    """
    from pipeline_lib.rejection_sampling import batch_count
    from pipeline_lib.sample_journal import open_journal
    from pipeline_lib.types import SamplingParams

    sampling = SamplingParams(section.samples, section.max_new_tokens, section.temperature)
    folder = ctx.root / "checkpoints" / f"{ctx.stage}-{_content_key(ctx, model, problems, sampling)}"
    with open_journal(folder, ctx.stage) as journal:
        if journal.batches < batch_count(len(problems), sampling.n):
            _sample(ctx, ctx.root / "models" / model, problems, sampling, journal)
        yield journal.read(problems)


def _sample(
    ctx: StageContext,
    model: Path,
    problems: Sequence[Problem],
    sampling: SamplingParams,
    journal: SampleJournal,
) -> None:
    from pipeline_lib.modeling import load_tokenizer
    from pipeline_lib.rejection_sampling import sample_missing
    from pipeline_lib.rewards.combine import Scorer
    from pipeline_lib.rollout import open_generator

    generator = open_generator(model, ctx.params.engine)
    try:
        with Scorer() as scorer:
            tokenizer, seed = load_tokenizer(model), _seed(ctx)
            sample_missing(
                journal, generator, tokenizer, scorer, problems, sampling, seed=seed, title=ctx.stage
            )
    finally:
        generator.close()


def _seed(ctx: StageContext) -> int:
    from pipeline_lib.seeds import derive_seed

    return derive_seed(ctx.params.run.seed, ctx.stage)


def _content_key(ctx: StageContext, model: str, problems: Sequence[Problem], sampling: SamplingParams) -> str:
    """Names what is sampled: the model, the problems, how, and the code. Another key's journal is never gone on with."""
    from pipeline_lib.rejection_sampling import CODE, sampling_key
    from pipeline_lib.storage.hash import hash_code, hash_path

    engine = ctx.params.engine.model_dump(mode="json", exclude={"launcher", "slurm", "kubernetes"})
    return sampling_key(
        problems, sampling, _seed(ctx), engine, hash_path(ctx.root / "models" / model), hash_code(CODE)
    )
