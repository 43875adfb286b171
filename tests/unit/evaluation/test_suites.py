"""Every shipped suite parses, and a bad one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline_lib.data.layouts import layouts
from pipeline_lib.data.sources import kinds, load_problems
from pipeline_lib.errors import ConfigError, DataError
from pipeline_lib.evaluation.evaluate import choose_problems
from pipeline_lib.evaluation.suites import load_suite, suite_names, suite_sources
from pipeline_lib.types import Domain, Problem

REQUIRED = {
    *("micro_math", "micro_code", "micro_general", "svamp", "gsm8k", "humaneval", "aime_2024", "math_500"),
    *("gpqa_diamond", "mmlu", "livecodebench", "codeforces"),
}
SHARED_DATA = Path("/work/shared/data")


def test_every_suite_of_the_issue_is_there() -> None:
    assert set(suite_names()) >= REQUIRED


@pytest.mark.parametrize("name", suite_names())
def test_a_suite_parses_and_its_sources_exist(name: str) -> None:
    suite = load_suite(name)
    for choice, spec in suite.sources.items():
        assert spec.kind in kinds()
        assert suite.source(choice) == spec
        if spec.kind != "microworld":
            assert spec.options["layout"] in layouts()
    if len(suite.sources) > 1:
        assert list(suite.sources) == ["path", "s3", "hub"]


def test_sampling_of_the_paper() -> None:
    """v2 D.1: k = 64 (AIME, GPQA), 16 (MATH-500, Codeforces), 8 (LiveCodeBench), T 0.6, top-p 0.95, 32,768 tokens."""
    k = {"aime_2024": 64, "gpqa_diamond": 64, "math_500": 16, "codeforces": 16, "livecodebench": 8}
    for name, samples in k.items():
        sampling = load_suite(name).resolve()
        assert (sampling.n, sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (
            samples,
            0.6,
            0.95,
            32768,
        )
    assert load_suite("aime_2024").resolve(samples=2, temperature=1.0).n == 2


def test_an_unknown_suite_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.suites = 'aime': unknown suite; known: aime_2024"):
        load_suite("aime")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nversion: 0\n", "version"),
        ("name: y\nversion: 1\ntitle: t\nkind: reasoning\ndescription: d\nsources: {a: {kind: hub}}\n"
         "sampling: {samples: 1}\nconsensus: true\n", "must be the file's name"),
    ],
)  # fmt: skip
def test_a_bad_suite_names_the_field(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_suite("x", tmp_path)


def test_sources_by_choice() -> None:
    sources = suite_sources(["micro_math", "gsm8k"], "hub")
    assert (sources["micro_math"].kind, sources["gsm8k"].kind) == ("microworld", "hub")
    with pytest.raises(ConfigError, match="has no such source"):
        suite_sources(["gsm8k"], "ftp")


def test_the_questions_do_not_depend_on_the_run_and_need_a_key() -> None:
    suite = load_suite("micro_general")
    problems = [Problem(f"p{i}", Domain.GENERAL, "hi", answer="x" if i % 2 else None) for i in range(20)]
    chosen = choose_problems(problems, suite, 5)
    assert chosen == choose_problems(problems, suite, 5)
    assert len(chosen) == 5
    assert all(problem.answer for problem in chosen)
    assert len(choose_problems(problems, suite, None)) == 10
    with pytest.raises(DataError, match="none of its 1 problems"):
        choose_problems([Problem("p", Domain.GENERAL, "hi")], suite, None)


@pytest.mark.parametrize(("name", "count"), [("svamp", 300), ("gsm8k", 1319), ("humaneval", 164)])
def test_published_files_are_read_whole(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the published files")
    monkeypatch.setenv("R1_DATA_DIR", str(SHARED_DATA))
    assert len(load_problems(load_suite(name).source("path"), seed=0)) == count
