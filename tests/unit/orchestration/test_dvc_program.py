"""dvc.lock is whole at every moment, whoever writes it and whoever reads; and what dvc writes is what dvc alone would write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from dvc.utils.serialize import _common, _yaml, modify_yaml

from pipeline_lib.orchestration import dvc_program
from pipeline_lib.orchestration.programs import command_of
from pipeline_lib.tracking.outputs import locked_stages

STAGES = 60


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our functions in dvc's places, until the test ends."""
    monkeypatch.setattr(_common, "_dump_data", _common._dump_data)
    monkeypatch.setattr(_yaml, "parse_yaml_for_update", _yaml.parse_yaml_for_update)
    dvc_program.whole_files()


def _lock(tmp_path: Path) -> Path:
    """A dvc.lock as dvc writes it: hashes that look like numbers, a float without a point, a word that YAML 1.1 takes for true."""
    path = tmp_path / "dvc.lock"
    out = {"path": "out", "hash": "md5", "md5": "1" * 30 + "e5", "size": 3}
    params = {
        "params.yaml": {"lr": 1e-06, "seed": 7, "name": "on", "at": "12:30", "octal": "0o14", "off": False}
    }
    stages = {
        f"s{i}": {"cmd": f"python {'long ' * 30}{i}", "params": params, "outs": [out]} for i in range(STAGES)
    }
    _yaml.dump_yaml(str(path), {"schema": "2.0", "stages": stages})
    return path


def _record(path: Path, name: str, size: int) -> None:
    with modify_yaml(str(path)) as data:
        data["stages"][name]["outs"][0]["size"] = size


def test_the_file_is_what_dvc_alone_would_write(tmp_path, request):
    path = _lock(tmp_path)
    before = path.read_bytes()
    _record(path, "s3", 4)
    alone = path.read_bytes()
    path.write_bytes(before)
    request.getfixturevalue("patched")
    _record(path, "s3", 4)
    assert path.read_bytes() == alone != before


def test_comments_of_what_people_write_stay(tmp_path, patched):
    path = tmp_path / "params.yaml"
    text = "# mine\nstages:\n  s:\n    outs:\n    - size: 1  # this, too\n"
    path.write_text(text)
    _record(path, "s", 2)
    assert path.read_text() == text.replace("1", "2")


def test_who_reads_while_dvc_writes_finds_every_stage(tmp_path, patched):
    path = _lock(tmp_path)
    over = threading.Event()

    def write() -> None:
        for size in range(12):
            _record(path, "s3", size)
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not over.is_set():
        stages = locked_stages(tmp_path)
        assert len(stages) == STAGES
        seen.add(stages["s3"]["outs"][0]["size"])
    writer.join()
    assert len(seen) > 3, "it was read between the writes"


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path, patched, monkeypatch):
    path = _lock(tmp_path)
    before = path.read_bytes()

    def half(data: object, stream: object) -> None:
        stream.write("schema: '2.0'\n")
        raise OSError("no more")

    monkeypatch.setattr(_yaml, "_dump", half)
    with pytest.raises(OSError, match="no more"):
        _record(path, "s3", 4)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["dvc.lock"]


KILLED = """
import os, signal
from dvc.utils.serialize import _yaml
dump = _yaml._dump
def killed(data, stream):
    dump(data, stream)
    if hasattr(stream, "flush"):
        stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)
_yaml._dump = killed
"""


@pytest.mark.parametrize("program", ["ours", "dvc"])
def test_the_whole_program_killed_at_the_end_of_writing(tmp_path, program):
    """With the real dvc: killed while it writes, ours leaves no file; dvc alone has changed it already, so the test does hit the write."""
    (tmp_path / "dvc.yaml").write_text("stages: {s: {cmd: 'echo 1 > out', outs: [out]}}")
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "PYTHONPATH": str(tmp_path / "hook")}
    subprocess.run(
        [sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=tmp_path, check=True, env=environment
    )
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(KILLED)
    plain = [sys.executable, "-m", "dvc"]
    start = command_of("pipeline_lib.orchestration.dvc_program") if program == "ours" else plain
    done = subprocess.run([*start, "repro", "-q"], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "dvc.lock").exists() is (program == "dvc")
