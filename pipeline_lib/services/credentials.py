"""Passwords and keys that are drawn once per checkout and readable by their owner only.

They lie below `.run/secrets` (mode 0700, files 0600), which git ignores. Programs get them through their environment or
standard input, never on a command line; nothing here prints one.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path


def folder(root: Path) -> Path:
    """Return the directory of the checkout's secrets, made if need be."""
    path = root / ".run" / "secrets"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def drawn(file: Path) -> str:
    """Return the secret in `file`, drawing it the first time: 64 characters that need no quoting in a URL."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_private(file, secrets.token_urlsafe(48))
    return file.read_text(encoding="utf-8")


def fernet_key(file: Path) -> str:
    """Return the key Airflow encrypts connections with (32 bytes, base64), drawing it the first time."""
    if not file.is_file():
        write_private(file, base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
    return file.read_text(encoding="utf-8")


def passwords(file: Path, names: Iterable[str]) -> dict[str, str]:
    """Return name -> password from a JSON file; whoever is missing there gets one."""
    known: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    missing = [name for name in names if name not in known]
    if missing:
        known.update({name: secrets.token_urlsafe(18) for name in missing})
        write_private(file, json.dumps(known, indent=2) + "\n")
    return known


def write_env_file(file: Path, values: Mapping[str, str]) -> None:
    """Write NAME=value lines for a shell's `set -a; . FILE` or systemd's EnvironmentFile."""
    write_private(file, "".join(f"{name}={value}\n" for name, value in values.items()))


def write_private(file: Path, text: str) -> None:
    """Write a file that nobody else can read, not even while it is being written."""
    temporary = file.with_name(f".{file.name}.new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as handle:
        handle.write(text)
    os.replace(temporary, file)
