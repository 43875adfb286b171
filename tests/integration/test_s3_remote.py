"""S3 as the place of truth: fetch before a stage, push after it, against a real server, the real dvc, and faults.

Not covered: AWS itself (IAM, TLS), and a bucket with versions or locks.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pipeline_lib.errors import StorageError
from pipeline_lib.orchestration.detached import log_path
from pipeline_lib.orchestration.dvc_output import How
from pipeline_lib.orchestration.dvc_remote import DvcRemote, Run, listed, object_address, run_path
from pipeline_lib.orchestration.integrity import refuse_damaged_inputs
from pipeline_lib.orchestration.runner import StageFailed, StageRun
from pipeline_lib.storage.s3 import KEYS_FROM
from pipeline_lib.tracking.outputs import locked_stages
from tests.seaweed import BUCKET, KEY, SECRET, Seaweed, free_ports, seaweed
from tests.small_project import build, clone, content, git

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with seaweed(tmp_path_factory.mktemp("weed")) as running:
        yield running


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A part of the bucket for one test."""
    return re.sub(r"\W+", "-", request.node.name)


@pytest.fixture
def env(server: Seaweed, prefix: str) -> dict[str, str]:
    """What the operator's machine has in its environment."""
    return {**server.environment, "R1_REMOTE": f"s3://{BUCKET}/{prefix}", "R1_PIPELINE_RUN": "a-run"}


def run(root: Path, address: str, env: dict[str, str], lines: list[str]) -> How:
    """The stage as its supervisor runs it: what it says goes into its log."""
    return StageRun(root, address, env).wait(_log(root, address, lines)).how


def _log(root: Path, address: str, lines: list[str]) -> Callable[[str], None]:
    path = log_path(root, address)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)

    def on_line(line: str) -> None:
        lines.append(line)
        with path.open("a") as file:
            file.write(line + "\n")

    return on_line


def test_a_second_machine_recomputes_nothing(
    server: Seaweed, prefix: str, env: dict[str, str], tmp_path: Path
) -> None:
    first = build(tmp_path / "first")
    second = clone(first, tmp_path / "second")
    lines: list[str] = []
    for address in ("prepare", "train@a", "train@b"):
        assert run(first, address, env, lines) is How.COMPUTED
    lines.clear()
    for address in ("prepare", "train@a", "train@b"):
        assert run(second, address, env, lines) is How.RESTORED
    assert not [line for line in lines if line.endswith(" ran")]
    assert (first / "dvc.lock").read_text() == (second / "dvc.lock").read_text()
    folders = ("data", "models", "reports")
    assert content(first, *folders) == content(second, *folders)
    assert len(content(second, *folders)) == 6
    assert SECRET not in "".join(lines)


def test_two_machines_run_the_same_stage_at_the_same_moment_and_nothing_is_lost(
    server: Seaweed, prefix: str, env: dict[str, str], tmp_path: Path
) -> None:
    """Two clones, a process each. Both compute, for each waits inside the stage until the other is there; then both push."""
    first = build(tmp_path / "first", size=3_000_000)
    code = (first / "prepare.py").read_text()
    (first / "prepare.py").write_text(MEET + code)
    git(first, "commit", "--quiet", "-am", "a stage that waits for its other copy")
    machines = [first, clone(first, tmp_path / "second")]
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    program = "import sys; from pathlib import Path; from pipeline_lib.orchestration.runner import StageRun; "
    program += "print(StageRun(Path.cwd(), 'prepare').wait(print).how.value)"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=root,
            env={**os.environ, **env, "PYTHONPATH": str(PROJECT), "MEETING": str(meeting)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for root in machines
    ]
    for process in running:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert said.splitlines()[-1] == How.COMPUTED.value
        assert "prepare ran" in said
        assert SECRET not in said

    assert len(list(meeting.iterdir())) == 2
    objects = [key for key in server.keys(prefix) if "/files/md5/" in key]
    assert len(objects) == 3  # a directory and its two files
    for key in objects:
        name = key.partition("/files/md5/")[2].replace("/", "").removesuffix(".dir")
        assert hashlib.md5(server.body(key)).hexdigest() == name, key
    third = clone(first, tmp_path / "third")
    assert run(third, "prepare", env, []) is How.RESTORED
    assert content(third, "data") == content(machines[0], "data") == content(machines[1], "data")
    assert len({(root / "dvc.lock").read_text() for root in (*machines, third)}) == 1


MEET = """
import os, pathlib, time, uuid
meeting = pathlib.Path(os.environ["MEETING"])
(meeting / uuid.uuid4().hex).touch()
for _ in range(1200):
    if len(list(meeting.iterdir())) == 2:
        break
    time.sleep(0.05)
"""


def test_only_what_the_stage_reads_is_fetched_by_hash(env: dict[str, str], tmp_path: Path) -> None:
    """A machine that has a commit of dvc.lock and nothing else; the stage it runs was never run anywhere."""
    first = build(tmp_path / "first")
    lines: list[str] = []
    run(first, "prepare", env, lines)
    git(first, "add", "dvc.lock")
    git(first, "commit", "--quiet", "-m", "prepared")
    second = clone(first, tmp_path / "second")
    lines.clear()
    assert run(second, "train@b", env, lines) is How.COMPUTED
    assert content(second, "data") == content(first, "data")
    assert any("that it reads fetched" in line for line in lines)
    lines.clear()
    assert run(first, "train@b", env, lines) is How.RESTORED
    assert content(second, "models") == content(first, "models")


def test_a_push_costs_what_the_stage_wrote_whatever_the_history(
    server: Seaweed, prefix: str, env: dict[str, str], tmp_path: Path
) -> None:
    root = build(tmp_path / "root")
    old = root / ".dvc/cache/runs/aa" / ("a" * 64)
    old.mkdir(parents=True)
    for index in range(200):
        (old / f"{index:064x}").write_text("cmd: an earlier run\n")
    run(root, "prepare", env, [])
    keys = server.keys(prefix)
    kinds = [key.removeprefix(f"{prefix}/").partition("/")[0] for key in keys]
    assert sorted(kinds) == ["files", "files", "files", "logs", "runs"]
    lines: list[str] = []
    assert run(root, "prepare", env, lines) is How.UNCHANGED
    assert not [line for line in lines if "pushed" in line]


def test_dvc_itself_works_on_the_same_remote(
    server: Seaweed, prefix: str, env: dict[str, str], tmp_path: Path
) -> None:
    """`dvc pull` brings what was pushed; `dvc push` finds nothing to send; what dvc pushes restores a stage."""
    first = build(tmp_path / "first")
    for address in ("prepare", "train@a"):
        run(first, address, env, [])
    git(first, "add", "dvc.lock")
    git(first, "commit", "--quiet", "-m", "run")
    second = clone(first, tmp_path / "second")
    for root in (first, second):
        _dvc(root, env, "remote", "add", "--local", "--default", "r1", env["R1_REMOTE"])
    _dvc(second, env, "pull", "prepare", "train@a")
    assert content(second, "data", "models") == content(first, "data", "models")
    assert "Everything is up to date" in _dvc(first, env, "push", "prepare", "train@a")

    theirs = {**env, "R1_REMOTE": env["R1_REMOTE"] + "-theirs"}
    _dvc(first, env, "remote", "add", "--local", "--force", "--default", "r1", theirs["R1_REMOTE"])
    _dvc(first, env, "push", "--run-cache")
    third = clone(build_without_lock(first), tmp_path / "third")
    assert run(third, "prepare", theirs, []) is How.RESTORED


def build_without_lock(root: Path) -> Path:
    git(root, "rm", "--quiet", "dvc.lock")
    git(root, "commit", "--quiet", "-m", "nothing was run")
    return root


def _dvc(root: Path, env: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root,
        env={**os.environ, **env, "CI": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_s3_that_stays_away_is_one_line_and_the_next_attempt_only_pushes(
    server: Seaweed, prefix: str, env: dict[str, str], tmp_path: Path
) -> None:
    root = build(tmp_path / "root")
    nobody = {**env, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_ports(1)[0]}", "R1_S3_PATIENCE": "1"}
    StageRun(root, "prepare", {}).wait(lambda line: None)
    lines: list[str] = []
    with pytest.raises(StageFailed, match=r"cannot be reached.*start the stage again") as failure:
        run(root, "train@a", nobody, lines)
    assert failure.value.retry
    assert "\n" not in str(failure.value)
    assert SECRET not in str(failure.value) + "".join(lines)

    class Broken(StageRun):
        """The server is there when the stage begins, and gone when its outs are to be pushed."""

        def _remote(self, verb, on_line):
            if verb == "push":
                self._env["AWS_ENDPOINT_URL"] = nobody["AWS_ENDPOINT_URL"]
            super()._remote(verb, on_line)

    with pytest.raises(StageFailed, match="push failed"):
        Broken(root, "train@a", {**env, "R1_S3_PATIENCE": "1"}).wait(lines.append)
    assert lines.count("train ran") == 1
    assert run(root, "train@a", env, lines) is How.UNCHANGED
    assert lines.count("train ran") == 1
    assert any("pushed to s3://" in line for line in lines)


def test_wrong_credentials_are_one_line_at_once_without_the_secret(
    env: dict[str, str], tmp_path: Path
) -> None:
    root = build(tmp_path / "root")
    wrong = {**env, "AWS_SECRET_ACCESS_KEY": "quite-another-secret"}  # pragma: allowlist secret
    lines: list[str] = []
    start = time.monotonic()
    with pytest.raises(StageFailed, match="refused the credentials") as failure:
        run(root, "prepare", wrong, lines)
    assert time.monotonic() - start < 30
    assert failure.value.exit_code == 2
    assert not failure.value.retry
    assert "\n" not in str(failure.value)
    assert not [line for line in lines if "trying again" in line]
    kept = log_path(root, "prepare").read_text()
    assert "quite-another-secret" not in kept + str(failure.value) + "".join(lines)


def test_a_wrong_address_says_what_it_should_be(tmp_path: Path) -> None:
    root = build(tmp_path / "root")
    with pytest.raises(StageFailed, match=r"R1_REMOTE = 'gs://x'.*must be s3://") as failure:
        run(root, "prepare", {"R1_REMOTE": "gs://x"}, [])
    assert failure.value.exit_code == 2


def test_an_object_that_is_not_what_its_name_says_is_refused(
    server: Seaweed, prefix: str, env: dict[str, str], tmp_path: Path
) -> None:
    first = build(tmp_path / "first")
    run(first, "prepare", env, [])
    (out,) = locked_stages(first)["prepare"]["outs"]
    big = max(server.keys(f"{prefix}/files/").items(), key=lambda item: item[1])[0]
    server.client().put_object(Bucket=BUCKET, Key=big, Body=b"rotten")
    git(first, "add", "dvc.lock")
    git(first, "commit", "--quiet", "-m", "run")
    second = clone(first, tmp_path / "second")
    with pytest.raises(StageFailed, match="is not what its name says; remove the object"):
        run(second, "train@a", env, [])
    assert out["md5"].endswith(".dir")
    assert not list((second / ".dvc/cache").rglob("*.dir")), (
        "a list whose files are missing looks whole to DVC"
    )
    lines: list[str] = []
    assert run(second, "prepare", env, lines) is How.COMPUTED
    assert any("was run before, but its outs cannot be fetched" in line for line in lines)


def test_a_removed_object_is_put_back_by_whoever_has_it_or_computes_it(
    server: Seaweed, prefix: str, env: dict[str, str], tmp_path: Path
) -> None:
    """The remedy for a damaged object. Its stage's outs are the same each time, so the run in the remote is the same, too."""
    first = build(tmp_path / "first")
    second = clone(first, tmp_path / "second")
    run(first, "prepare", env, [])
    whole = server.keys(f"{prefix}/files/")
    big = max(whole, key=lambda key: whole[key])
    body = server.body(big)
    for root, how in ((first, How.UNCHANGED), (second, How.COMPUTED)):
        server.client().delete_object(Bucket=BUCKET, Key=big)
        lines: list[str] = []
        assert run(root, "prepare", env, lines) is how
        assert [line for line in lines if "1 objects pushed" in line]
        assert server.keys(f"{prefix}/files/") == whole
        assert server.body(big) == body
    assert len(server.keys(f"{prefix}/runs/")) == 1


@dataclass(frozen=True)
class _Lost:
    """A finished run of which everything is in S3; its machine has lost the DVC cache and the outs."""

    root: Path
    env: dict[str, str]
    prefix: str
    held: dict[str, bytes]
    """What the outs were."""

    def restore(self, lines: list[str], **other: str) -> None:
        """What the task `restore_inputs` of the DAGs `distill` and `evaluate` does."""
        StageRun(self.root, "restore_inputs", {**self.env, **other}).restore(ADDRESSES, lines.append)

    def outs(self) -> dict[str, bytes]:
        return content(self.root, "data", "models")


ADDRESSES = ("prepare", "train@a")


@pytest.fixture(scope="module")
def finished(server: Seaweed, tmp_path_factory: pytest.TempPathFactory) -> _Lost:
    env = {**server.environment, "R1_REMOTE": f"s3://{BUCKET}/lost", "R1_PIPELINE_RUN": "a-run"}
    root = build(tmp_path_factory.mktemp("finished") / "root")
    for address in ADDRESSES:
        run(root, address, env, [])
    held = content(root, "data", "models")
    for folder in (".dvc/cache", "data", "models"):
        shutil.rmtree(root / folder)
    return _Lost(root, env, "lost", held)


@pytest.fixture
def lost(finished: _Lost, tmp_path: Path) -> _Lost:
    return replace(finished, root=shutil.copytree(finished.root, tmp_path / "root"))


def test_a_lost_cache_is_filled_from_the_remote_with_what_is_restored(lost: _Lost) -> None:
    locked = (lost.root / "dvc.lock").read_bytes()
    lines: list[str] = []
    lost.restore(lines)
    assert lost.outs() == lost.held
    assert (lost.root / "dvc.lock").read_bytes() == locked
    assert lines == [f"5 objects that the DVC cache lacked fetched from {lost.env['R1_REMOTE']}"]
    for folder in ("data", "models"):
        shutil.rmtree(lost.root / folder)
    lines.clear()
    lost.restore(lines, R1_REMOTE="")
    assert lost.outs() == lost.held, "the cache has it now: no remote is needed"
    assert lines == []
    assert run(lost.root, "train@a", lost.env, lines) is How.UNCHANGED


def test_what_is_in_neither_cache_nor_remote_is_one_line(server: Seaweed, lost: _Lost) -> None:
    with pytest.raises(StageFailed, match=r"not in the DVC cache; R1_REMOTE is not set") as failure:
        lost.restore([], R1_REMOTE="")
    assert not failure.value.retry
    assert "\n" not in str(failure.value)
    big = max(server.keys(f"{lost.prefix}/files/").items(), key=lambda item: item[1])[0]
    body = server.body(big)
    server.client().delete_object(Bucket=BUCKET, Key=big)
    try:
        with pytest.raises(StageFailed, match=f"{big}: no such object") as failure:
            lost.restore([])
    finally:
        server.client().put_object(Bucket=BUCKET, Key=big, Body=body)
    assert not failure.value.retry
    assert not lost.outs()


def test_a_restore_is_tried_again_when_s3_is_away_and_not_when_it_refuses_the_keys(lost: _Lost) -> None:
    nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(StageFailed, match=r"cannot be reached.*start the stage again") as failure:
        lost.restore([], AWS_ENDPOINT_URL=nowhere, R1_S3_PATIENCE="1")
    assert failure.value.retry
    secret = "quite-another-secret"  # pragma: allowlist secret
    wrong = {"AWS_SECRET_ACCESS_KEY": secret, KEYS_FROM: "the Airflow connection x"}
    lines: list[str] = []
    with pytest.raises(StageFailed, match=r"refused.*Check the keys in the Airflow connection x") as failure:
        lost.restore(lines, **wrong)
    assert not failure.value.retry
    assert secret not in str(failure.value) + "".join(lines)
    lost.restore(lines)
    assert lost.outs() == lost.held


def test_logs_of_every_attempt_are_kept_without_secrets(
    server: Seaweed, prefix: str, env: dict[str, str], tmp_path: Path
) -> None:
    root = build(tmp_path / "root")
    run(root, "prepare", env, [])
    (root / "fail").write_text("3")
    job = root / "checkpoints" / ("train@a-" + "0123456789abcdef")
    job.mkdir(parents=True)
    (job / "job.log").write_text(f"rank 0 was told {SECRET}\n")
    (root / "checkpoints" / ("train@a-b-" + "0123456789abcdef")).mkdir()
    lines: list[str] = []
    with pytest.raises(StageFailed, match="row 7 is bad") as failure:
        run(root, "train@a", env, lines)
    assert failure.value.exit_code == 3
    assert "secret of mine: ***" in lines
    (root / "fail").unlink()
    run(root, "train@a", env, lines)
    logs = {
        key.removeprefix(f"{prefix}/logs/a-run/"): server.body(key) for key in server.keys(f"{prefix}/logs/")
    }
    assert set(logs) == {
        "prepare/attempt-1/stage.log",
        "train@a/attempt-1/stage.log",
        "train@a/attempt-1/job.log",
        "train@a/attempt-2/stage.log",
        "train@a/attempt-2/job.log",
    }
    assert logs["train@a/attempt-1/job.log"] == b"rank 0 was told ***\n"
    assert b"train ran" in logs["train@a/attempt-2/stage.log"]
    everything = b"".join(logs.values()) + b"".join(
        content(root, ".run", ".dvc", "models", "reports").values()
    )
    assert SECRET.encode() not in everything
    assert KEY.encode() not in everything


def test_the_names_of_a_run_are_dvcs_own(env: dict[str, str], tmp_path: Path) -> None:
    """Key and value, computed from dvc.lock without DVC, name the file that DVC wrote."""
    root = build(tmp_path / "root")
    for address in ("prepare", "train@a"):
        StageRun(root, address, {}).wait(lambda line: None)
        named = Run(locked_stages(root)[address])
        assert (root / ".dvc/cache" / run_path(named.key, named.value)).is_file()
    assert object_address("s3://b/p", "0" * 32) == f"s3://b/p/files/md5/00/{'0' * 30}"


def test_a_registered_model_is_found_by_a_machine_that_has_its_address_alone(
    env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pushed by its stage, registered by reference, got with the source of the version: byte for byte."""
    from pipeline_lib.tracking.client import open_client
    from tests.integration.test_mlflow_registry import make_run, register_run

    root = make_run(tmp_path / "run", {"base": "b", "r1": "r"})
    for model in ("base", "r1"):
        _into_cache(root, root / "models" / model)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    address = env["R1_REMOTE"]
    for stage in ("prepare_base_model", "train_general_sft"):
        assert DvcRemote.of(root, address, print).push(Run(locked_stages(root)[stage])) == 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    register_run(root, {"base": 0.2, "r1": 0.7})
    client = open_client(f"sqlite:///{tmp_path}/mlflow.db", root)
    source = client.get_model_version_by_alias("deepseek-r1-r1", "champion").source
    assert source.startswith(f"{address}/files/md5/")
    assert source.endswith(".dir")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [
        sys.executable,
        "-m",
        "pipeline_lib.orchestration.remote",
        "get",
        source,
        str(elsewhere / "r1"),
    ]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert content(elsewhere / "r1", ".") == content(root / "models/r1", ".")
    assert os.listdir(elsewhere) == ["r1"]
    again = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert again.stderr.startswith("REMOTE: path = ")


def test_artifacts_of_mlflow_lie_in_s3_and_the_store_has_their_address(
    server: Seaweed, tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`R1_MLFLOW_ARTIFACTS`: tables and plots of a run, read back by a machine that has the store and the keys."""
    from tests.integration.test_mlflow_runs import make_worktree, open_store, run_stage, runs_of, settle

    root = make_worktree(tmp_path)
    place = f"s3://{BUCKET}/{prefix}/mlflow"
    code, errors = run_stage(
        root,
        """
        run.log_table("rollouts", ["text"], [["1 + 1 = 2"]])
        Path("plot.html").write_text("a picture")
        run.log_artifact("plot.html", "plots")
        Path("model.txt").write_text("weights")
        """,
        R1_PIPELINE_RUN="manual__1",
        R1_MLFLOW_ARTIFACTS=place,
        **server.environment,
    )
    assert code == 0, errors
    settle(root)
    (run_found,) = runs_of(root, "tags.stage = 'train_r1_zero'")
    assert run_found.info.artifact_uri.startswith(f"{place}/")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    client, run_id = open_store(root), run_found.info.run_id
    assert {file.path for file in client.list_artifacts(run_id)} == {"rollouts.json", "plots"}
    got = client.download_artifacts(run_id, "plots/plot.html", str(tmp_path))
    assert Path(got).read_text() == "a picture"
    assert not list((root / ".mlflow").rglob("plot.html"))
    for file in (*(root / ".mlflow").rglob("*"), *(root / ".run").rglob("*")):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


def _into_cache(root: Path, folder: Path) -> None:
    """What `dvc commit` does: each file by its MD5, and the list of them by its own."""
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    entries = [
        {"md5": hashlib.md5(body).hexdigest(), "relpath": name} for name, body in sorted(files.items())
    ]
    listing = json.dumps(entries, sort_keys=True).encode()
    names = {hashlib.md5(body).hexdigest(): body for body in files.values()}
    for name, body in {**names, hashlib.md5(listing).hexdigest() + ".dir": listing}.items():
        target = root / ".dvc/cache/files/md5" / name[:2] / name[2:]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(body)


@dataclass(frozen=True)
class _Rotten:
    """A checkout whose `prepare` is done and pushed, and whose local cache then rotted; its `data` is not checked out."""

    root: Path
    file: Path
    """The rotten object, the largest of the stage's output."""
    whole: bytes
    """What it was."""
    data: dict[str, bytes]

    def is_mended(self) -> bool:
        """True when worktree and cache hold what was computed."""
        return content(self.root, "data") == self.data and self.file.read_bytes() == self.whole


@pytest.fixture
def rotten(env: dict[str, str], tmp_path: Path) -> _Rotten:
    root = build(tmp_path / "root")
    run(root, "prepare", env, [])
    (out,) = locked_stages(root)["prepare"]["outs"]
    store = root / ".dvc/cache/files/md5"
    names = listed(store / out["md5"][:2] / out["md5"][2:])
    file = max((store / name[:2] / name[2:] for name in names), key=lambda path: path.stat().st_size)
    found = _Rotten(root, file, file.read_bytes(), content(root, "data"))
    file.chmod(0o644)
    file.write_bytes(b"rotten" + found.whole[6:])
    file.chmod(0o444)
    shutil.rmtree(root / "data")
    return found


def test_a_rotten_object_of_the_local_cache_is_refetched_for_the_stage_that_made_it(
    env: dict[str, str], rotten: _Rotten
) -> None:
    lines: list[str] = []
    assert run(rotten.root, "prepare", env, lines) is How.RESTORED, lines
    assert any("not what dvc.lock says; removed it and 1 damaged objects" in line for line in lines)
    assert not [line for line in lines if line.endswith(" ran")]
    assert rotten.is_mended()


def test_a_rotten_input_is_refused_once_and_whole_for_the_retry(
    env: dict[str, str], rotten: _Rotten, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What every stage asks before it reads (`tasks._main`), between two attempts of a stage by the real dvc."""
    checkout = [sys.executable, "-m", "dvc", "checkout", "--quiet", "prepare"]
    subprocess.run(checkout, cwd=rotten.root, check=True)
    assert content(rotten.root, "data") != rotten.data, "dvc hands on what it has"
    monkeypatch.setenv("R1_REMOTE", env["R1_REMOTE"])
    with pytest.raises(StorageError, match="1 objects of the DVC cache are damaged") as refused:
        refuse_damaged_inputs(rotten.root, "train", "b")
    assert StageFailed("train@b", refused.value.exit_code, "").retry
    assert run(rotten.root, "train@b", env, []) is How.COMPUTED
    assert rotten.is_mended()
