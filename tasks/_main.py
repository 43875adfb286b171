"""What every stage's entry point shares: arguments, parameters, the MLflow run, errors as exit codes.

A stage is `python -m tasks.<stage> [item]`. Its body receives a `StageContext` and makes one library
call. Heavy imports happen inside the body, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.errors import ConfigError, PipelineError, StorageError
from pipeline_lib.startup import quick_end, wait_briefly

if TYPE_CHECKING:
    from pydantic import BaseModel

    from pipeline_lib.params import Params
    from pipeline_lib.tracking import StageRun


@dataclass(frozen=True)
class StageContext:
    """What a stage's body works with."""

    stage: str
    item: str | None
    params: Params
    run: StageRun
    root: Path
    """The worktree the stage runs in; every path of the pipeline is relative to it."""

    @property
    def section(self) -> Any:
        """The stage's own section of params.yaml."""
        return getattr(self.params, self.stage)

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write reports/metrics/<stage>[-item].json (hashed by DVC: no times) and log the numbers to MLflow."""
        from pipeline_lib.storage.atomic import write_json

        name = self.stage if self.item is None else f"{self.stage}-{self.item}"
        write_json(self.root / "reports" / "metrics" / f"{name}.json", metrics)
        self.run.log_metrics(
            {f"final/{key}": float(value) for key, value in flatten(metrics) if is_number(value)}
        )


def run_stage(
    stage: str,
    body: Callable[[StageContext], None],
    *,
    inputs: Sequence[str] = (),
    takes_item: str | None = None,
) -> None:
    """Parse arguments, load parameters, open the MLflow run, call `body`; exit with the error's code.

    Args:
        stage: The stage's name: DVC stage, params section, Airflow task id and MLflow run name.
        body: The stage.
        inputs: Data paths (relative, `{item}` allowed) recorded as MLflow datasets with their hashes.
        takes_item: For a matrix stage, what one item is (`student`, `model`); None otherwise.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m tasks.{stage}", description=sys.modules[body.__module__].__doc__
    )
    if takes_item:
        parser.add_argument("item", metavar=takes_item)
    arguments = parser.parse_args()
    item: str | None = getattr(arguments, "item", None)
    wait_briefly()
    with quick_end():
        _run_to_its_code(stage, item, body, [path.format(item=item) for path in inputs])


def _run_to_its_code(
    stage: str, item: str | None, body: Callable[[StageContext], None], inputs: list[str]
) -> None:
    """Run the stage; an error that says what is wrong becomes a line and an exit code."""
    name = stage if item is None else f"{stage}@{item}"
    try:
        _run(stage, item, body, inputs)
    except PipelineError as error:
        _leave(name, error.exit_code, str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            _record(name, 1, repr(error))
            raise
        where = error.filename or "the disk"
        _leave(
            name,
            StorageError.exit_code,
            f"no space left while writing {where}; free space and start the stage again, nothing is lost",
        )
    except BaseException as error:
        _record(name, 1, f"{type(error).__name__}: {error}")
        raise


def _run(stage: str, item: str | None, body: Callable[[StageContext], None], inputs: list[str]) -> None:
    from pipeline_lib.params import load_params

    root = Path.cwd()
    params = load_params(root / "params.yaml")
    for path in inputs:
        if not (root / path).exists():
            raise ConfigError(
                "input", path, f"does not exist; run `dvc repro {stage}` so that the stages before it make it"
            )
    from pipeline_lib.orchestration.integrity import refuse_damaged_inputs

    refuse_damaged_inputs(root, stage, item)
    section: BaseModel = getattr(params, stage)
    if item is not None and item in params.students:
        section = params.students[item]

    from pipeline_lib.tracking import stage_run

    logged = {
        "run": params.run.model_dump(),
        "engine": params.engine.model_dump(),
        stage: section.model_dump(),
    }
    with stage_run(stage, item, params=dict(flatten(logged)), inputs=[root / path for path in inputs]) as run:
        body(StageContext(stage, item, params, run, root))


def _leave(name: str, code: int, message: str) -> None:
    _record(name, code, message)
    print(f"{name}: {message}", file=sys.stderr, flush=True)
    raise SystemExit(code)


def _record(name: str, code: int, message: str) -> None:
    """Tell the orchestrator why (it only sees dvc's own exit code): the file named by R1_EXIT_FILE."""
    target = os.environ.get("R1_EXIT_FILE")
    if target:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_text(
            json.dumps({"stage": name, "exit_code": code, "error": message}), encoding="utf-8"
        )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """{"a": {"b": 1}} -> [("a.b", 1)]."""
    rows: list[tuple[str, Any]] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        rows.extend(flatten(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)])
    return rows


def is_number(value: object) -> bool:
    """True for int and float, not for bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


__all__ = ["StageContext", "flatten", "run_stage"]
