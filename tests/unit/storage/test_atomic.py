"""A file is written whole or not at all; a full disk says what it needs and what is free."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_lib.errors import StorageError
from pipeline_lib.storage.atomic import atomic_path, disk_full_error, write_bytes, write_json


def test_a_written_file_replaces_the_old_one(tmp_path: Path) -> None:
    write_bytes(tmp_path / "deep" / "file", b"one")
    write_bytes(tmp_path / "deep" / "file", b"two")
    assert (tmp_path / "deep" / "file").read_bytes() == b"two"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_bytes(target, b"old")

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"half of the n")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_json_is_the_same_bytes_for_the_same_value(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": {"d": [1.5], "c": "é"}})
    write_json(tmp_path / "b", {"a": {"c": "é", "d": [1.5]}, "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert json.loads((tmp_path / "a").read_text()) == {"a": {"c": "é", "d": [1.5]}, "b": 1}


def test_a_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    write_bytes(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_full_disk_names_the_file_the_need_and_what_is_free(tmp_path: Path) -> None:
    error = disk_full_error(
        tmp_path / "file", OSError(errno.ENOSPC, "No space left on device"), 3 * 1024 * 1024
    )
    assert str(tmp_path / "file") in str(error)
    assert "3.0 MiB" in str(error)
    assert "free" in str(error)
    assert "\n" not in str(error)


_WRITER = """
import sys
from pathlib import Path
from pipeline_lib.data.schema import write_problems
from pipeline_lib.errors import StorageError
from pipeline_lib.types import Domain, Problem
import random
draw = random.Random(0)
problems = [Problem(str(n), Domain.MATH, str(draw.getrandbits(4096)), answer="1") for n in range(2000)]
try:
    write_problems(Path(sys.argv[1]), problems)
except StorageError as error:
    print(error)
    sys.exit(2)
"""


def _limit() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, 256 * 1024))


def test_parquet_that_does_not_fit_is_one_line_and_keeps_the_old_file(tmp_path: Path) -> None:
    """The kernel refuses the write (a file-size limit: the same path as a full disk), in a real process."""
    target = tmp_path / "set.parquet"
    target.write_bytes(b"old")
    run = subprocess.run(
        [sys.executable, "-c", _WRITER, str(target)],
        preexec_fn=_limit,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        check=False,
    )
    assert run.returncode == 2, run.stderr
    assert "the disk is full" in run.stdout
    assert "MiB" in run.stdout
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["set.parquet"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A tmpfs of 1 MiB in a mount namespace of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=1m none "{disk}" && "{sys.executable}" -c "$0" "{disk}/set.parquet"; code=$?; ls -A "{disk}"; exit $code'
    run = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, _WRITER],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        check=False,
    )
    assert run.returncode == 2, run.stderr
    assert "the disk is full" in run.stdout
    assert "1.0 MiB free" in run.stdout
    assert run.stdout.count("\n") == 1, "the message is one line, and nothing is left on the disk"


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        write_bytes(tmp_path / "file" / "below", b"x")
