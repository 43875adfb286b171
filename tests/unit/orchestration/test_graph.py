"""dvc.yaml as a stage graph."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline_lib.errors import ConfigError
from pipeline_lib.orchestration.graph import check_names, load_graph

PROJECT = Path(__file__).resolve().parents[3]

YAML = """
stages:
  pretrain: {cmd: x, outs: [assets: {cache: false}], frozen: true}
  prepare: {cmd: x, deps: [assets], outs: [data/x], metrics: [reports/prepare.json], meta: {group: data}}
  train: {cmd: x, desc: Trains., deps: [data/x/train.parquet], outs: [models/r1], meta: {group: rl, pool: gpu}}
  collect: {cmd: x, deps: ["models/${teacher.name}"], outs: [data/distillation]}
  distill:
    matrix: {student: "${distill.students}"}
    cmd: x
    deps: [data/distillation, "students/${item.student}.yaml"]
    outs: ["models/${item.student}"]
  evaluate:
    matrix: {model: [r1, small]}
    cmd: x
    deps: ["models/${item.model}", data]
    outs: ["reports/evaluation/${item.model}.json"]
  report: {cmd: x, deps: [reports], outs: [page.html]}
"""


@pytest.fixture
def graph(tmp_path: Path):
    (tmp_path / "dvc.yaml").write_text(YAML)
    (tmp_path / "params.yaml").write_text("teacher: {name: r1}\ndistill: {students: [small]}\n")
    return load_graph(tmp_path)


def test_edges_follow_paths(graph):
    assert graph.upstream == {
        "prepare": set(),
        "train": {"prepare"},
        "collect": {"train"},
        "distill": {"collect"},
        "evaluate": {"prepare", "train", "collect", "distill"},
        "report": {"prepare", "evaluate"},
    }
    assert graph.names == ("prepare", "train", "collect", "distill", "evaluate", "report")


def test_implied_edges_are_not_drawn(graph):
    assert graph.reduced_upstream("evaluate") == {"distill"}
    assert graph.reduced_upstream("report") == {"evaluate"}


def test_a_frozen_stage_is_no_task(graph):
    assert "pretrain" not in graph.names


def test_meta_and_doc(graph):
    assert (graph["train"].group, graph["train"].pool, graph["train"].doc) == ("rl", "gpu", "Trains.")


def test_matrix_values_come_from_the_runs_parameters(graph):
    distill = graph["distill"]
    assert distill.items({"distill": {"students": ["a", "b"]}}) == ("a", "b")
    assert graph["evaluate"].items({}) == ("r1", "small")
    assert distill.address("a") == "distill@a"
    with pytest.raises(ConfigError, match="needs a value"):
        distill.address()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "at least one"),
        ("small", "at least one"),
        (["a", "a"], "listed twice"),
        (["a;touch x"], "letters, digits"),
        (["../a"], "letters, digits"),
        (["-rf"], "letters, digits"),
        (["a\nb"], "letters, digits"),
        ([3], "letters, digits"),
    ],
)
def test_names_that_would_reach_a_shell_are_checked(values, words):
    with pytest.raises(ConfigError, match=words):
        check_names("students", values)


def test_a_circle_is_named(tmp_path: Path):
    (tmp_path / "dvc.yaml").write_text(
        "stages: {a: {cmd: x, deps: [y], outs: [x]}, b: {cmd: x, deps: [x], outs: [y]}}"
    )
    with pytest.raises(ConfigError, match="in a circle"):
        load_graph(tmp_path)


def test_a_missing_parameter_is_named(tmp_path: Path):
    (tmp_path / "dvc.yaml").write_text('stages: {a: {cmd: x, deps: ["m/${no.such}"], outs: [x]}}')
    with pytest.raises(ConfigError, match=r"no\.such"):
        load_graph(tmp_path)


def test_subgraph_keeps_only_the_edges_between(graph):
    small = graph.subgraph(["distill", "evaluate"])
    assert small.names == ("distill", "evaluate")
    assert small.upstream == {"distill": set(), "evaluate": {"distill"}}


def test_the_projects_graph_is_the_one_design_names():
    graph = load_graph(PROJECT)
    assert graph.ancestors("train_all_task_rl") >= {
        "train_general_sft",
        "train_reward_models",
        "train_r1_zero",
    }
    assert "train_student_rl" not in graph.ancestors("distill")
    assert graph["distill"].is_matrix
    assert graph["evaluate"].is_matrix
    assert graph.ancestors("report") >= {"evaluate", "distill", "train_student_rl"}
    assert graph.names[-1] == "register_models"
