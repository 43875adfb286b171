"""The journal of a sampling stage: what is on the disk is not sampled again, and a restart changes nothing."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from pathlib import Path

import pytest

from pipeline_lib.data import microworld
from pipeline_lib.data.microworld.vocabulary import build_tokenizer
from pipeline_lib.rejection_sampling import batch_count, sample_missing, sampling_key
from pipeline_lib.rewards.combine import Scorer
from pipeline_lib.rollout.torch_generator import TorchGenerator
from pipeline_lib.sample_journal import FILE, Judged, open_journal
from pipeline_lib.types import Domain, Outcome, Problem, SamplingParams
from tests.unit.training.tiny import tiny_model

PROBLEMS = [Problem(f"p{n}", Domain.MATH, f"what is {n}", answer=str(n)) for n in range(4)]


def _rows(*numbers: int, text: str = "<answer>1</answer>") -> list[Judged]:
    return [Judged(PROBLEMS[n], text, n % 2 == 0, Outcome.WRONG) for n in numbers]


class _Stop(Exception):
    """Leaves the journal as an error of the stage does."""


def _write(folder: Path, *batches: list[Judged]) -> None:
    with contextlib.suppress(_Stop), open_journal(folder, "test") as journal:
        for rows in batches:
            journal.append(rows)
        raise _Stop


def test_what_was_written_is_read_and_removed_after_success(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints/x"
    first, second = _rows(0, 1), _rows(2, 3, text='中\n"\ud800')
    _write(folder, first, second)
    with open_journal(folder, "test") as journal:
        assert journal.batches == 2
        assert list(journal.read(PROBLEMS)) == first + second
    assert not folder.exists()


@pytest.mark.parametrize(
    "tail", [b"[1,[[", b'[1,[["p2","x",true,"wrong"]]]', b"\0" * 40, b"[1,\0\0\n", b"[7,[]]\n"]
)
def test_a_torn_end_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    _write(tmp_path, _rows(0, 1))
    with (tmp_path / FILE).open("ab") as file:
        file.write(tail)
    _write(tmp_path, _rows(2))
    with open_journal(tmp_path, "test") as journal:
        assert list(journal.read(PROBLEMS)) == _rows(0, 1, 2)


def test_another_process_is_waited_for_and_its_journal_is_not_used_after_it_was_removed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "x"
    started = multiprocessing.get_context("fork").Event()

    def hold() -> None:
        with open_journal(folder, "first") as journal:
            journal.append(_rows(0))
            started.set()
            time.sleep(0.5)

    other = multiprocessing.get_context("fork").Process(target=hold)
    other.start()
    assert started.wait(20)
    with open_journal(folder, "second") as journal:
        other.join(20)
        assert other.exitcode == 0
        assert journal.batches == 0
        journal.append(_rows(1))
        assert (folder / FILE).stat().st_size > 0
    assert "second: another process is sampling" in capfd.readouterr().err


class _Counting:
    """A generator that notes what it is asked, and dies like a killed process after so many calls."""

    def __init__(self, inner: TorchGenerator, calls: int) -> None:
        self.inner, self.left, self.asked = inner, calls, list[str]()

    def generate(self, prompts, problem_ids, *rest, **named):  # type: ignore[no-untyped-def]
        if self.left == 0:
            raise _Stop
        self.left -= 1
        self.asked += problem_ids
        return self.inner.generate(prompts, problem_ids, *rest, **named)


def test_a_restart_samples_only_what_is_missing_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("pipeline_lib.rejection_sampling.ROWS_AT_ONCE", 12)
    problems = microworld.problems("math", 20, 1)
    sampling = SamplingParams(n=3, max_new_tokens=8)
    tokenizer = build_tokenizer()
    asked: list[str] = []

    def run(folder: Path, calls: int) -> bytes:
        generator = _Counting(TorchGenerator(tiny_model(), tokenizer), calls)
        with contextlib.suppress(_Stop), open_journal(folder, "test") as journal:
            try:
                sample_missing(
                    journal, generator, tokenizer, scorer, problems, sampling, seed=5, title="test"
                )
            finally:
                asked.extend(generator.asked)
            raise _Stop
        return (folder / FILE).read_bytes()

    with Scorer() as scorer:
        whole = run(tmp_path / "whole", 99)
        assert batch_count(20, 3) == 5
        assert asked == [problem.id for problem in problems]
        asked.clear()
        assert run(tmp_path / "killed", 2) == b"".join(whole.splitlines(keepends=True)[:2])
        assert run(tmp_path / "killed", 99) == whole
    assert asked == [problem.id for problem in problems]


def test_the_key_follows_everything_that_decides_a_sample() -> None:
    sampling = SamplingParams(2, 8)
    keys = {
        sampling_key(PROBLEMS, sampling, 1, "model"),
        sampling_key(PROBLEMS[:3], sampling, 1, "model"),
        sampling_key(PROBLEMS[::-1], sampling, 1, "model"),
        sampling_key(PROBLEMS, SamplingParams(2, 9), 1, "model"),
        sampling_key(PROBLEMS, sampling, 2, "model"),
        sampling_key(PROBLEMS, sampling, 1, "other"),
    }
    assert len(keys) == 6
    assert sampling_key(PROBLEMS, sampling, 1, "model") in keys
