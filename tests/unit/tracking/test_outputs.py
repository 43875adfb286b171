"""Our content hashes are DVC's, so a dvc.lock and an MLflow tag name the same bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline_lib.errors import DataError
from pipeline_lib.tracking.outputs import (
    combine_hashes,
    content_hash,
    declared_outputs,
    locked_hashes,
    locked_output_hash,
    output_hash,
)

PIPELINE = """
stages:
  make:
    cmd: >-
      {python} -c "import pathlib as p; d = p.Path('models/m'); (d / 'a').mkdir(parents=True);
      (d / 'a' / 'w.bin').write_bytes(b'12'); (d / 'a.txt').write_text('x'); (d / 'Z').write_text('中');
      p.Path('report.json').write_text('{{}}')"
    outs: [models/m, report.json]
"""


def test_hashes_equal_those_dvc_writes_to_its_lock(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(PIPELINE.format(python=sys.executable))
    dvc = [sys.executable, "-m", "dvc"]
    env = {"DVC_NO_ANALYTICS": "true", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    for command in (["init", "--no-scm", "-q"], ["repro", "-q"]):
        subprocess.run([*dvc, *command], cwd=tmp_path, check=True, env=env)
    locked = {
        o["path"]: o["md5"]
        for o in yaml.safe_load((tmp_path / "dvc.lock").read_text())["stages"]["make"]["outs"]
    }
    assert content_hash(tmp_path / "models/m") == locked["models/m"]
    assert content_hash(tmp_path / "report.json") == locked["report.json"]
    assert locked_hashes(tmp_path) == locked
    written = declared_outputs("make", None, tmp_path)
    assert (
        output_hash(written, tmp_path) == locked_output_hash("make", None, tmp_path) == combine_hashes(locked)
    )


def test_a_matrix_stage_has_its_own_outputs(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  evaluate:\n    matrix: {model: [base, r1]}\n    cmd: x\n"
        "    outs: ['reports/evaluation/${item.model}.json']\n"
    )
    assert declared_outputs("evaluate", "r1", tmp_path) == (Path("reports/evaluation/r1.json"),)
    assert declared_outputs("unknown", None, tmp_path) == ()


def test_the_output_hash_depends_on_path_and_content() -> None:
    one = combine_hashes({"a": "1", "b": "2"})
    assert one == combine_hashes({"b": "2", "a": "1"})
    assert one != combine_hashes({"a": "2", "b": "1"})
    assert one != combine_hashes({"a": "1", "b": "3"})


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="models/none"):
        content_hash(tmp_path / "models/none")
