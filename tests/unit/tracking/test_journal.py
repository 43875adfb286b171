"""The journal: nothing is lost, nothing is logged twice, a torn line harms only itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline_lib.tracking.journal import Cursor, Journal, journals


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "train_r1_zero+1.journal")


def test_events_come_back_in_order_with_offsets(journal: Journal) -> None:
    journal.append("start", {"stage": "x"})
    journal.append("tags", {"tags": {"a": "b"}})
    read = list(journal.read(0))
    assert [event.kind for event, _ in read] == ["start", "tags"]
    assert read[-1][1] == journal.size()
    assert [event.kind for event, _ in journal.read(read[0][1])] == ["tags"]


def test_a_resumed_job_does_not_log_its_replayed_steps_again(journal: Journal) -> None:
    for step in range(5):
        journal.append_metrics({"accuracy": step / 10}, step)
    resumed = Journal(journal.path)
    for step in range(3, 8):
        resumed.append_metrics({"accuracy": step / 10}, step)
    steps = [event.body["step"] for event in journal.events()]
    assert steps == list(range(8))


def test_a_new_key_at_an_old_step_is_logged(journal: Journal) -> None:
    journal.append_metrics({"accuracy": 0.1}, 0)
    journal.append_metrics({"accuracy": 0.1, "length": 7.0}, 0)
    assert journal.events()[1].body["metrics"] == {"length": 7.0}


def test_a_torn_line_is_skipped_and_the_next_event_survives(journal: Journal) -> None:
    journal.append("start", {})
    with journal.path.open("ab") as handle:
        handle.write(b'{"kind": "metr')
    assert [event.kind for event in journal.events()] == ["start"]
    journal.append("end", {"status": "FINISHED"})
    assert [event.kind for event in journal.events()] == ["start", "end"]


def test_an_unfinished_line_is_not_delivered_yet(journal: Journal) -> None:
    journal.append("start", {})
    offset = journal.size()
    with journal.path.open("ab") as handle:
        handle.write(json.dumps({"kind": "tags", "time_ms": 1}).encode())
    assert list(journal.read(offset)) == []


def test_kept_files_survive_their_original(journal: Journal, tmp_path: Path) -> None:
    original = tmp_path / "table.json"
    original.write_text("{}")
    kept = journal.keep(original)
    original.unlink()
    assert kept.name == "table.json"
    assert kept.read_text() == "{}"
    journal.remove()
    assert not kept.exists()


def test_cursor_is_kept_beside_the_journal(journal: Journal) -> None:
    assert journal.cursor() == Cursor()
    journal.write_cursor(Cursor(offset=3, run_id="r", error="away"))
    assert Journal(journal.path).cursor() == Cursor(offset=3, run_id="r", error="away")


def test_journals_are_listed_oldest_first(tmp_path: Path) -> None:
    for name in ("b+2", "a+3", "evaluate@qwen2.5-1.5b+1"):
        (tmp_path / f"{name}.journal").touch()
    assert [j.path.stem for j in journals(tmp_path)] == ["evaluate@qwen2.5-1.5b+1", "b+2", "a+3"]
