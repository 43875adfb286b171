"""`stage_run`: what a stage uses to tell MLflow about itself. Never blocks on the server, never imports MLflow.

A run is the same run after a crash: the journal of an unfinished stage with the same identity (pipeline run,
stage, item, parameters, input hashes) is continued, and steps it already holds are not logged again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from pipeline_lib.errors import Preempted
from pipeline_lib.tracking.journal import SUFFIX, Journal, journals
from pipeline_lib.tracking.locations import git_commit, journal_dir, link_name, pipeline_run, tracking_uri
from pipeline_lib.tracking.outputs import content_hash, declared_outputs, output_hash
from pipeline_lib.tracking.spawn import ensure_shipper

JOURNAL_ENV = "R1_MLFLOW_JOURNAL"
"""Path of the stage's journal, for the job processes the stage starts."""
FIRST_DELIVERY_S = 60.0
"""How long a stage waits at its end for a healthy shipper (MLflow's own import takes 4-8 s of CPU)."""
AWAY_S = 5.0
"""How long it waits for one that reports an error, before it warns and goes on."""


class StageRun:
    """A stage's MLflow run. Every method returns at once; the shipper delivers."""

    def __init__(self, journal: Journal, stage: str, item: str | None, root: Path) -> None:
        self.journal, self.stage, self.item, self.root = journal, stage, item, root

    @property
    def run_id(self) -> str:
        """MLflow's id of this run; waits for the shipper to create it. Empty while MLflow is out of reach."""
        self._await(lambda: bool(self.journal.cursor().run_id))
        return self.journal.cursor().run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers; a (key, step) that was logged before, also before a crash, is not logged again."""
        self.journal.append_metrics(metrics, step)

    def log_dataset(self, name: str, path: Path | str, context: str) -> None:
        """Record a file or directory as a dataset of the run, named by its DVC content hash.

        `context` says what it was for: input, training, evaluation, output. DataError when it does not exist.
        """
        digest = content_hash(self.root / path)
        self.journal.append(
            "dataset",
            {"name": name, "digest": digest, "source": _relative(path, self.root), "context": context},
        )

    def log_artifact(self, path: Path | str, folder: str = "") -> None:
        """Upload a file or directory; it is copied now, so it may change or vanish afterwards."""
        kept = self.journal.keep(self.root / path)
        self.journal.append("artifact", {"path": str(kept), "folder": folder})

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table that MLflow's UI shows and compares; it becomes the artifact `<name>.json`."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{name}.json"
            file.write_text(
                json.dumps(
                    {"columns": list(columns), "data": [list(row) for row in rows]}, ensure_ascii=False
                ),
                encoding="utf-8",
            )
            kept = self.journal.keep(file)
        self.journal.append("artifact", {"path": str(kept), "folder": "", "table": True})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run; a later value replaces an earlier one."""
        self.journal.append("tags", {"tags": {key: str(value) for key, value in tags.items()}})

    def finish(self, status: str, error: str = "") -> None:
        """End the run and wait, within bounds, until MLflow has it; warns when MLflow is out of reach."""
        hashed = ""
        if status == "FINISHED":
            outputs = [
                out
                for out in declared_outputs(self.stage, self.item, self.root)
                if (self.root / out).exists()
            ]
            hashed = output_hash(outputs, self.root) if outputs else ""
        self.journal.append("end", {"status": status, "output_hash": hashed, "error": error})
        size = self.journal.size()
        ensure_shipper(journal_dir(self.root))
        if not self._await(lambda: not self.journal.path.exists() or self.journal.cursor().offset >= size):
            reason = self.journal.cursor().error or "the shipper has not answered yet"
            print(
                f"warning: MLflow ({tracking_uri(self.root)}) did not take {link_name(self.stage, self.item)}: {reason}. "
                f"Nothing is lost: {self.journal.path} is delivered by the next stage, or by "
                "`python -m pipeline_lib.tracking.ship`.",
                file=sys.stderr,
            )

    def _await(self, done: Callable[[], bool]) -> bool:
        """Wait for `done()`: FIRST_DELIVERY_S at most, AWAY_S once the shipper reports an error."""
        start = time.monotonic()
        while not done():
            waited = time.monotonic() - start
            if waited > FIRST_DELIVERY_S or (waited > AWAY_S and self.journal.cursor().error):
                return False
            time.sleep(0.05)
        return True


@contextlib.contextmanager
def stage_run(
    stage: str, item: str | None = None, *, params: Mapping[str, Any], inputs: Sequence[Path] = ()
) -> Iterator[StageRun]:
    """Open (or continue) the MLflow run of a stage in the working directory and end it with the right status.

    Args:
        stage: The stage's name; with `item`, that of one element of a matrix.
        params: The stage's section of params.yaml, nested as it is; flattened to `a.b` for MLflow.
        inputs: Files and directories the stage reads; logged as datasets with their content hashes.
    """
    root = Path.cwd().resolve()
    name = link_name(stage, item)
    digests = {_relative(path, root): content_hash(root / path) for path in inputs}
    run_name = pipeline_run(root)
    identity = _identity(run_name, name, params, digests)
    journal, resumed = _open_journal(journal_dir(root), name, identity)
    run = StageRun(journal, stage, item, root)
    journal.append(
        "start",
        {
            "stage": stage,
            "item": item,
            "pipeline_run": run_name,
            "identity": identity,
            "uri": tracking_uri(root),
            "params": flatten(params),
            "tags": {"git_commit": git_commit(root), "dvc": _dvc_version(), "worktree": str(root)},
            **process_mark(),
        },
    )
    if not resumed:
        (journal_dir(root) / f"{name}.json").unlink(missing_ok=True)
        for path, digest in digests.items():
            journal.append("dataset", {"name": path, "digest": digest, "source": path, "context": "input"})
    ensure_shipper(journal_dir(root))
    before = os.environ.get(JOURNAL_ENV)
    os.environ[JOURNAL_ENV] = str(journal.path)
    try:
        yield run
    except Preempted as stop:
        run.finish("SCHEDULED", str(stop))
        raise
    except BaseException as error:
        run.finish("FAILED", (str(error).splitlines() or [type(error).__name__])[0][:500])
        raise
    else:
        run.finish("FINISHED")
    finally:
        if before is None:
            os.environ.pop(JOURNAL_ENV, None)
        else:
            os.environ[JOURNAL_ENV] = before


def attach_run() -> StageRun:
    """Return the stage's run inside a job process the stage started (JOURNAL_ENV); the stage ends it.

    RuntimeError when the process was not started by a stage.
    """
    path = os.environ.get(JOURNAL_ENV)
    if not path:
        raise RuntimeError(f"{JOURNAL_ENV} is not set: only a job that a stage started can attach to its run")
    journal = Journal(Path(path))
    journal.append("attach", process_mark())
    start = next(event for event in journal.events() if event.kind == "start")
    return StageRun(journal, start.body["stage"], start.body["item"], journal.path.parents[2])


def process_mark() -> dict[str, float]:
    """Return pid and start time, which together name a process for as long as the machine is up."""
    return {"pid": os.getpid(), "born": psutil.Process().create_time()}


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested parameters as `a.b -> text`; lists and null as JSON, at most 6,000 characters (MLflow's limit)."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        else:
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
            flat[name] = text[:6000]
    return flat


def _open_journal(folder: Path, name: str, identity: str) -> tuple[Journal, bool]:
    """Return the unfinished journal of the same identity, or a new one; second value: it is continued."""
    for journal in reversed(journals(folder)):
        if journal.path.stem.rpartition("+")[0] != name:
            continue
        events = journal.events()
        starts = [event for event in events if event.kind == "start"]
        ended = [event for event in events if event.kind == "end" and event.body["status"] == "FINISHED"]
        if starts and starts[-1].body["identity"] == identity and not ended:
            return journal, True
    folder.mkdir(parents=True, exist_ok=True)
    # The names give the order of the tries: a clock that was set back must not make the newest the oldest.
    newest = max((int(journal.path.stem.rpartition("+")[2]) for journal in journals(folder)), default=0)
    return Journal(folder / f"{name}+{max(time.time_ns(), newest + 1)}{SUFFIX}"), False


def _relative(path: Path | str, root: Path) -> str:
    """`path` as the pipeline names it: relative to the worktree where it lies inside."""
    full = root / path
    return full.relative_to(root).as_posix() if full.is_relative_to(root) else full.as_posix()


def _identity(run_name: str, name: str, params: Mapping[str, Any], digests: Mapping[str, str]) -> str:
    text = json.dumps([run_name, name, flatten(params), dict(digests)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _dvc_version() -> str:
    from importlib.metadata import version

    return version("dvc")
