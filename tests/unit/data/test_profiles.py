"""What the profiles ask of the sources, the sources take: a cluster's first stage is a bad place to learn of a wrong option."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline_lib.data.sources import load_problems, options_of
from pipeline_lib.params import SourceSpec, compose

ROOT = Path(__file__).resolve().parents[3]
SOURCES = {
    f"{file.stem}-{number}-{source['kind']}": SourceSpec.model_validate(source)
    for file in sorted((ROOT / "profiles").glob("*.yaml"))
    for number, source in enumerate(compose(file.stem, root=ROOT)["prepare_problems"]["sources"])
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_takes_its_options(name: str) -> None:
    options_of(SOURCES[name])


@pytest.mark.parametrize("name", [name for name, spec in SOURCES.items() if spec.kind == "reasoning_gym"])
def test_a_task_of_reasoning_gym_has_answers_that_can_be_judged(name: str) -> None:
    spec = SOURCES[name]
    few = spec.model_copy(update={"options": {**spec.options, "n": 20}})
    assert len(load_problems(few, seed=1)) == 20
