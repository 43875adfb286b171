"""Run one stage on a machine that has only the image, git and S3; or publish the state that such a machine starts from.

    python -m tasks.run_on_node --publish <stage>                       in a run's worktree: prints the git ref to start from
    python - --git <url> --revision <ref> <stage> < tasks/run_on_node.py     on the node: fetch, run, push

On the node this file needs nothing but Python and git until the revision is checked out; the rest is that revision's own
code. R1_REMOTE and the AWS_* variables name the store. What the stage reads is fetched by the hashes of the revision's dvc.lock, its outs and
its run go back, and the exit code is the stage's own. Whoever runs the stage next, anywhere, restores it.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

EXIT_BAD_INPUT = 2


def main() -> None:
    """Publish, fetch and go on in the checkout, or (`--here`) run in it; exit with the stage's code."""
    parser = argparse.ArgumentParser(prog="python -m tasks.run_on_node", description=__doc__)
    parser.add_argument("stage", help="as DVC names it: train_r1_zero, distill@qwen-xs")
    parser.add_argument("--publish", action="store_true", help="push this worktree's state; print its ref")
    parser.add_argument("--git", metavar="URL", help="the repository (with --publish: a remote or a URL)")
    parser.add_argument("--revision", help="branch or ref, as --publish printed it")
    parser.add_argument("--folder", type=Path, default=Path("r1-node"), help="repository, cache, checkouts")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.publish:
        publish(arguments.stage, arguments.git or "origin")
    elif arguments.here:
        raise SystemExit(run_here(arguments.stage, arguments.folder))
    elif not arguments.git or not arguments.revision:
        parser.error("--git and --revision say where the stage comes from")
    else:
        check_out(arguments.git, arguments.revision, arguments.stage, arguments.folder.resolve())


def publish(stage: str, remote: str) -> None:
    """Push the worktree's state and print what a node needs to know of it."""
    from pipeline_lib.errors import PipelineError
    from pipeline_lib.orchestration.snapshot import publish_snapshot
    from pipeline_lib.tracking.locations import pipeline_run

    root = Path.cwd()
    try:
        snapshot = publish_snapshot(root, pipeline_run(root), stage, remote)
    except PipelineError as error:
        raise SystemExit(_say(f"{stage}: {error}", error.exit_code)) from None
    print(snapshot.ref)


def check_out(url: str, revision: str, stage: str, folder: Path) -> None:
    """Fetch one revision into `folder` and go on as a program of that revision; does not return."""
    folder.mkdir(parents=True, exist_ok=True)
    repository = folder / "git"
    with (folder / "git.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not repository.is_dir():
            _git(folder, "init", "--quiet", "--bare", str(repository))
        _git(repository, "fetch", "--quiet", "--depth", "1", "--no-tags", "--", url, revision)
        commit = _git(repository, "rev-parse", "FETCH_HEAD")
        checkout = folder / "checkouts" / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', stage)}-{commit[:16]}"
        if not (checkout / ".git").exists():
            _git(repository, "worktree", "add", "--quiet", "--force", "--detach", str(checkout), commit)
    os.chdir(checkout)
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    if run := re.match(r"refs/r1/([^/]+)/", revision):
        environment.setdefault("R1_PIPELINE_RUN", run[1])
    program = [sys.executable, "-m", "tasks.run_on_node", "--here", "--folder", str(folder), stage]
    os.execve(sys.executable, program, environment)


def run_here(stage: str, folder: Path) -> int:
    """Run the stage in this checkout with the node's own DVC cache; returns its exit code."""
    from pipeline_lib.errors import ConfigError, PipelineError
    from pipeline_lib.orchestration.checkpoint_sync import CheckpointSync
    from pipeline_lib.orchestration.detached import log_path
    from pipeline_lib.orchestration.remote_settings import REMOTE_ENV, remote_address
    from pipeline_lib.orchestration.runner import StageFailed, StageRun
    from pipeline_lib.orchestration.worktree import use_cache

    root = Path.cwd()
    log = log_path(root, stage)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)

    def tell(line: str) -> None:
        print(line, flush=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    try:
        remote = remote_address()
        if remote is None:
            raise ConfigError(
                REMOTE_ENV, None, "a node has nothing else to read from; set s3://bucket/prefix"
            )
        use_cache(root, folder / "cache")
        running = StageRun(root, stage)

        def stop(_signal: int, _frame: FrameType | None) -> None:
            # In a thread: whoever reads the stage's last words must go on reading them.
            threading.Thread(target=running.stop).start()

        signal.signal(signal.SIGTERM, stop)
        with CheckpointSync(root, stage, remote, tell):
            result = running.wait(tell)
    except StageFailed as failure:
        return _say(str(failure), failure.exit_code if failure.exit_code > 0 else 128 - failure.exit_code)
    except PipelineError as error:
        return _say(f"{stage}: {error}", error.exit_code)
    print(f"{stage}: {result.how.value} in {result.seconds:.1f} s", flush=True)
    return 0


def _git(where: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=where,
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        why = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise SystemExit(_say(f"git {arguments[0]}: {why[-1]}", EXIT_BAD_INPUT))
    return done.stdout.strip()


def _say(line: str, code: int) -> int:
    print(line, file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    main()
