"""Bad input, through the stage's own command: one clear line, exit code 2, and nothing lost (issue 2, acceptance 7).

Every case runs `python -m tasks.<stage>` in a folder of its own that holds params.yaml and what the stage reads. The full
disk is a real one: a tmpfs of 64 KiB in a mount namespace.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from pipeline_lib.data.schema import PROBLEMS
from pipeline_lib.errors import EXIT_BAD_INPUT, PipelineError
from pipeline_lib.params import compose

ROOT = Path(__file__).resolve().parents[2]
KEPT = "what an earlier run left"


def _folder(path: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """A folder with params.yaml; `changes` go in unchecked, as an editor would put them there."""
    tree = compose("micro", {}, root=ROOT)
    for dotted, value in (changes or {}).items():
        *sections, field = dotted.split(".")
        place = tree
        for section in sections:
            place = place[section]
        place[field] = value
    path.mkdir(exist_ok=True)
    (path / "params.yaml").write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    for name in ("profiles", "mlflow", "assets"):
        (path / name).symlink_to(ROOT / name)
    return path


def _stage(
    folder: Path, stage: str, *, before: tuple[str, ...] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the stage in `folder` as a person would."""
    return subprocess.run(
        [*before, sys.executable, "-m", f"tasks.{stage}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "R1_MLFLOW_LINGER": "0", **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _said(done: subprocess.CompletedProcess[str], stage: str, *, code: int = EXIT_BAD_INPUT) -> str:
    """The one line; fails for a traceback, for another exit code, and for more than one line about it."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith(f"{stage}: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prepare_base_model.sauce": "x"}, ["prepare_base_model.sauce", "unknown parameter"]),
        ({"train_r1_zero.steps": "many"}, ["train_r1_zero.steps", "many", "integer"]),
        ({"train_r1_zero.group_size": 1}, ["train_r1_zero.group_size", "1", "greater than or equal to 2"]),
        ({"distill.students": ["qwen-xs", "qwen-xs"]}, ["distill", "qwen-xs", "named twice"]),
    ],
    ids=["unknown parameter", "wrong type", "a group of one", "a student twice"],
)
def test_a_bad_parameter(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    folder = _folder(tmp_path / "run", changes)
    line = _said(_stage(folder, "prepare_base_model"), "prepare_base_model")
    assert all(word in line for word in words), line


def test_an_s3_that_is_not_there(tmp_path: Path) -> None:
    """Exit code 1, not 2: S3 may come back, so the stage is worth a retry, as bad input never is."""
    source = {
        "kind": "s3",
        "role": "train",
        "limit": None,
        "options": {"uri": "s3://r1/train.jsonl", "layout": "gsm8k"},
    }
    folder = _folder(tmp_path / "run", {"prepare_problems.sources": [source]})
    (folder / "data/problems").mkdir(parents=True)
    (folder / "data/problems/train.parquet").write_text(KEPT)
    done = _stage(
        folder,
        "prepare_problems",
        AWS_ENDPOINT_URL_S3="http://127.0.0.1:1",
        AWS_ACCESS_KEY_ID="someone",
        AWS_SECRET_ACCESS_KEY="do-not-print-me",  # pragma: allowlist secret (the test's own)
    )
    line = _said(done, "prepare_problems", code=PipelineError.exit_code)
    assert "http://127.0.0.1:1" in line
    assert "do-not-print-me" not in done.stdout + done.stderr
    assert (folder / "data/problems/train.parquet").read_text() == KEPT


def test_a_model_directory_without_weights(tmp_path: Path) -> None:
    hollow = tmp_path / "hollow"
    shutil.copytree(ROOT / "assets/micro/base", hollow, ignore=shutil.ignore_patterns("*.safetensors"))
    folder = _folder(
        tmp_path / "run", {"prepare_base_model.kind": "directory", "prepare_base_model.source": str(hollow)}
    )
    line = _said(_stage(folder, "prepare_base_model"), "prepare_base_model")
    assert str(hollow) in line
    assert "safetensors" in line
    assert not (folder / "models/base").exists()


def test_an_empty_problem_set(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "run")
    train = folder / "data/problems/train.parquet"
    train.parent.mkdir(parents=True)
    pq.write_table(PROBLEMS.schema.empty_table(), train)  # our own writer would refuse
    (folder / "models").mkdir()
    (folder / "models/base").symlink_to(ROOT / "assets/micro/base")
    line = _said(_stage(folder, "select_hard_problems"), "select_hard_problems")
    assert "data/problems/train.parquet" in line
    assert "is empty (0 rows)" in line


def test_a_full_disk(tmp_path: Path) -> None:
    """Whatever the stage was writing when the disk filled up, the file of an earlier run is still whole."""
    folder = tmp_path / "run"
    folder.mkdir()
    source = _folder(tmp_path / "source")
    mount = [
        f"mount -t tmpfs -o size=64k full {folder}",
        f"cp -P {source}/* {folder}/",
        f"mkdir -p {folder}/data/problems && echo -n '{KEPT}' > {folder}/data/problems/train.parquet",
        f"cd {folder}",
        '"$@"; code=$?; cat data/problems/train.parquet; find data -name ".*"; exit $code',
    ]
    own = ("unshare", "--mount") if os.getuid() == 0 else ("unshare", "--user", "--map-root-user", "--mount")
    done = _stage(
        source,
        "prepare_problems",
        before=(*own, "sh", "-c", "; ".join(mount), "sh"),
        MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db",
    )
    line = _said(done, "prepare_problems")
    assert "full" in line or "no space left" in line
    assert done.stdout == KEPT, "the earlier file is whole and no part of a new one is left"
