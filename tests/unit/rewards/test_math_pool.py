"""The math verifier's processes: what they may use, how they end, and what they say when something goes wrong."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import pipeline_lib.rewards._algebra as algebra
import pipeline_lib.rewards.math_pool as math_pool
import pipeline_lib.rewards.math_worker as math_worker
from pipeline_lib.errors import PipelineError
from pipeline_lib.rewards.math_pool import Comparison, MathPool
from pipeline_lib.sandbox import codec

ENDLESS = "9^{9^{9^{9}}}"


@pytest.fixture(scope="module")
def pool() -> Iterator[MathPool]:
    with MathPool(workers=1, seconds=20.0) as running:
        assert running.compare("x+1", "1+x") == Comparison("equal")
        yield running


def _process(pool: MathPool) -> psutil.Process:
    process = pool._workers[0]._process
    assert process is not None
    return psutil.Process(process.pid)


def _wait_until_gone(process: psutil.Process) -> None:
    deadline = time.monotonic() + 30
    while _lives(process):
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.02)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two
        return False


@pytest.mark.parametrize(("workers", "seconds"), [(0, 1.0), (-1, 1.0), (1, 0.0), (1, -1.0)])
def test_numbers_that_make_no_sense_are_refused(workers: int, seconds: float) -> None:
    with pytest.raises(ValueError, match=f"workers = {workers}, seconds = {seconds}"):
        MathPool(workers, seconds)


def test_small_numbers_are_taken_and_nothing_starts_before_it_is_needed() -> None:
    before = {child.pid for child in psutil.Process().children()}
    with MathPool(1, 0.5) as small:
        assert len(small._workers) == 1
        assert {child.pid for child in psutil.Process().children()} == before


def test_one_worker_and_five_seconds_are_what_nobody_asked_to_change() -> None:
    with MathPool() as plain:
        assert (len(plain._workers), plain._seconds) == (1, 5.0)


def test_leaving_lets_every_process_end_by_itself_and_closes_what_led_to_it() -> None:
    threads = set(threading.enumerate())
    with MathPool(1, 20.0) as left:
        assert left.compare_batch([("x", "x")]) == [Comparison("equal")]
        process = left._workers[0]._process
        assert process is not None
        (child,) = _process(left).children()
    assert process.returncode == 0
    assert process.stdout is not None
    assert process.stdout.closed
    _wait_until_gone(child)
    assert set(threading.enumerate()) <= threads


def test_a_process_that_does_not_end_is_killed() -> None:
    stopped = MathPool(1, 20.0)
    stopped.compare("x", "x")
    process = stopped._workers[0]._process
    assert process is not None
    _process(stopped).suspend()
    stopped.close()
    assert process.returncode == -signal.SIGKILL


def test_a_batch_is_a_list_in_order(pool: MathPool) -> None:
    pairs = [("x+1", "1+x"), ("x+1", "x"), ("x+1", "\\frac{"), ("x^{", "x")]
    said = pool.compare_batch(pairs)
    assert said == [
        Comparison("equal"),
        Comparison("different"),
        Comparison("unparsed"),
        Comparison("gold_unparsed"),
    ]


def test_an_answer_too_long_to_be_sent_is_unparsed_and_says_why(pool: MathPool) -> None:
    said = pool.compare("x", "x" * (codec.MAX_FRAME + 1))
    assert said.result == "unparsed"
    assert "frame" in said.detail
    assert pool.compare("x", "\ud800").result == "unparsed"


def test_the_worker_sees_three_variables_of_ours(pool: MathPool) -> None:
    assert _process(pool).environ() == {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
    }
    assert _process(pool).cwd() == "/"


def test_the_worker_is_of_this_checkout_and_what_algebra_prints_goes_nowhere(pool: MathPool) -> None:
    here = str(Path(math_pool.__file__).parents[2])
    assert f"sys.path.insert(0, {here!r})" in _process(pool).cmdline()[-1]
    assert os.readlink(f"/proc/{_process(pool).pid}/fd/1") == "/dev/null"


def test_the_child_that_judges_is_bounded(pool: MathPool) -> None:
    pool.compare("x", "x")
    (child,) = _process(pool).children()
    assert child.rlimit(resource.RLIMIT_AS) == (3 * 2**30, 3 * 2**30)
    assert child.rlimit(resource.RLIMIT_CORE) == (0, 0)


def test_one_child_judges_many_answers_and_an_interrupt_reaches_none(pool: MathPool) -> None:
    pool.compare("x", "x")
    (child,) = _process(pool).children()
    _process(pool).send_signal(signal.SIGINT)
    assert pool.compare("x", "y") == Comparison("different")
    assert _process(pool).children() == [child]


def test_a_comparison_past_its_deadline_says_so_and_only_its_child_is_replaced() -> None:
    with MathPool(1, 1.0) as impatient:
        impatient.compare("x", "x")
        worker = _process(impatient)
        (child,) = worker.children()
        assert impatient.compare("x+1", ENDLESS) == Comparison(
            "timeout", "no result in 1.0 s of processor time"
        )
        _wait_until_gone(child)
        assert impatient.compare("x", "x") == Comparison("equal")
        assert _process(impatient) == worker
        assert worker.children() != [child]
        assert not [c for c in worker.children() if c.status() == psutil.STATUS_ZOMBIE]


def test_what_a_comparison_may_use_is_processor_time_and_it_is_tried_once() -> None:
    """The first answer is in time too: sympy is loaded before a child is forked, and not in each."""
    seconds = 2.0
    with MathPool(1, seconds) as impatient:
        assert impatient.compare("x+1", "1+x") == Comparison("equal")
        worker = _process(impatient)
        files = worker.num_fds()
        for _ in range(2):
            before = _ended_children_seconds(worker)
            assert impatient.compare("x+1", ENDLESS).result == "timeout"
            assert 0.8 * seconds < _ended_children_seconds(worker) - before < seconds + 0.4
            assert impatient.compare("x+1", "1+x") == Comparison("equal")
            assert worker.num_fds() == files


def _ended_children_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.children_user + times.children_system)


def test_a_child_that_gets_no_processor_is_given_up_by_its_worker() -> None:
    with MathPool(1, 0.5) as starved:
        starved.compare("x", "x")
        (child,) = _process(starved).children()
        child.suspend()
        assert starved.compare("x", "x") == Comparison("timeout", "no result in 0.5 s of processor time")
        _wait_until_gone(child)


def test_a_child_that_gets_its_processor_late_is_waited_for() -> None:
    """Time on the wall is not what a comparison may use: a busy machine masks no sample."""
    with MathPool(1, 2.0) as late:
        late.compare("x", "x")
        (child,) = _process(late).children()
        child.suspend()
        timer = threading.Timer(3.0, child.resume)
        timer.start()
        assert late.compare("x+1", "1+x") == Comparison("equal")
        timer.join()


def test_a_worker_that_stands_still_is_given_up_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_pool, "_GRACE_SECONDS", 0.5)
    with MathPool(1, 0.5) as stuck:
        stuck.compare("x", "x")
        worker = _process(stuck)
        worker.suspend()
        began = time.monotonic()
        assert stuck.compare("x", "x") == Comparison("timeout", "the verifier process does not answer")
        assert 0 <= time.monotonic() - began - (math_worker.WALL_FACTOR * 0.5 + 0.5) < 2.0
        _wait_until_gone(worker)
        assert stuck.compare("x", "y").result != "error"
        assert _process(stuck) != worker


def test_a_worker_that_does_not_start_in_time_is_stopped_and_says_where_to_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {child.pid for child in psutil.Process().children()}
    monkeypatch.setattr(math_pool, "_START_SECONDS", 0.0)
    with MathPool() as late, pytest.raises(PipelineError, match="did not start: `python -m"):
        late.compare("x", "x")
    assert {child.pid for child in psutil.Process().children()} == before


def _ask_and_kill(
    pool: MathPool, victims: Callable[[psutil.Process], psutil.Process], times: int
) -> Comparison:
    """Compare something endless, kill a process of the verifier `times` times meanwhile, and return what was said."""
    said: list[Comparison] = []
    thread = threading.Thread(target=lambda: said.append(pool.compare("x+1", ENDLESS)))
    thread.start()
    for _ in range(times):
        victim = _busy(pool, victims)
        victim.kill()
        _wait_until_gone(victim)
    thread.join()
    return said[0]


def _busy(pool: MathPool, victims: Callable[[psutil.Process], psutil.Process]) -> psutil.Process:
    """The victim, once the child has worked on the endless comparison for half a second."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            worker = _process(pool)
            (child,) = worker.children()
            began, _ = sum(child.cpu_times()[:2]), time.sleep(0.5)
            if sum(child.cpu_times()[:2]) - began > 0.1:
                return victims(worker)
        except (AssertionError, ValueError, psutil.NoSuchProcess):
            time.sleep(0.05)
    raise AssertionError("nothing is compared")


def _worker(worker: psutil.Process) -> psutil.Process:
    return worker


def _child(worker: psutil.Process) -> psutil.Process:
    return worker.children()[0]


@pytest.mark.parametrize("victims", [_worker, _child])
def test_a_comparison_whose_process_is_killed_is_made_again(victims) -> None:
    """The second try says what an undisturbed one says, here that time is up; a killed worker's child goes with it."""
    with MathPool(1, 3.0) as doomed:
        doomed.compare("x", "x")
        worker = _process(doomed)
        (child,) = worker.children()
        assert _ask_and_kill(doomed, victims, 1) == Comparison(
            "timeout", "no result in 3.0 s of processor time"
        )
        _wait_until_gone(child)
        assert doomed.compare("x", "x") == Comparison("equal")
        assert (_process(doomed) == worker) is (victims is _child)


@pytest.mark.parametrize("victims", [_worker, _child])
def test_a_comparison_that_loses_two_processes_is_an_error(victims) -> None:
    with MathPool(1, 60.0) as doomed:
        doomed.compare("x", "x")
        assert _ask_and_kill(doomed, victims, 2) == Comparison("error", "the verifier process died")
        assert doomed.compare("x", "x") == Comparison("equal")


@pytest.mark.parametrize("victims", [_worker, _child])
def test_a_process_killed_between_two_comparisons_shows_in_none(victims) -> None:
    with MathPool(1, 20.0) as disturbed:
        disturbed.compare("x", "x")
        worker = _process(disturbed)
        (child,) = worker.children()
        victims(worker).kill()
        _wait_until_gone(child)  # a killed worker's child goes with it, and nobody has the pipe any more
        assert disturbed.compare("x+1", "1+x") == Comparison("equal")
        assert (_process(disturbed) == worker) is (victims is _child)


def test_processor_time_of_a_process_is_that_of_its_clock() -> None:
    deadline = time.process_time() + 0.1
    while time.process_time() < deadline:
        os.getppid()  # half in the kernel, so that a clock of user time alone shows
    assert math_worker._processor_seconds(os.getpid()) == pytest.approx(time.process_time(), abs=0.02)


def test_what_algebra_raises_is_a_short_error() -> None:
    assert math_worker._attempt({}) == {"result": "error", "detail": "KeyError: 'gold'"}
    assert math_worker._attempt({"gold": "1", "answer": "1"}) == {"result": "equal", "detail": ""}


def test_an_error_is_cut_at_300_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(gold: str, answer: str) -> str:
        raise ValueError("x" * 1000)

    monkeypatch.setattr(algebra, "judge", judge)
    said = math_worker._attempt({"gold": "1", "answer": "1"})
    assert said == {"result": "error", "detail": "ValueError: " + "x" * 288}


def test_algebra_that_fails_is_an_error_and_not_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    import math_verify.grader

    def fail(*_arguments: object, **_settings: object) -> bool:
        raise RuntimeError("sympy gave up")

    monkeypatch.setattr(math_verify.grader, "sympy_expr_eq", fail)
    assert math_worker._attempt({"gold": "x", "answer": "y"})["result"] == "error"


def test_the_program_serves_where_it_is_run_and_not_where_it_is_imported() -> None:
    """`python -m` is what the pool's error names."""
    root, module = Path(math_pool.__file__).parents[2], "pipeline_lib.rewards.math_worker"
    for words, said in ((["-m", module], codec.pack({"up": True})), (["-c", f"import {module}"], b"")):
        done = subprocess.run(
            [sys.executable, *words], cwd=root, stdin=subprocess.DEVNULL, capture_output=True, check=True
        )
        assert done.stdout == said
