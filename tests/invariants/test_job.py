"""What a reinforcement-learning job does on every step, seen from outside: real jobs of the tiny world."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline_lib.training.agreement import EDGES
from tests.unit.training.tiny import build_world, finish_job, grpo_spec


@pytest.fixture
def world(tmp_path: Path) -> Path:
    build_world(tmp_path)
    return tmp_path


def test_steps_without_signal_are_skipped_counted_and_warned_about(world, capfd):
    spec = grpo_spec(steps=2, rewards={"accuracy": 0.0, "format": 0.0})
    finish_job(world, spec, prepare=_write_what_is_logged)
    said = capfd.readouterr().err
    for step in (0, 1):
        assert f"warning: step {step}: no group has any signal; the step is skipped" in said
    with (world / "plot.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["skipped_step"]) for row in rows] == [1.0, 1.0]
    # Nothing was compared, so no difference may be claimed, in the plot or in MLflow.
    for row in rows + [json.loads(line) for line in (world / "logged.jsonl").read_text().splitlines()]:
        assert float(row["logprobs_compared"]) == 0.0
        assert not [name for name in row if name.startswith("logprob_diff")]
    assert json.loads((world / "job" / "result.json").read_text())["skipped_steps"] == 2
    before, after = (world / f"models/{name}/model.safetensors" for name in ("base", "r1_zero"))
    assert after.read_bytes() == before.read_bytes()


def _write_what_is_logged() -> None:
    from pipeline_lib.training.context import JobContext

    def log(self, row, step):
        with open("logged.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({**row, "at": step}) + "\n")

    JobContext.log = log


def test_every_step_logs_how_far_sampler_and_trainer_are_apart(world):
    finish_job(world, grpo_spec(steps=3, algorithm="dr_grpo"), prepare=_write_what_is_logged)
    rows = [json.loads(line) for line in (world / "logged.jsonl").read_text().splitlines()]
    assert [row["at"] for row in rows] == [0, 1, 2]
    for row in rows:
        assert row["skipped_step"] == 0.0
        assert row["logprobs_compared"] == row["trained_tokens"] > 0
        shares = [row[f"logprob_diff_above_{edge:g}"] for edge in EDGES]
        assert shares == sorted(shares, reverse=True)
        assert 0.0 <= row["logprob_diff_mean"] <= row["logprob_diff_max"] < 1e-3
        assert shares[-1] == 0.0


def _write_what_samples() -> None:
    from pipeline_lib.training.rollout_step import Sampler

    groups = Sampler.groups

    def recording(self, *args, **options):
        Path("sampled.json").write_text(
            json.dumps({**asdict(self.generator.switches), "judge_early": self.judge_early})
        )
        return groups(self, *args, **options)

    Sampler.groups = recording


def test_a_jobs_parameters_switch_every_fast_path_and_the_weights_stay(tmp_path):
    """Of sampling, and the KL at a coefficient of 0: those of learning besides are told apart in test_update."""
    trained, sampled, kl = [], [], []
    sampling = {"share_prompts": False, "drop_finished": False}
    off = {"switches": {"skip_kl": False}, "sampling_switches": sampling, "judge_early": False}
    for name, changed in (("on", {}), ("off", off)):
        root = tmp_path / name
        build_world(root)
        spec = replace(grpo_spec(steps=3), **changed)
        finish_job(root, spec, prepare=_write_what_samples)
        trained.append(load_file(root / "models/r1_zero/model.safetensors"))
        sampled.append(json.loads((root / "sampled.json").read_text()))
        with (root / "plot.csv").open(encoding="utf-8") as file:
            kl.append([float(row["kl"]) for row in csv.DictReader(file)])
    assert sampled == [dict.fromkeys((*sampling, "judge_early"), on) for on in (True, False)]
    assert kl[0] == [0.0] * 3
    assert kl[1][-1] > 0.0
    for weight, same in trained[0].items():
        torch.testing.assert_close(trained[1][weight], same, rtol=1e-4, atol=1e-5)


def test_the_job_that_other_tests_resume_and_repeat_learns(world):
    """Two runs that both learn nothing are equal whatever is broken."""
    finish_job(world, grpo_spec(steps=2))
    before, after = (world / f"models/{name}/model.safetensors" for name in ("base", "r1_zero"))
    assert after.read_bytes() != before.read_bytes()
