"""docs/paper_map.md points at things that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from pipeline_lib.params import compose

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")
TARGET = re.compile(r"`([\w./-]+\.(?:py|yaml)):([\w.]+)`")
TARGETS = sorted(set(TARGET.findall(PAGE)))


def _names(tree: ast.Module | ast.ClassDef) -> dict[str, ast.AST]:
    found: dict[str, ast.AST] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
        elif isinstance(node, ast.Assign):
            found.update({target.id: node for target in node.targets if isinstance(target, ast.Name)})
    return found


@pytest.mark.parametrize(("file", "name"), TARGETS)
def test_target_exists(file, name):
    path = ROOT / file
    assert path.is_file(), f"{file} does not exist"
    if path.suffix == ".yaml":
        node = yaml.safe_load(path.read_text(encoding="utf-8"))
        for key in name.split("."):
            assert isinstance(node, dict), f"{file} has no {name}"
            assert key in node, f"{file} has no {name}"
            node = node[key]
        return
    tree: ast.AST = ast.parse(path.read_text(encoding="utf-8"))
    for part in name.split("."):
        names = _names(tree)
        assert part in names, f"{file} defines no {name}"
        tree = names[part]


def test_every_row_has_a_target():
    rows = [
        line
        for line in PAGE.splitlines()
        if line.startswith("| ") and not line.startswith(("| what |", "| stage |", "| item |"))
    ]
    assert len(rows) > 80
    for row in rows:
        assert TARGET.search(row), row


FACTS = ROOT.parent / "shared" / "reference" / "r1_facts.md"
CALLED = {
    "3 rejection sampling + SFT": "3 rejection sampling",
    "SFT (stages 1, 3)": "SFT, stages 1 and 3",
}
"""What the map calls a row of the facts by another name."""
SECTIONS = {
    "The four stages and what stands around them": "The stages",
    "Hyperparameters": "Hyperparameters",
    "What the lesson says a reader should see happen": "What the lesson says a reader should see",
}
"""A section of the facts, and of the map."""
SENTENCES = {
    "Accuracy on hard problems": "accuracy rises",
    "response length grows": "length grows",
    'an "aha" jump': 'an "aha" jump',
    "without being demonstrated": "appear undemonstrated",
    "variance falls": "variance within a group falls",
    "PPO needs 2×": "PPO 2×",
    "Results table": "results table",
    "R1-Zero against R1": "R1-Zero against R1",
    "PPO, DPO": "lineage: PPO",
    "self-consistency": "lineage: self-consistency",
    "DAPO (clip bias": "lineage: DAPO",
    "Left open: language mixing": "left open: language mixing",
    "no process rewards": "left open: no process rewards",
    "reward hacking": "left open: reward hacking",
    "R1-Zero progression": "figure: R1-Zero's progression",
    "GRPO advantages of one group": "figure: advantages of one group",
    "emergent-behaviour timeline": "figure: timeline of behaviours",
    "pipeline visualiser": "figure: pipeline",
    "model-comparison dashboard": "figure: model comparison",
}
"""What the facts' last section says in sentences, and its row."""
NOT_IN_THE_CODE = {
    "DPO": "DPO",
    "process reward models": "process reward models",
    "o1": "o1",
    "SFT against RL": "SFT against RL",
    "GRPO simulator": "GRPO\nsimulator",
    "lineage timeline": "lineage timeline",
}
"""What the page says that the code leaves out: named, with the reason, below its table."""


def _section(page: str, heading: str) -> str:
    assert f"\n## {heading}\n" in page, heading
    return page.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def _first_cells(text: str) -> list[str]:
    return [
        line.split("|")[1].strip()
        for line in text.splitlines()
        if line.startswith("| ") and not line.startswith(("| what |", "| stage |", "| item |"))
    ]


@pytest.fixture(scope="module")
def facts() -> str:
    if not FACTS.is_file():
        pytest.skip(f"{FACTS} is not here: it is handed out beside the project, not inside it")
    return FACTS.read_text(encoding="utf-8")


def test_every_section_of_the_facts_has_one_here(facts):
    assert re.findall(r"^## (.+)$", facts, re.MULTILINE) == list(SECTIONS)


@pytest.mark.parametrize(("theirs", "ours"), list(SECTIONS.items())[:2])
def test_every_row_of_the_facts_has_a_row_of_the_same_section(facts, theirs, ours):
    wanted, rows = _first_cells(_section(facts, theirs)), _first_cells(_section(PAGE, ours))
    assert len(wanted) >= 6
    assert [item for item in wanted if not any(row.startswith(CALLED.get(item, item)) for row in rows)] == []


def test_every_sentence_of_the_lesson_has_a_row(facts):
    theirs, ours = list(SECTIONS.items())[2]
    said = " ".join(_section(facts, theirs).split())
    rows = _first_cells(_section(PAGE, ours))
    assert [sentence for sentence in (*SENTENCES, *NOT_IN_THE_CODE) if sentence not in said] == []
    assert [row for row in SENTENCES.values() if not any(row in shown for shown in rows)] == []
    left_out = PAGE.split("Not in the code, and so in no row:")[1].split("\n\n")[0]
    assert [name for name in NOT_IN_THE_CODE.values() if name not in left_out] == []


def test_the_cost_row_names_what_computes_hours_and_dollars():
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| cost |")]
    assert {"tasks/plan.py", "pipeline_lib/capacity.py"} <= {file for file, _ in TARGET.findall(row)}


V2 = {
    "train_r1_zero.group_size": 16,
    "train_r1_zero.clip_low": 10.0,
    "train_r1_zero.clip_high": 10.0,
    "train_r1_zero.kl_coef": 0.001,
    "train_r1_zero.kl_estimator": "k3",
    "train_r1_zero.learning_rate": 3e-6,
    "train_r1_zero.temperature": 1.0,
    "train_r1_zero.max_new_tokens": 32_768,
    "train_r1_zero.rewards.format": 1.0,
    "train_reasoning_rl.rewards.language": 1.0,
    "train_all_task_rl.temperature": 0.7,
    "train_reward_models.batch_size": 256,
    "train_reward_models.learning_rate": 6e-6,
    "train_reward_models.epochs": 1,
    "train_reward_models.max_tokens": 8_192,
    "train_general_sft.learning_rate": 5e-5,
    "train_general_sft.final_lr_ratio": 0.1,
    "train_general_sft.batch_size": 128,
    "train_general_sft.max_tokens": 32_768,
    "train_general_sft.epochs": 2,
    "collect_cold_start.temperature": 1.0,
    "sample_rejections.general_problems": 177_812,
    "prepare_problems.decontamination_ngram": 10,
    "select_hard_problems.drop_above": 0.9,
    "engine.world_size": 512,
    "evaluate.samples": None,
}
LESSON = {"clip_low": 0.2, "clip_high": 0.2, "rewards.accuracy": 1.0, "rewards.format": 0.1}
STUDENTS = {
    "qwen2.5-1.5b": 1e-4,
    "qwen2.5-math-7b": 8e-5,
    "qwen2.5-14b": 7e-5,
    "qwen2.5-32b": 6e-5,
    "llama3.1-8b": 5e-5,
    "llama3.3-70b": 2e-5,
}
SUITES = {
    "aime_2024": 64,
    "gpqa_diamond": 64,
    "math_500": 16,
    "codeforces": 16,
    "livecodebench": 8,
}


def _at(tree, dotted):
    for key in dotted.split("."):
        tree = tree[key]
    return tree


@pytest.mark.parametrize("key", V2)
def test_the_deepseek_profile_holds_the_reports_value(key):
    assert _at(compose("deepseek-v3", root=ROOT), key) == V2[key]


@pytest.mark.parametrize("stage", ["train_r1_zero", "train_reasoning_rl", "train_all_task_rl"])
def test_the_deepseek_profile_reuses_a_rollout_as_the_report_does(stage):
    section = compose("deepseek-v3", root=ROOT)[stage]
    assert section["problems_per_step"] * section["group_size"] == 8_192
    assert section["problems_per_step"] // section["minibatches"] == 32
    assert section["reference_refresh_steps"] * section["minibatches"] == 400


def test_the_deepseek_profile_takes_the_reports_optimizer_steps():
    """Stage 4's are a multiple of 16 minibatches, the next below; stage 2's are this project's own."""
    tree = compose("deepseek-v3", root=ROOT)
    steps = {
        stage: tree[stage]["steps"] * tree[stage]["minibatches"]
        for stage in ("train_r1_zero", "train_all_task_rl")
    }
    assert steps == {"train_r1_zero": 10_400, "train_all_task_rl": 1_696}
    assert tree["train_all_task_rl"]["general_last_steps"] * 16 == 400


@pytest.mark.parametrize("key", LESSON)
def test_the_default_holds_the_lessons_value(key):
    assert _at(compose("micro", root=ROOT)["train_r1_zero"], key) == LESSON[key]


def test_students_learn_at_the_reports_rates():
    assert compose("deepseek-v3", root=ROOT)["distill"]["students"] == list(STUDENTS)
    for name, rate in STUDENTS.items():
        student = yaml.safe_load((ROOT / f"profiles/students/{name}.yaml").read_text(encoding="utf-8"))
        assert student["learning_rate"] == rate
        assert (student["batch_size"], student["max_tokens"], student["final_lr_ratio"]) == (64, 32_768, 0.1)


def test_suites_sample_as_the_report_does():
    for name, samples in SUITES.items():
        path = ROOT / f"pipeline_lib/evaluation/suites/{name}.yaml"
        sampling = yaml.safe_load(path.read_text(encoding="utf-8"))["sampling"]
        assert sampling == {
            "samples": samples,
            "temperature": 0.6,
            "top_p": 0.95,
            "max_new_tokens": 32_768,
        }


def test_every_algorithm_file_is_on_the_page():
    for file in (ROOT / "pipeline_lib" / "algorithms").glob("*.py"):
        helper = file.stem in ("__init__", "masks", "policy", "surrogate")
        assert helper or f"algorithms/{file.name}" in PAGE, file.name
