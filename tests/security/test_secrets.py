"""Credentials in a worker's environment stay there: stages run with marked ones, and nothing they leave behind holds a mark.

Real stages in a clone (dvc, the stage, its ranks, the sandbox, MLflow's shipper), data to trained model, and stages that fail on their
credentials' service. Searched: every line of output, every file (dvc files, DVC's cache, MLflow's database and artifacts, journals,
reports, logs), and the command line of every process of the machine while they run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from pipeline_lib.orchestration.runner import StageFailed, StageRun
from pipeline_lib.tracking.locations import tracking_uri
from tests.clones import fresh_clone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SECRETS = {
    name: f"marked-{name.lower().replace('_', '-')}-7f3a91"
    for name in (
        *(
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "MLFLOW_TRACKING_PASSWORD",
            "MLFLOW_TRACKING_TOKEN",
            "HF_TOKEN",
        ),
        *("AIRFLOW__CORE__FERNET_KEY", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW_CONN_AWS_DEFAULT"),
    )
}
STAGES = (
    "prepare_problems",
    "validate_problems",
    "prepare_base_model",
    "select_hard_problems",
    "train_r1_zero",
)
SMALL = {
    "prepare_problems.sources": [
        {"kind": "microworld", "role": role, "options": options}
        for role, options in (
            ("train", {"kind": "math", "n": 60}),
            ("train", {"kind": "code", "n": 20}),
            ("general", {"kind": "general", "n": 20}),
            ("preferences", {"n": 20}),
            ("safety", {"n": 20}),
        )
    ],
    "select_hard_problems.max_problems": 40,
    "train_r1_zero.steps": 2,
    "train_r1_zero.checkpoint_every": 1,
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = fresh_clone(tmp_path_factory.mktemp("secrets") / "clone")
    _configure(path, SMALL)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "R1_PIPELINE_RUN", "R1_MLFLOW_ARTIFACTS"):
            patch.delenv(name, raising=False)
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ACCESS_KEY_ID", "someone")
        patch.setenv("R1_MLFLOW_LINGER", "1")
        yield path


def _configure(clone: Path, overrides: dict[str, object]) -> None:
    from pipeline_lib.params import compose

    (clone / "params.yaml").write_text(
        yaml.safe_dump(compose("smoke", overrides, root=clone)), encoding="utf-8"
    )


class _Watch:
    """Looks at /proc all the time: command lines that hold a secret, and the processes of the clone that were seen."""

    def __init__(self, clone: Path) -> None:
        self.shown: set[str] = set()
        self.seen: set[str] = set()
        self.environments: set[str] = set()
        self._mark, self._end = f"{clone}:".encode(), threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._end.wait(0.05):
            for entry in Path("/proc").iterdir():
                if not entry.name.isdigit() or int(entry.name) == os.getpid():
                    continue
                try:
                    command, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
                except OSError:
                    continue
                self.shown |= {name for name, value in SECRETS.items() if value.encode() in command}
                if self._mark in environment:
                    self.seen.add(command.replace(b"\0", b" ").decode(errors="replace"))
                    self.environments |= {
                        name for name, value in SECRETS.items() if value.encode() in environment
                    }

    @contextmanager
    def looking(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._end.set()
            self._thread.join()


def _files_with(root: Path, words: dict[str, str]) -> dict[str, list[str]]:
    """The files below `root` that hold a word, by the word's name."""
    found: dict[str, list[str]] = {}
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink() and ".git" not in path.relative_to(root).parts:
            content = path.read_bytes()
            for name, word in words.items():
                if word.encode() in content:
                    found.setdefault(name, []).append(str(path.relative_to(root)))
    return found


def test_nothing_that_stages_leave_holds_a_secret(clone: Path) -> None:
    lines: list[str] = []
    watch = _Watch(clone)
    with watch.looking():
        for stage in STAGES:
            StageRun(clone, stage).wait(lines.append)
    assert watch.shown == set()
    assert any("tasks.train_r1_zero" in command for command in watch.seen)
    # The worker's own secrets do not even reach the stage; the stage's do, since it needs them.
    assert watch.environments == {name for name in SECRETS if not name.startswith("AIRFLOW")}
    assert not [line for line in lines if any(value in line for value in SECRETS.values())]
    places = _files_with(clone, {**SECRETS, "control": "train_r1_zero"})
    control = places.pop("control")
    assert places == {}
    # The search looks where it should: it finds the stage's name in each kind of place. A stage's log holds these lines and no others.
    assert any("train_r1_zero" in line for line in lines)
    for part in (".mlflow/mlflow.db", "dvc.lock"):
        assert any(path.startswith(part) for path in control), (part, control)


FAILURES = {
    "s3 is away": (
        {"kind": "s3", "options": {"uri": "s3://bucket/train.jsonl", "layout": "gsm8k"}},
        {"AWS_ENDPOINT_URL_S3": f"http://someone:{SECRETS['AWS_SECRET_ACCESS_KEY']}@127.0.0.1:1"},
    ),
    "the hub is away": (
        {
            "kind": "hub",
            "options": {"dataset": "a/b", "file": "x.jsonl", "revision": "main", "layout": "gsm8k"},
        },
        {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_OFFLINE": "0"},
    ),
    "a path asks for it": (
        {"kind": "files", "options": {"path": "/no/${HF_TOKEN}.jsonl", "layout": "gsm8k"}},
        {},
    ),
    "a path asks for it, in another way": (
        {"kind": "files", "options": {"path": "$AWS_SECRET_ACCESS_KEY/x.jsonl", "layout": "gsm8k"}},
        {},
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_stage_that_fails_tells_no_secret(clone: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, environment = FAILURES[case]
    _configure(clone, {"prepare_problems.sources": [{"role": "train", **source}]})
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    lines: list[str] = []
    with pytest.raises(StageFailed) as failure:
        StageRun(clone, "prepare_problems").wait(lines.append)
    assert failure.value.exit_code == (
        1 if case in ("s3 is away", "the hub is away") else 2
    )  # a store that is away is tried again
    assert not [
        line for line in (*lines, str(failure.value)) if any(value in line for value in SECRETS.values())
    ]
    assert _files_with(clone, SECRETS) == {}


def test_a_tracking_uri_with_a_password_is_refused(tmp_path: Path) -> None:
    """It would be in every journal, warning and link; MLflow reads the two variables that the message names."""
    env = {
        **os.environ,
        "MLFLOW_TRACKING_URI": "http://someone:hush-9@127.0.0.1:1",  # pragma: allowlist secret (the test's own)
        "PYTHONPATH": str(Path.cwd()),
    }
    done = subprocess.run(
        [sys.executable, "-c", f"import {tracking_uri.__module__} as m; m.tracking_uri()"],
        env=env, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    last = done.stderr.strip().splitlines()[-1]
    assert "MLFLOW_TRACKING_PASSWORD" in last
    assert "hush-9" not in done.stderr
