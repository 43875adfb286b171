"""The kernel calls a jail is built from, through ctypes: no compiled extension, no outside program.

Every call raises `OSError` with the call's name, so that a refusal says which piece is missing.
`PyDLL` keeps the interpreter lock across the call, which is what makes a raw `clone` safe in this one-thread process.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from dataclasses import dataclass

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
CLONE_PIDFD = 0x1000
SIGCHLD = 17
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x8, 0x4000, 0x40000
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 0x1, 0x2, 0x4
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = 1, 4
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_NR_OPEN_TREE, _NR_MOVE_MOUNT, _NR_CLOSE_RANGE, _NR_MOUNT_SETATTR = 428, 429, 436, 442
_NR_LANDLOCK_CREATE, _NR_LANDLOCK_ADD, _NR_LANDLOCK_RESTRICT = 444, 445, 446


@dataclass(frozen=True, slots=True)
class Machine:
    """What differs between processor families: three call numbers and the seccomp architecture tag."""

    clone: int
    pivot_root: int
    capset: int
    audit_arch: int
    allowed: tuple[int, ...]
    ioctl: int
    prlimit64: int


# The system calls a single-threaded interpreter needs to compute, import the standard library and use its own
# tmpfs. Not here, so refused with EPERM: sockets, clone/fork/exec, kill, mount, ptrace, memfd, symlinks, keys, io_uring.
_X86_64 = Machine(
    clone=56,
    pivot_root=155,
    capset=126,
    audit_arch=0xC000003E,
    allowed=(
        *(0, 1, 3, 5, 262, 4, 6, 332, 8),  # read write close fstat newfstatat stat lstat statx lseek
        *(9, 10, 11, 25, 12, 28),  # mmap mprotect munmap mremap brk madvise
        *(13, 14, 15, 131),  # rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack
        *(2, 257, 89, 267, 79, 217, 72),  # open openat readlink readlinkat getcwd getdents64 fcntl
        *(32, 33, 292, 22, 293),  # dup dup2 dup3 pipe pipe2
        *(39, 110, 186, 102, 107, 104, 108),  # getpid getppid gettid getuid geteuid getgid getegid
        *(228, 229, 96, 201, 318, 202, 24, 204),  # clocks time getrandom futex sched_yield sched_getaffinity
        *(60, 231, 98, 100, 63, 219),  # exit exit_group getrusage times uname restart_syscall
        *(
            83,
            258,
            87,
            263,
            84,
            82,
            264,
            316,
        ),  # mkdir mkdirat unlink unlinkat rmdir rename renameat renameat2
        *(77, 21, 269, 439, 80, 74, 17),  # ftruncate access faccessat faccessat2 chdir fsync pread64
        *(7, 271, 23, 270, 35, 230),  # poll ppoll select pselect6 nanosleep clock_nanosleep
    ),
    ioctl=16,
    prlimit64=302,
)
_AARCH64 = Machine(
    clone=220,
    pivot_root=41,
    capset=91,
    audit_arch=0xC00000B7,
    allowed=(
        *(63, 64, 57, 80, 79, 291, 62),
        *(222, 226, 215, 216, 214, 233),
        *(134, 135, 139, 132),
        *(56, 78, 17, 61, 25),
        *(23, 24, 59),
        *(172, 173, 178, 174, 175, 176, 177),
        *(113, 114, 169, 278, 98, 124, 123),
        *(93, 94, 165, 153, 160, 128),
        *(34, 35, 38, 276),
        *(46, 48, 439, 49, 82, 67),
        *(73, 72, 101, 115),
    ),
    ioctl=29,
    prlimit64=261,
)
_MACHINES = {"x86_64": _X86_64, "aarch64": _AARCH64}

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def machine() -> Machine:
    """This processor's table.

    Raises:
        OSError: no seccomp allow-list was written for it.
    """
    found = _MACHINES.get(platform.machine())
    if found is None or not os.uname().sysname == "Linux":
        raise OSError(f"seccomp: no allow-list for {os.uname().sysname} on {platform.machine()}")
    return found


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def unshare(flags: int, what: str) -> None:
    """unshare(2)."""
    _check(_libc.unshare(flags), what)


def clone(flags: int) -> tuple[int, int]:
    """fork(2) into new namespaces. Returns (pid, pidfd) in the parent, (0, -1) in the child."""
    pidfd = ctypes.c_int(-1)
    number = machine().clone
    pid = _libc.syscall(
        ctypes.c_long(number),
        ctypes.c_ulong(flags | CLONE_PIDFD | SIGCHLD),
        None,
        ctypes.byref(pidfd),
        None,
        None,
    )
    _check(pid, "clone (pid, mount, ipc, uts and network namespaces)")
    return (pid, pidfd.value) if pid else (0, -1)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    text = data.encode() or None
    _check(
        _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), text),
        f"mount {kind or source} on {target}",
    )


def detached_copy(path: str) -> int:
    """A read-only, detached copy of the mount tree below `path`, as a file descriptor."""
    fd = _check(
        _libc.syscall(
            ctypes.c_long(_NR_OPEN_TREE),
            _AT_FDCWD,
            path.encode(),
            ctypes.c_uint(_OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC),
        ),
        f"open_tree {path}",
    )
    return fd


def attach(fd: int, target: str) -> None:
    """Mount a detached tree at `target`."""
    _check(
        _libc.syscall(
            ctypes.c_long(_NR_MOVE_MOUNT),
            fd,
            b"",
            _AT_FDCWD,
            target.encode(),
            ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH),
        ),
        f"move_mount {target}",
    )


def make_read_only(target: int | str, attributes: int) -> None:
    """mount_setattr(2) on a path (that mount only) or on a detached tree (all of it)."""
    block = struct.pack("=QQQQ", attributes, 0, 0, 0)
    if isinstance(target, int):
        where, path, flags = target, b"", _AT_EMPTY_PATH | _AT_RECURSIVE
    else:
        where, path, flags = _AT_FDCWD, target.encode(), 0
    _check(
        _libc.syscall(
            ctypes.c_long(_NR_MOUNT_SETATTR),
            where,
            path,
            ctypes.c_uint(flags),
            block,
            ctypes.c_size_t(len(block)),
        ),
        f"mount_setattr {target}",
    )


def enter_root(path: str) -> None:
    """Make `path` the root and drop every other mount from view."""
    os.chdir(path)
    _check(_libc.syscall(ctypes.c_long(machine().pivot_root), b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "umount2 of the old root")
    os.chdir("/")


def close_from(first: int) -> None:
    """close_range(2): every descriptor from `first` up."""
    _check(
        _libc.syscall(
            ctypes.c_long(_NR_CLOSE_RANGE), ctypes.c_uint(first), ctypes.c_uint(0xFFFFFFFF), ctypes.c_uint(0)
        ),
        "close_range",
    )


def set_hostname(name: bytes) -> None:
    """sethostname(2), inside the UTS namespace."""
    _check(_libc.sethostname(name, ctypes.c_size_t(len(name))), "sethostname")


def drop_capabilities() -> None:
    """Empty the effective, permitted and inheritable sets."""
    header = struct.pack("=Ii", 0x20080522, 0)
    _check(_libc.syscall(ctypes.c_long(machine().capset), header, bytes(24)), "capset")


def bind_life_to_parent() -> None:
    """Die with the fork server, gain nothing by exec, and keep /proc and ptrace of this process to root."""
    _prctl(_PR_SET_PDEATHSIG, 9, "prctl(PDEATHSIG)")
    _prctl(_PR_SET_DUMPABLE, 0, "prctl(DUMPABLE)")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, "prctl(NO_NEW_PRIVS)")


def _prctl(option: int, value: int, what: str) -> None:
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero), what)


_FS_BITS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_FS_EXECUTE, _FS_WRITE, _FS_READ, _FS_READ_DIR = 1, 2, 4, 8
_FS_REMOVE_DIR, _FS_REMOVE_FILE, _FS_MAKE_DIR, _FS_MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_FS_TRUNCATE = 1 << 14
READ_ONLY = _FS_READ | _FS_READ_DIR
READ_WRITE_FILE = _FS_READ | _FS_WRITE
READ_WRITE = (
    READ_ONLY | _FS_WRITE | _FS_REMOVE_DIR | _FS_REMOVE_FILE | _FS_MAKE_DIR | _FS_MAKE_REG | _FS_TRUNCATE
)


def landlock_abi() -> int:
    """The kernel's Landlock version.

    Raises:
        OSError: Landlock is not built in or not enabled.
    """
    return _check(
        _libc.syscall(ctypes.c_long(_NR_LANDLOCK_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint(1)),
        "landlock_create_ruleset (the kernel needs CONFIG_SECURITY_LANDLOCK, and `landlock` in lsm=)",
    )


def restrict_files(grants: dict[str, int], abi: int) -> None:
    """Landlock: this process may reach `grants` (path -> rights) and no other file, and no TCP port."""
    handled = (1 << _FS_BITS_BY_ABI.get(abi, 16)) - 1
    attributes = struct.pack("=QQQ", handled, 0b11 if abi >= 4 else 0, 0b11 if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _check(
        _libc.syscall(
            ctypes.c_long(_NR_LANDLOCK_CREATE), attributes, ctypes.c_size_t(size), ctypes.c_uint(0)
        ),
        "landlock_create_ruleset",
    )
    for path, rights in grants.items():
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", rights & handled, parent)
        _check(
            _libc.syscall(ctypes.c_long(_NR_LANDLOCK_ADD), ruleset, 1, rule, ctypes.c_uint(0)),
            f"landlock_add_rule {path}",
        )
        os.close(parent)
    _check(
        _libc.syscall(ctypes.c_long(_NR_LANDLOCK_RESTRICT), ruleset, ctypes.c_uint(0)),
        "landlock_restrict_self",
    )
    os.close(ruleset)


_LD, _JEQ, _JGE, _RET = 0x20, 0x15, 0x35, 0x06
_RET_ALLOW, _RET_KILL = 0x7FFF0000, 0x80000000
_RET_EPERM = 0x00050000 | 1
_X32_BIT = 0x40000000
_HARMLESS_IOCTLS = (0x5401, 0x5450, 0x5451)  # TCGETS (isatty), FIONCLEX, FIOCLEX


def seccomp_program() -> bytes:
    """The allow-list as classic BPF. Refused calls return EPERM, a foreign architecture is killed."""
    table = machine()
    code: list[tuple[int, int, int, int]] = [
        (_LD, 0, 0, 4),
        (_JEQ, 1, 0, table.audit_arch),
        (_RET, 0, 0, _RET_KILL),
        (_LD, 0, 0, 0),
        (_JGE, 0, 1, _X32_BIT),
        (_RET, 0, 0, _RET_KILL),
    ]
    for number in table.allowed:
        code += [(_JEQ, 0, 1, number), (_RET, 0, 0, _RET_ALLOW)]
    # ioctl: the request (second argument, low word) must be harmless.
    code += [(_JEQ, 0, 2 + 2 * len(_HARMLESS_IOCTLS), table.ioctl), (_LD, 0, 0, 24)]
    for request in _HARMLESS_IOCTLS:
        code += [(_JEQ, 0, 1, request), (_RET, 0, 0, _RET_ALLOW)]
    code += [(_RET, 0, 0, _RET_EPERM)]
    # prlimit64: reading only, so the new-limit pointer (third argument, both words) must be null.
    code += [
        (_JEQ, 0, 5, table.prlimit64),
        (_LD, 0, 0, 32),
        (_JEQ, 0, 3, 0),
        (_LD, 0, 0, 36),
        (_JEQ, 0, 1, 0),
    ]
    code += [(_RET, 0, 0, _RET_ALLOW), (_RET, 0, 0, _RET_EPERM)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def install_seccomp(program: bytes) -> None:
    """Lock this process into `program`, for good. Needs no-new-privs."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    _check(
        _libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(2), header, ctypes.c_ulong(0), ctypes.c_ulong(0)),
        "prctl(SECCOMP) (the kernel needs CONFIG_SECCOMP_FILTER)",
    )
