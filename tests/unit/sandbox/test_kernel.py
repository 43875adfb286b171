"""The seccomp program, interpreted here instruction by instruction: what it allows and what it refuses."""

from __future__ import annotations

import errno
import functools
import platform
import struct

import pytest

from pipeline_lib.sandbox import kernel

ALLOW, KILL, EPERM = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="call numbers below are x86_64's")


@functools.cache
def _instructions() -> list[tuple[int, int, int, int]]:
    return list(struct.iter_unpack("=HBBI", kernel.seccomp_program()))


def _verdict(number: int, *arguments: int, arch: int = 0xC000003E) -> int:
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("=IIQ6Q", number, arch, 0, *padded)
    code = _instructions()
    accumulator = position = 0
    while True:
        operation, if_true, if_false, value = code[position]
        position += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif operation == 0x15:
            position += if_true if accumulator == value else if_false
        elif operation == 0x35:
            position += if_true if accumulator >= value else if_false
        else:
            return value


def test_every_number_but_the_listed_is_refused() -> None:
    special = {kernel.machine().ioctl, kernel.machine().prlimit64}
    for number in range(600):
        expected = ALLOW if number in kernel.machine().allowed else EPERM
        if number not in special:
            assert _verdict(number) == expected, number


@pytest.mark.parametrize(
    "number", [41, 53, 56, 57, 58, 59, 62, 101, 157, 165, 175, 272, 317, 319, 321, 425, 435]
)
def test_dangerous_calls_are_not_listed(number: int) -> None:
    assert _verdict(number) == EPERM


def test_foreign_architectures_are_killed() -> None:
    assert _verdict(0, arch=0x40000003) == KILL
    assert _verdict(0x40000000 | 41) == KILL


def test_limits_may_be_read_not_set() -> None:
    assert _verdict(302, 0, 9, 0) == ALLOW
    assert _verdict(302, 0, 9, 1) == EPERM
    assert _verdict(302, 0, 9, 1 << 32) == EPERM


def test_only_harmless_ioctls() -> None:
    assert _verdict(16, 0, 0x5401) == ALLOW
    assert _verdict(16, 0, 0x5412) == EPERM


def test_an_unknown_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="riscv64"):
        kernel.machine()
