"""S3 is killed in the middle of a push and comes back: the push completes, and every object is whole."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from pipeline_lib.orchestration.dvc_output import How
from pipeline_lib.orchestration.runner import StageRun
from tests.seaweed import BUCKET, Seaweed, seaweed
from tests.small_project import build

pytestmark = pytest.mark.slow

AWAY_S = float(os.environ.get("R1_AWAY_SECONDS", "12"))
"""How long the server is away; `make test-faults` makes it two minutes."""
BYTES = 160_000_000
PREFIX = "away"


def _hashes_are_right(server: Seaweed) -> int:
    """Compare every object of a remote with its name; returns their bytes."""
    total = 0
    for key in server.keys(f"{PREFIX}/files/md5/"):
        body = server.body(key)
        assert hashlib.md5(body).hexdigest() == "".join(key.split("/")[-2:]).removesuffix(".dir")
        total += len(body)
    return total


@pytest.mark.timeout(900)
def test_s3_is_away_in_the_middle_of_a_push(tmp_path: Path) -> None:
    """kill -9 once the first parts of a large object have arrived; the server comes back; the push goes on."""
    (tmp_path / "weed").mkdir()
    root = build(tmp_path / "root", size=BYTES)
    with seaweed(tmp_path / "weed") as server:
        env = {**server.environment, "R1_REMOTE": f"s3://{BUCKET}/{PREFIX}"}
        lines: list[str] = []
        assert StageRun(root, "prepare", server.environment).wait(lines.append).how is How.COMPUTED
        interrupted = threading.Event()

        def fault() -> None:
            _wait_for_parts(server)
            server.kill()
            interrupted.set()
            time.sleep(AWAY_S)
            server.start()

        thread = threading.Thread(target=fault)
        thread.start()
        start = time.monotonic()
        assert StageRun(root, "prepare", env).wait(lines.append).how is How.UNCHANGED
        took = time.monotonic() - start
        thread.join()
        assert interrupted.is_set()
        warnings = [line for line in lines if line.startswith("warning: ") and "trying again in" in line]
        assert warnings, lines
        assert took > AWAY_S
        assert _hashes_are_right(server) > BYTES
        tags = [server.client().head_object(Bucket=BUCKET, Key=key)["ETag"] for key in server.keys(PREFIX)]
        parts = max(int(tag.strip('"').partition("-")[2] or 1) for tag in tags)
        print(f"away {AWAY_S:.0f} s: push done after {took:.0f} s, {len(warnings)} pauses, {parts} parts")
        assert parts > 10
        (root / ".dvc/cache").rename(root / ".dvc/away")
        (root / "data/problems").rename(root / ".dvc/out")
        assert StageRun(root, "prepare", env).wait(lines.append).how in (How.RESTORED, How.UNCHANGED)
        assert (root / "data/problems/deep/train.bin").read_bytes() == (
            root / ".dvc/out/deep/train.bin"
        ).read_bytes()


def _wait_for_parts(server: Seaweed) -> None:
    client = server.client()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        uploads = client.list_multipart_uploads(Bucket=BUCKET, Prefix=PREFIX).get("Uploads", [])
        for upload in uploads:
            parts = client.list_parts(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
            if len(parts.get("Parts", [])) >= 2:
                assert upload["Key"] not in server.keys(PREFIX)
                return
        time.sleep(0.02)
    raise AssertionError("no part of a multipart upload ever arrived")
