"""What an untrusted program is locked into, in the order the kernel wants it.

Once, in the fork server (`build_root`): its own mount namespace whose root is a small read-only tmpfs holding the
interpreter's standard library, an empty directory over its site-packages, and /dev/null. No /proc, no home, no repository.

For every program (`lock_down`), after a clone into new pid, mount, ipc, uts and network namespaces: a private
tmpfs, rlimits, an unprivileged uid with no capabilities, no-new-privs, Landlock, seccomp. Nothing here is optional: the
first piece that the kernel refuses raises, and no program runs.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass

from pipeline_lib.sandbox import kernel

WORKDIR = "/sandbox"
NOBODY = 65534
CHILD_NAMESPACES = (
    kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWNET
)
_SERVER_NAMESPACES = kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWNET
_READ_ONLY = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV


@dataclass(frozen=True, slots=True)
class Jail:
    """What the fork server prepared once and every program's lock-down uses."""

    stdlib: str
    landlock_abi: int
    seccomp: bytes


def build_root(stdlib: str) -> Jail:
    """Move this process into namespaces of its own and under a root that holds the standard library only.

    Raises:
        OSError: the kernel refused; the message names the piece.
    """
    abi = kernel.landlock_abi()
    program = kernel.seccomp_program()
    _own_namespaces()
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    library = kernel.detached_copy(stdlib)
    kernel.make_read_only(library, _READ_ONLY)
    null = kernel.detached_copy("/dev/null")
    base = "/tmp"  # any directory will do: it is covered in this namespace only
    kernel.mount("tmpfs", base, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=0755")
    os.makedirs(base + stdlib)
    os.makedirs(base + "/dev")
    os.makedirs(base + WORKDIR)
    os.close(os.open(base + "/dev/null", os.O_CREAT | os.O_WRONLY, 0o666))
    kernel.attach(library, base + stdlib)
    kernel.attach(null, base + "/dev/null")
    for hidden in ("site-packages", "dist-packages"):
        if os.path.isdir(f"{base}{stdlib}/{hidden}"):
            kernel.mount(
                "tmpfs",
                f"{base}{stdlib}/{hidden}",
                "tmpfs",
                kernel.MS_NOSUID | kernel.MS_NODEV,
                "size=4k,mode=0555",
            )
    kernel.enter_root(base)
    kernel.make_read_only("/", _READ_ONLY)
    return Jail(stdlib=stdlib, landlock_abi=abi, seccomp=program)


def _own_namespaces() -> None:
    """As root with CAP_SYS_ADMIN directly; as anyone else inside a user namespace of our own."""
    try:
        kernel.unshare(_SERVER_NAMESPACES, "unshare")
    except PermissionError:
        outside_uid, outside_gid = os.geteuid(), os.getegid()
        kernel.unshare(
            kernel.CLONE_NEWUSER | _SERVER_NAMESPACES,
            "unshare(user, mount, ipc, uts and network namespaces) (not root, so the kernel must allow user namespaces: "
            "user.max_user_namespaces > 0, kernel.unprivileged_userns_clone = 1, no AppArmor or container rule against them)",
        )
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{NOBODY} {outside_uid} 1")
        _write("/proc/self/gid_map", f"{NOBODY} {outside_gid} 1")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def lock_down(jail: Jail, *, cpu_seconds: int, memory_bytes: int, file_bytes: int, open_files: int) -> None:
    """Lock the calling process (fresh from `kernel.clone`) in, for good.

    Raises:
        OSError: the kernel refused; nothing untrusted may run.
    """
    kernel.set_hostname(b"sandbox")
    kernel.mount(
        "tmpfs",
        WORKDIR,
        "tmpfs",
        kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC,
        f"size={file_bytes},nr_inodes=256,mode=1777",
    )
    os.chdir(WORKDIR)
    for what, bound in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, open_files),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(what, (bound, bound))
    if os.geteuid() != NOBODY:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    kernel.drop_capabilities()
    kernel.bind_life_to_parent()
    kernel.restrict_files(
        {jail.stdlib: kernel.READ_ONLY, WORKDIR: kernel.READ_WRITE, "/dev/null": kernel.READ_WRITE_FILE},
        jail.landlock_abi,
    )
    kernel.install_seccomp(jail.seccomp)
