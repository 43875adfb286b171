"""What a stage does with R1_REMOTE: fetch before it runs, push after it, keep its logs. A program of its own.

    python -m pipeline_lib.orchestration.remote fetch <stage>        in the stage's worktree, before it runs
    python -m pipeline_lib.orchestration.remote push <stage>         when it is done: its outs, and its logs
    python -m pipeline_lib.orchestration.remote logs <stage>         when it failed
    python -m pipeline_lib.orchestration.remote restore <stage>…     outs that a run reads and does not compute; without R1_REMOTE too
    python -m pipeline_lib.orchestration.remote get <object address> <path>

A process, because DVC and boto3 have no place in an Airflow worker, the credentials are in the stage's environment
alone, and a group of processes can be stopped for certain. Exit codes are those of `pipeline_lib.errors`; the reason is
one line on standard error that begins with `REMOTE: `.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_lib.errors import ConfigError, PipelineError, StorageError
from pipeline_lib.orchestration.dvc_remote import DvcRemote, Run
from pipeline_lib.orchestration.remote_settings import ERROR_MARK, REMOTE_ENV, remote_address
from pipeline_lib.tracking.outputs import locked_stages

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo


def tell(line: str) -> None:
    """Say something to whoever watches the stage."""
    print(line, file=sys.stderr, flush=True)


def fetch(root: Path, address: str, remote: DvcRemote) -> None:
    """Bring what the stage reads and this worktree lacks, and the stage's outs if it was ever run anywhere.

    After it `dvc repro --single-item` restores the stage, or runs it. Raises StorageError, ConfigError.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            _fetch_deps(repo, root, address, remote)
            key = _key(repo, address)
    except DvcException as error:
        # DVC says the same, with its own exit code, when the stage is run a moment later.
        tell(f"{address}: nothing fetched: {error}")
        return
    for run in remote.fetch_runs(key) if key else ():
        try:
            came = remote.fetch(run.outs)
        except StorageError as error:
            if error.exit_code == 1:
                raise
            tell(f"warning: {address} was run before, but its outs cannot be fetched: {error}")
            continue
        remote.keep(run)
        if came:
            tell(f"{address}: was run before; {came} objects fetched from {remote.address}")
        return


def push(root: Path, address: str, remote: DvcRemote) -> None:
    """Send the stage's outs and its entry of the run-cache; nothing that is there already. Raises StorageError."""
    entry = locked_stages(root).get(address)
    if not entry:
        raise ConfigError("stage", address, "dvc.lock has no such stage; run it before it is pushed")
    if sent := remote.push(Run(entry)):
        tell(f"{address}: {sent} objects pushed to {remote.address}")


def restore(root: Path, addresses: Collection[str], remote: DvcRemote | None) -> None:
    """Check out the outs of these stages by the hashes of dvc.lock, after fetching what the cache lacks. Raises StorageError."""
    from dvc.exceptions import CheckoutError, DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo, _locked(root):
            outs = [out for stage in repo.index.stages if stage.addressing in addresses for out in stage.outs]
            wanted = [str(out.hash_info.value) for out in outs if out.use_cache and out.hash_info]
            if remote is not None and (came := remote.fetch(wanted)):
                tell(f"{came} objects that the DVC cache lacked fetched from {remote.address}")
            repo.checkout(targets=list(addresses), force=True)
    except CheckoutError as error:
        nowhere = "" if remote else f"; {REMOTE_ENV} is not set, so there is no other place to look"
        raise StorageError(
            f"the models or data of the run are not in the DVC cache{nowhere}: {_one_line(error)}"
        ) from error
    except DvcException as error:
        raise StorageError(f"dvc cannot restore {', '.join(addresses)}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def get_object(uri: str, path: Path, tell: Callable[[str], None]) -> None:
    """Write the file or directory of an object's address to `path`; a machine needs nothing but the address for it.

    Raises ConfigError for another address or a path that is taken, StorageError; see `DvcRemote.fetch`.
    """
    remote, _, name = uri.partition("/files/md5/")
    md5 = name.replace("/", "", 1)
    if not name:
        raise ConfigError("address", uri, "must be <remote>/files/md5/ab/cdef…, as a registered model has it")
    if path.exists():
        raise ConfigError("path", str(path), "is there already; choose another")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        store = DvcRemote(remote, Path(folder) / "cache", tell)
        store.fetch([md5])
        whole = Path(folder) / "whole"
        if md5.endswith(".dir"):
            for entry in json.loads(store.path_of(md5).read_bytes()):
                target = whole / str(entry["relpath"])
                if not target.resolve().is_relative_to(whole.resolve()):
                    raise StorageError(f"{uri}: the path {entry['relpath']!r} leaves the directory")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(store.path_of(str(entry["md5"])), target)
        else:
            shutil.copyfile(store.path_of(md5), whole)
        whole.rename(path)


def _fetch_deps(repo: Repo, root: Path, address: str, remote: DvcRemote) -> None:
    """Check out the outs of other stages that this one reads and that are absent, by the hashes of dvc.lock."""
    stage = repo.stage.load_one(name=address)
    with _locked(root):
        absent = [
            out
            for other in repo.index.stages
            if other is not stage and other.addressing != address
            for out in other.outs
            if out.use_cache and out.hash_info and not out.exists
            if any(_overlap(out, Path(dep.fs_path)) for dep in stage.deps)
        ]
        came = remote.fetch(str(out.hash_info.value) for out in absent)
        for out in absent:
            out.checkout()
    if came:
        tell(f"{address}: {came} objects that it reads fetched from {remote.address}")


def _overlap(out: Output, dep: Path) -> bool:
    path = Path(out.fs_path)
    return path.is_relative_to(dep) or dep.is_relative_to(path)


def _key(repo: Repo, address: str) -> str | None:
    """The stage's key in the run-cache, as DVC 3.67 computes it; None for a stage that it does not keep there."""
    from dvc.stage.cache import _can_hash, _get_stage_hash

    stage = repo.stage.load_one(name=address)
    stage.save_deps()
    return str(_get_stage_hash(stage)) if _can_hash(stage) else None


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Two stages of one worktree may lack the same file."""
    (root / ".run").mkdir(exist_ok=True)
    with (root / ".run" / "remote.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Do what the command line asks in the working directory; exit with the error's code."""
    parser = argparse.ArgumentParser(prog="python -m pipeline_lib.orchestration.remote", description=__doc__)
    parser.add_argument("verb", choices=("fetch", "push", "logs", "restore", "get"))
    parser.add_argument("what", help="a stage, or (get) an object's address")
    parser.add_argument(
        "more", nargs="*", help="restore: other stages; get: where the file or directory goes"
    )
    arguments = parser.parse_args()
    try:
        _do(arguments)
    except PipelineError as error:
        print(f"{ERROR_MARK}{error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None


def _do(arguments: argparse.Namespace) -> None:
    root, what = Path.cwd(), str(arguments.what)
    if arguments.verb == "get":
        if len(arguments.more) != 1:
            raise ConfigError("path", arguments.more or None, "say where the object goes: one path")
        get_object(what, Path(arguments.more[0]), tell)
        return
    address = remote_address()
    if arguments.verb != "logs":  # a failed stage's logs are kept whatever DVC makes of its remote
        remote = DvcRemote.of(root, address, tell) if address is not None else None
        if arguments.verb == "restore":
            restore(root, [what, *arguments.more], remote)
        elif remote is not None:
            act = fetch if arguments.verb == "fetch" else push
            act(root, what, remote)
    if arguments.verb in ("push", "logs"):
        _keep_logs(root, what)


def _keep_logs(root: Path, address: str) -> None:
    """Send the logs; a stage does not fail because its log could not be kept."""
    from pipeline_lib.orchestration.job_logs import upload_logs

    try:
        upload_logs(root, address, tell)
    except StorageError as error:
        tell(f"warning: {error} The log stays in .run/log/{address}.log.")


if __name__ == "__main__":
    main()
