"""A second host on this machine: a network namespace of its own, joined to this one by a cable that both see as `veth`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TwoHosts:
    """This host and another one; both are this one where namespaces may not be made."""

    near: str = "127.0.0.1"
    far: str = "127.0.0.1"
    inside: tuple[str, ...] = ()
    """What makes a command run on the far host."""


@contextmanager
def two_hosts() -> Iterator[TwoHosts]:
    """Two hosts with addresses of their own (root only; others get this host twice). Nothing outside the machine sees them."""
    if os.geteuid() != 0:
        yield TwoHosts()
        return
    number = os.getpid()
    name, network = f"r1-{number}", f"10.231.{number % 250}"
    _ip("netns", "add", name)
    try:
        _ip("link", "add", f"ra{number}", "type", "veth", "peer", "name", f"rb{number}", "netns", name)
        _ip("addr", "add", f"{network}.1/24", "dev", f"ra{number}")
        _ip("link", "set", f"ra{number}", "up")
        _ip("-n", name, "addr", "add", f"{network}.2/24", "dev", f"rb{number}")
        _ip("-n", name, "link", "set", f"rb{number}", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        # `ip netns exec` would hide /sys/fs/cgroup, which slurmd reads.
        yield TwoHosts(f"{network}.1", f"{network}.2", ("nsenter", f"--net=/run/netns/{name}"))
    finally:
        with suppress(subprocess.CalledProcessError):  # it goes with the namespace otherwise
            _ip("link", "del", f"ra{number}")
        _ip("netns", "del", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
