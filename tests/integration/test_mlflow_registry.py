"""The registry against a real MLflow store and server: versions by reference, aliases moved by the rule."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from pipeline_lib.errors import DataError, StorageAway, StorageError
from pipeline_lib.evaluation.report import EvaluationReport, SuiteReport
from pipeline_lib.evaluation.statistics import Estimate
from pipeline_lib.registry.lineage import Lineage, model_lineage
from pipeline_lib.registry.promotion import read_policy
from pipeline_lib.registry.versions import Registered, prepare, register
from pipeline_lib.tracking.outputs import content_hash

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).resolve().parents[2]
POLICY = read_policy(PROJECT / "mlflow" / "registry_policy.yaml")
DVC_YAML = """
stages:
  prepare_base_model: {cmd: x, deps: [assets], outs: [models/base]}
  train_reasoning_rl: {cmd: x, deps: [models/base], outs: [models/reasoning_rl, data/rejections]}
  train_general_sft: {cmd: x, deps: [models/base, models/reasoning_rl, data/rejections], outs: [models/r1]}
  collect_distillation: {cmd: x, deps: [models/r1], outs: [data/distillation]}
  distill: {matrix: {student: [qwen-xs]}, cmd: x, deps: [data/distillation], outs: ['models/${item.student}']}
"""


def make_run(root: Path, weights: Mapping[str, str]) -> Path:
    """A directory as a run leaves it: models, dvc.yaml and a dvc.lock that agrees with them."""
    root.mkdir(exist_ok=True)
    (root / "dvc.yaml").write_text(DVC_YAML)
    stages = {"base": "prepare_base_model", "r1": "train_general_sft", "qwen-xs": "distill@qwen-xs"}
    lock = {}
    for model, content in weights.items():
        folder = root / "models" / model
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"w": torch.tensor(list(content.encode()))}, folder / "model.safetensors")
        lock[stages[model]] = {
            "cmd": "x",
            "deps": [{"path": "data/rejections", "md5": "dd.dir"}],
            "params": {"params.yaml": {"run": {"seed": 7}}},
            "outs": [{"path": f"models/{model}", "md5": content_hash(folder)}],
        }
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))
    return root


def evaluation(model: str, share: float) -> EvaluationReport:
    solved = round(share * 50)
    counts = [4] * solved + [0] * (50 - solved)
    rate = Estimate(share, share, share)
    suite = SuiteReport(
        "micro_math", 1, "Micro math", "reasoning", 50, 4, 1.0, 1.0, 128, rate, rate, rate,
        1.0, 1.0, 1.0, 0.0, 0.5, 0.1, 0.1, 30.0, 0.0, {"correct": sum(counts)}, {}, [str(i) for i in range(50)], counts,
    )  # fmt: skip
    return EvaluationReport(model, 7, {"micro_math": suite})


def register_run(root: Path, scores: Mapping[str, float]) -> dict[str, Registered]:
    lineages = [model_lineage(model, root) for model in scores]
    entries = prepare(lineages, {m: evaluation(m, s) for m, s in scores.items()}, POLICY, margin=0.0)
    done = register(entries, POLICY, root, prefix="deepseek-r1", margin=0.0)
    return dict(zip(scores, done, strict=True))


def test_a_pickle_in_one_model_stops_the_registration_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_run(tmp_path / "run", {"base": "b", "r1": "r"})
    monkeypatch.chdir(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    torch.save({"w": torch.zeros(1)}, root / "models/r1/pytorch_model.bin")
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    lock["stages"]["train_general_sft"]["outs"][0]["md5"] = content_hash(root / "models/r1")
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    with pytest.raises(DataError, match=r"pytorch_model\.bin may not be in a registered model"):
        register_run(root, {"base": 0.1, "r1": 0.9})
    assert not (tmp_path / "mlflow.db").exists()


def test_lineage_is_read_from_dvc(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", {"base": "b", "r1": "r", "qwen-xs": "q"})
    r1 = model_lineage("r1", root)
    assert (r1.stage, r1.parent, r1.teacher) == ("train_general_sft", "base", None)
    assert r1.deps == {"data/rejections": "dd.dir"}
    student = model_lineage("qwen-xs", root)
    assert (student.address, student.parent, student.teacher) == ("distill@qwen-xs", None, "r1")
    assert isinstance(student, Lineage)
    (root / "models/r1/model.safetensors").write_text("tampered")
    with pytest.raises(DataError, match=r"differs from what dvc\.lock records"):
        model_lineage("r1", root)
    with pytest.raises(DataError, match=r"no stage of dvc\.yaml writes it"):
        model_lineage("unknown", root)


def test_the_first_good_model_is_champion_and_only_a_better_one_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline_lib.tracking.client import open_client

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("R1_PIPELINE_RUN", "one")
    first = make_run(tmp_path / "one", {"base": "b", "r1": "r"})
    done = register_run(first, {"base": 0.2, "r1": 0.7})
    assert done["base"].decision is None
    assert done["r1"].decision is not None
    assert (done["r1"].against, done["r1"].decision.promote) == ("base", True)
    client = open_client(uri, first)
    champion = client.get_model_version_by_alias("deepseek-r1-r1", "champion")
    assert champion.tags["content_hash"] == content_hash(first / "models/r1")
    assert champion.source == f"dvc://models/r1/{champion.tags['content_hash']}"
    assert {champion.tags[key] for key in ("pipeline_run", "model", "parent", "stage")} == {
        "one",
        "r1",
        "base",
        "train_general_sft",
    }
    assert "Against base: promoted." in champion.description
    assert "champion" not in client.get_registered_model("deepseek-r1-base").aliases

    assert register_run(first, {"base": 0.2, "r1": 0.7})["r1"].version == done["r1"].version, (
        "registered once"
    )

    monkeypatch.setenv("R1_PIPELINE_RUN", "two")
    worse = register_run(make_run(tmp_path / "two", {"base": "b", "r1": "worse"}), {"base": 0.2, "r1": 0.5})[
        "r1"
    ]
    assert worse.decision is not None
    assert not worse.decision.promote
    assert "version 1, the champion" in worse.against
    aliases = client.get_registered_model("deepseek-r1-r1").aliases
    assert {name: str(version) for name, version in aliases.items()} == {"champion": "1", "candidate": "2"}

    monkeypatch.setenv("R1_PIPELINE_RUN", "three")
    register_run(make_run(tmp_path / "three", {"base": "b", "r1": "better"}), {"base": 0.2, "r1": 0.95})
    aliases = client.get_registered_model("deepseek-r1-r1").aliases
    assert {name: str(version) for name, version in aliases.items()} == {"champion": "3", "candidate": "3"}


@pytest.mark.parametrize(
    ("status", "body", "exit_code"),
    [
        (502, b"<html>bad gateway</html>", 1),
        (503, b'{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "the database starts"}', 1),
        (429, b"<html>too many</html>", 1),
        (401, b"<html>log in</html>", 2),
        (403, b'{"error_code": "PERMISSION_DENIED", "message": "not yours"}', 2),
        (400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "no such name"}', 2),
    ],
)
def test_a_server_that_cannot_answer_now_is_tried_again_and_one_that_refuses_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, exit_code: int
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    root = make_run(tmp_path / "run", {"base": "b"})
    try:
        with pytest.raises(StorageError, match="did not register the models") as caught:
            register_run(root, {"base": 0.2})
    finally:
        server.shutdown()
        server.server_close()
    assert caught.value.exit_code == exit_code


def test_a_server_takes_the_references_and_its_absence_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("R1_PIPELINE_RUN", "served")
    root = make_run(tmp_path / "run", {"base": "b", "r1": "r"})
    with pytest.raises(StorageAway, match="did not register the models"):
        register_run(root, {"base": 0.2, "r1": 0.7})
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
         "--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--default-artifact-root", str(tmp_path / "a")],
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(900):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        assert register_run(root, {"base": 0.2, "r1": 0.7})["r1"].version == "1"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
