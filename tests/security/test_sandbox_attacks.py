"""The sandbox under attack: every program of `attacks` is contained, its verdict honest, the host unchanged.

Runs as whoever runs the tests; `test_as_ordinary_user` runs the same attacks again without privileges when that is root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline_lib.sandbox.client import Sandbox
from pipeline_lib.sandbox.limits import Limits
from pipeline_lib.types import Outcome
from tests.security import attacks
from tests.security.host_state import look, orphans_come_here

REPOSITORY = Path(__file__).resolve().parents[2]
LIMITS = Limits(cpu_seconds=1, wall_seconds=2.5)
SPLIT = f"assert f() == {attacks.ANSWER}"
JUDGED = f"def check(candidate):\n    for _ in range(2):\n        assert candidate() == {attacks.ANSWER}\n"
CONTAINED = "count: attacks contained"
IN_JUDGE = "seen = f()\nassert seen == 'contained', seen"


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("host") / "canary"
    path.write_text("alive")
    path.chmod(0o666)
    return path


@pytest.fixture(scope="module", autouse=True)
def host_unchanged(canary: Path) -> Iterator[None]:
    """Files, mounts, settings, clock, IPC objects and processes, from before the fork server starts until it is closed."""
    with orphans_come_here():
        before = look()
        yield
        assert canary.read_text() == "alive"
        assert before.changes(look()) == []


@pytest.fixture(scope="module")
def sandbox(host_unchanged: None) -> Iterator[Sandbox]:
    os.environ["R1_SECRET"] = "do-not-leak"  # pragma: allowlist secret (the test's own)
    try:
        with Sandbox() as running:
            yield running
            assert not _children_of(running), "a program outlived its run"
    finally:
        del os.environ["R1_SECRET"]


def _children_of(sandbox: Sandbox) -> list[str]:
    assert sandbox._server is not None
    pid = sandbox._server.pid
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.parametrize("name", attacks.REFUSED)
def test_refused(
    sandbox: Sandbox, canary: Path, name: str, record_property: Callable[[str, object], None]
) -> None:
    program = attacks.REFUSED[name].replace("{canary}", str(canary))
    verdict = sandbox.run_tests(program, "f", ["assert f() == 'contained'"], LIMITS)
    assert verdict.outcome is Outcome.CORRECT, f"{name}: {verdict}"
    record_property(CONTAINED, 1)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in attacks.RUN_TO_THE_LIMIT)) for n in attacks.EXHAUSTING],
)
def test_exhausting(sandbox: Sandbox, name: str, record_property: Callable[[str, object], None]) -> None:
    started = time.monotonic()
    verdict = sandbox.run_tests(attacks.EXHAUSTING[name], "f", [SPLIT], LIMITS)
    seconds = time.monotonic() - started
    assert attacks.exhausted_nothing(verdict, seconds, LIMITS), f"{name}: {verdict} after {seconds:.1f} s"
    record_property(CONTAINED, 1)


@pytest.mark.parametrize("mode", ["split", "judged"])
@pytest.mark.parametrize("name", attacks.FORGING)
def test_forging(
    sandbox: Sandbox, name: str, mode: str, record_property: Callable[[str, object], None]
) -> None:
    test = SPLIT if mode == "split" else JUDGED
    verdict = sandbox.run_tests(attacks.FORGING[name], "f", [test], LIMITS)
    assert verdict.outcome is Outcome.WRONG, f"{name}: {verdict}"
    record_property(CONTAINED, 1)


def test_forging_tests_pass_an_honest_program(sandbox: Sandbox) -> None:
    """The attacks above fail because they are wrong, not because every program does."""
    honest = f"def f():\n    return {attacks.ANSWER}"
    assert sandbox.run_tests(honest, "f", [SPLIT, JUDGED], LIMITS).outcome is Outcome.CORRECT


@pytest.mark.parametrize(
    "name", ["read_passwd", "tcp_socket", "secret_in_env", "fork", "subprocess", "symlink_out", "memfd"]
)
def test_attacks_succeed_without_the_sandbox(name: str, tmp_path: Path) -> None:
    """The attacks have teeth: outside the jail they get through."""
    code = attacks.REFUSED[name] + "\nprint(f())"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True
    )
    assert result.stdout.strip() == "escaped"


def test_next_program_sees_nothing_of_the_last(sandbox: Sandbox) -> None:
    leave = "import json, builtins\nopen('left', 'w').write('x')\njson.left = builtins.left = 1\ndef f():\n    return 1"
    find = "import json, builtins, os\ndef f():\n    return [os.listdir('.'), hasattr(json, 'left'), hasattr(builtins, 'left')]"
    assert sandbox.run_tests(leave, "f", ["assert f() == 1"], LIMITS).outcome is Outcome.CORRECT
    assert (
        sandbox.run_tests(find, "f", ["assert f() == [[], False, False]"], LIMITS).outcome is Outcome.CORRECT
    )


def test_server_that_is_killed_is_replaced(sandbox: Sandbox) -> None:
    assert sandbox._server is not None
    sandbox._server.kill()
    sandbox._server.wait()
    verdict = sandbox.run_tests("def f():\n    return 1", "f", ["assert f() == 1"], LIMITS)
    assert verdict.outcome is Outcome.CORRECT


def test_nothing_outlives_a_trainer_that_is_killed() -> None:
    code = (
        "from pipeline_lib.sandbox.client import Sandbox; from pipeline_lib.sandbox.limits import Limits\n"
        "s = Sandbox().__enter__(); print(s._server.pid, flush=True)\n"
        "s.run_tests('def f():\\n    while True: pass', 'f', ['assert f() == 1'], Limits(cpu_seconds=60, wall_seconds=60))"
    )
    with orphans_come_here(False):  # init buries the server
        trainer = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
        assert trainer.stdout is not None
        server = int(trainer.stdout.readline())
        children = Path(f"/proc/{server}/task/{server}/children")
        _wait_until(lambda: bool(children.read_text().split()))
        program = int(children.read_text().split()[0])
        trainer.kill()
        trainer.wait()
        _wait_until(lambda: not Path(f"/proc/{server}").exists() and not Path(f"/proc/{program}").exists())


def _wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen within 20 s"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("kind", "attacked"),
    [
        ("refused", len(attacks.REFUSED)),
        pytest.param("exhausting", len(attacks.EXHAUSTING), marks=pytest.mark.slow),
        ("forging", 2 * len(attacks.FORGING)),
    ],
)
def test_as_ordinary_user(kind: str, attacked: int, record_property: Callable[[str, object], None]) -> None:
    """The same attacks again without any privilege, in a user namespace of its own making; the host is looked at as that user."""
    if os.geteuid() != 0:
        pytest.skip("the suite already runs as an ordinary user")
    with _ordinary_user() as run:
        result = run("tests.security.ordinary_user", kind)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert f"{attacked} attacks contained as uid 54321, the host unchanged" in result.stdout
    record_property("count: attacks contained as an ordinary user", attacked)


def test_fails_closed_without_namespaces() -> None:
    """Where the kernel refuses a user namespace there is no sandbox, and the message says what is missing."""
    if os.geteuid() != 0:
        pytest.skip("needs root to take the right to make user namespaces away")
    with _ordinary_user(forbid_namespaces=True) as run:
        result = run("tests.security.ordinary_user", "forging")
    assert result.returncode != 0
    assert "user.max_user_namespaces" in result.stderr
    assert "contained" not in result.stdout


class _ordinary_user:
    """A place that an ordinary user can read: copies of the code, and the interpreter bound where its home was closed."""

    def __init__(self, *, forbid_namespaces: bool = False) -> None:
        self._forbid = forbid_namespaces

    def __enter__(self):  # type: ignore[no-untyped-def]
        self.place = Path("/tmp") / f"r1-ordinary-{os.getpid()}"
        shutil.rmtree(self.place, ignore_errors=True)
        for package in ("pipeline_lib/sandbox", "tests/security"):
            shutil.copytree(REPOSITORY / package, self.place / package)
        for module in ("__init__", "errors", "types"):
            shutil.copy(REPOSITORY / f"pipeline_lib/{module}.py", self.place / "pipeline_lib")
        (self.place / "interpreter").mkdir()
        (self.place / "host").mkdir()
        (self.place / "host/canary").write_text("alive")
        subprocess.run(["chmod", "-R", "a+rX", str(self.place)], check=True)
        subprocess.run(["chmod", "-R", "a+w", str(self.place / "host")], check=True)
        return self._run

    def _run(self, module: str, *words: str) -> subprocess.CompletedProcess[str]:
        interpreter = Path(os.path.realpath(sys.executable))
        # A user namespace of the test's own keeps the limit on namespaces away from the rest of the machine; in there
        # the only user is root, so what makes it ordinary is the loss of every capability.
        outer = (
            ["unshare", "--user", "--map-root-user", "--mount"] if self._forbid else ["unshare", "--mount"]
        )
        forbid = "echo 0 > /proc/sys/user/max_user_namespaces &&" if self._forbid else ""
        identity = "" if self._forbid else "--reuid 54321 --regid 54321 --clear-groups"
        script = (
            f"mount --bind {interpreter.parent.parent} {self.place}/interpreter && cd {self.place} && {forbid} "
            f"exec setpriv {identity} --bounding-set -all --inh-caps -all "
            f"env -i PYTHONPATH={self.place} R1_SECRET=do-not-leak R1_CANARY={self.place}/host/canary PATH=/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 "
            f"{self.place}/interpreter/bin/{interpreter.name} -S -m {module} {' '.join(words)}"
        )
        return subprocess.run(
            [*outer, "sh", "-c", script], capture_output=True, text=True, timeout=300, check=False
        )

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
