"""Delivery of a journal to a run that another journal began. MLflow's client is a stub; the real store is in the integration tests."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline_lib.tracking.deliver import Delivery
from pipeline_lib.tracking.journal import Cursor, Journal


class History:
    """A client that knows the steps of one run's metric and keeps what is sent."""

    def __init__(self, steps: range) -> None:
        self.steps = steps
        self.sent: list[int] = []

    def get_metric_history(self, run_id: str, key: str) -> list[Any]:
        return [SimpleNamespace(step=step) for step in self.steps]

    def log_batch(self, run_id: str, metrics: list[Any]) -> None:
        self.sent += [metric.step for metric in metrics]


def test_a_new_shipper_sends_an_adopted_run_only_what_it_lacks(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "train_r1_zero.journal")
    for step in range(80, 103):
        journal.append_metrics({"accuracy": 0.1}, step)
    journal.write_cursor(Cursor(run_id="run", experiment_id="1", status="RUNNING", adopted=True))
    client: Any = History(range(101))
    Delivery(journal, tmp_path).deliver(client)
    assert client.sent == [101, 102]


def test_a_run_of_its_own_is_not_asked_for_its_history(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "train_r1_zero.journal")
    journal.append_metrics({"accuracy": 0.1}, 1)
    journal.write_cursor(Cursor(run_id="run", experiment_id="1", status="RUNNING"))
    client: Any = History(range(2))
    Delivery(journal, tmp_path).deliver(client)
    assert client.sent == [1]
