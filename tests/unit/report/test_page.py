"""The page: complete, one file, safe with hostile text, the same bytes twice."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline_lib.algorithms.advantages import zscore
from pipeline_lib.errors import DataError
from pipeline_lib.params import Params
from pipeline_lib.report.load import load_report_data
from pipeline_lib.report.names import text
from pipeline_lib.report.page import PARTS, render
from pipeline_lib.report.results import results_tree
from pipeline_lib.report.svg import Bar, Series, bar_chart, line_chart
from pipeline_lib.report.training import advantages, whole_groups

VOID = ("meta", "link", "br")


class Checker(HTMLParser):
    """Fails on a tag that is never closed, and collects what the page would load and its anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.scripts += tag == "script"
        self.loads += [
            v for k, v in values.items() if k in ("src", "href") and v and not v.startswith(("#", "data:"))
        ]
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


@pytest.mark.parametrize("percent", [True, False])
def test_a_chart_whose_every_value_is_zero_is_drawn(percent: bool) -> None:
    """SmolLM2 never mixes languages: all bars zero, which once ended the report of a whole run."""
    bars = bar_chart([Bar("base", 0.0, 0.0, 0.0), Bar("r1", 0.0)], percent=percent)
    lines = line_chart([Series("kl", [(0.0, 0.0), (1.0, 0.0)])], percent=percent)
    assert bars.count('class="bar') == 2
    assert "nan" not in bars + lines


@pytest.fixture(scope="module")
def page(run_root: Path, run_params: Params) -> str:
    return render(load_report_data(run_root, run_params))


def test_the_page_is_one_well_formed_file_with_every_part(page: str) -> None:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.loads == []
    assert checker.scripts == 1
    assert "url(" not in page
    assert "@import" not in page
    for anchor, title, _, _ in PARTS:
        assert anchor in checker.ids
        assert text(title) in page
    assert len(checker.ids) == len(set(checker.ids))


def test_no_part_is_empty_for_a_complete_run(page: str) -> None:
    assert 'class="empty"' not in page


def test_text_of_models_is_never_markup(page: str) -> None:
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_the_same_run_gives_the_same_bytes(run_root: Path, run_params: Params, page: str) -> None:
    assert render(load_report_data(run_root, run_params)) == page
    assert not re.search(r"20\d\d-\d\d-\d\d", page)
    assert str(run_root) not in page


def test_the_table_holds_every_model_and_suite(run_root: Path, run_params: Params) -> None:
    data = load_report_data(run_root, run_params)
    tree = results_tree(data.evaluations)
    assert list(tree["models"]) == list(run_params.evaluate.models)
    score = tree["models"]["r1"]["micro_math"]
    assert score["low"] <= score["pass@1"] <= score["high"] <= 1
    assert {"pass@1", "low", "high", "pass@4", "cons@4"} == set(score)
    assert "cons@4" not in tree["models"]["r1"]["micro_general"]
    assert tree["summary"]["r1"]["general_score"] > tree["summary"]["r1_zero"]["general_score"]


def test_lineage_shows_what_came_before_the_report_only(run_root: Path, run_params: Params) -> None:
    assert load_report_data(run_root, run_params).hashes == {
        "data/problems": "aa.dir",
        "models/r1_zero": "bb.dir",
    }


def test_advantages_are_the_trainers(run_root: Path, run_params: Params) -> None:
    import torch

    groups = whole_groups(load_report_data(run_root, run_params).rollouts["train_r1_zero"])
    assert [len(group) for group in groups] == [16, 16]
    rewards = [row.reward for row in groups[0]]
    expected = zscore(torch.tensor([rewards], dtype=torch.float64), torch.ones(1, 16, dtype=torch.bool))
    assert advantages(rewards) == pytest.approx(expected[0].tolist())


def test_a_missing_evaluation_is_named(run_root: Path, run_params: Params) -> None:
    path = run_root / "reports/evaluation/r1.json"
    kept = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(DataError, match=r"repro evaluate@r1"):
            load_report_data(run_root, run_params)
    finally:
        path.write_bytes(kept)
