"""Names in a DVC remote: what is refused before anything is asked of a server."""

from __future__ import annotations

import configparser

import pytest

from pipeline_lib.errors import ConfigError, StorageError
from pipeline_lib.orchestration.dvc_remote import object_address
from pipeline_lib.orchestration.remote_settings import add_remote, remote_address


@pytest.mark.parametrize("md5", ["../../../etc/passwd", "", "0" * 31, "0" * 32 + ".exe", "G" * 32])
def test_what_is_no_md5_never_becomes_a_path(md5):
    with pytest.raises(StorageError, match="is not the MD5"):
        object_address("s3://b", md5)


def test_the_address_comes_from_the_environment():
    assert remote_address({}) is None
    assert remote_address({"R1_REMOTE": "s3://b/p/"}) == "s3://b/p"
    with pytest.raises(ConfigError, match="R1_REMOTE = 'gs://b'"):
        remote_address({"R1_REMOTE": "gs://b"})


def test_nothing_secret_is_written_into_dvcs_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("R1_REMOTE", "s3://b/p")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-in-a-file")
    config = configparser.ConfigParser(interpolation=None)
    add_remote(config)
    with (tmp_path / "config.local").open("w") as file:
        config.write(file)
    text = (tmp_path / "config.local").read_text()
    assert text.split() == [
        "[core]",
        "remote",
        "=",
        "r1",
        "['remote",
        '"r1"\']',
        "url",
        "=",
        "s3://b/p",
        "verify",
        "=",
        "true",
    ]
