"""Where the remote is, from the environment, and how its program is started. Imports next to nothing: DAG files read it."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping

from pipeline_lib.errors import ConfigError
from pipeline_lib.orchestration.programs import command_of

REMOTE_ENV = "R1_REMOTE"
"""Environment variable: s3://bucket/prefix. Endpoint and credentials are the usual AWS_* variables."""
LOGS_ENV = "R1_LOGS"
"""Environment variable: s3://bucket/prefix for logs alone; without it they go below R1_REMOTE."""
ERROR_MARK = "REMOTE: "
"""How the line begins in which `pipeline_lib.orchestration.remote` says why it failed."""
_ADDRESS = re.compile(r"s3://[^/\s]+(/\S*)?$")


def remote_address(environment: Mapping[str, str] | None = None) -> str | None:
    """Return R1_REMOTE without a slash at its end; None when it is not set. ConfigError when it is no S3 address."""
    asked = (os.environ if environment is None else environment).get(REMOTE_ENV)
    if not asked:
        return None
    if not _ADDRESS.match(asked):
        raise ConfigError(REMOTE_ENV, asked, "must be s3://bucket or s3://bucket/prefix")
    return asked.rstrip("/")


def add_remote(config: configparser.ConfigParser) -> None:
    """Name R1_REMOTE in DVC's settings, so that `dvc pull` in a checkout needs no more than the AWS_* variables.

    Nothing secret is written: s3fs reads endpoint and credentials from the environment, as boto3 does.
    """
    address = remote_address()
    if address is None:
        return
    sections = {"core": {"remote": "r1"}, "'remote \"r1\"'": {"url": address, "verify": "true"}}
    for section, options in sections.items():
        if not config.has_section(section):
            config.add_section(section)
        for name, value in options.items():
            config.set(section, name, value)


def remote_command(verb: str, *arguments: str) -> list[str]:
    """The command line of `pipeline_lib.orchestration.remote`, of this checkout wherever it runs."""
    return command_of("pipeline_lib.orchestration.remote", verb, *arguments)
