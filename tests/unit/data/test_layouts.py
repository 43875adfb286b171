"""Published layouts, read as they are: by hand-made rows here, and the real files where they are at hand."""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle  # noqa: TID251 - makes what the authors of LiveCodeBench publish
import zlib
from pathlib import Path

import pytest

from pipeline_lib.data.layouts import layouts
from pipeline_lib.data.published import PublishedOptions, read_published
from pipeline_lib.errors import ConfigError, DataError
from pipeline_lib.types import Domain

SHARED = Path(os.environ.get("R1_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))


def _read(layout: str, row: dict) -> object:
    return layouts()[layout](row)


def test_gsm8k_takes_the_number_after_the_hashes() -> None:
    problem = _read(
        "gsm8k", {"question": " How many? ", "answer": "1000+200=<<1000+200=1200>>1200\n#### 1,200"}
    )
    assert (problem.answer, problem.reference, problem.prompt) == ("1200", "1000+200=1200", "How many?")


def test_svamp_joins_body_and_question() -> None:
    row = {"Body": "Two cats.", "Question": "Legs?", "Answer": 8.0, "Type": "Multiplication", "ID": "chal-1"}
    problem = _read("svamp", row)
    assert (problem.id, problem.prompt, problem.answer) == ("svamp-chal-1", "Two cats. Legs?", "8")
    assert _read("svamp", {**row, "Answer": "0.5"}).answer == "0.5"


def test_humaneval_gives_one_test_for_each_assert() -> None:
    row = {
        "task_id": "HumanEval/7",
        "prompt": 'def f(x):\n    """Double."""\n',
        "entry_point": "f",
        "canonical_solution": "    return 2 * x\n",
        "test": "METADATA = {}\n\ndef check(candidate):\n    assert candidate(1) == 2\n    assert True\n    assert candidate(0) == 0\n",
    }
    problem = _read("humaneval", row)
    assert problem.id == "humaneval-7"
    assert problem.tests == ("assert f(1) == 2", "assert f(0) == 0")
    assert problem.reference == 'def f(x):\n    """Double."""\n    return 2 * x\n'


def test_humaneval_keeps_a_check_that_loops_whole() -> None:
    test = "def check(candidate):\n    for x in range(3):\n        assert candidate(x) == 2 * x\n"
    row = {
        "task_id": "HumanEval/1",
        "prompt": "def f(x):\n",
        "entry_point": "f",
        "canonical_solution": " return 2*x",
    }
    problem = _read("humaneval", {**row, "test": test})
    assert len(problem.tests) == 1
    assert problem.tests[0].endswith("check(f)\n")


def test_math_reads_both_spellings() -> None:
    one = _read("math", {"problem": "x?", "answer": r"\frac{1}{2}", "subject": "Algebra", "unique_id": "t/1"})
    two = _read("math", {"ID": "2024-I-1", "Problem": "y?", "Answer": 204, "Solution": "so"})
    assert (one.answer, one.category) == (r"\frac{1}{2}", "algebra")
    assert (two.answer, two.reference) == ("204", "so")


def test_choices_are_letters_and_do_not_give_the_answer_away() -> None:
    problem = _read(
        "mmlu",
        {"question": "Sky?", "choices": ["red", "blue", "green", "black"], "answer": 1, "subject": "s"},
    )
    assert problem.answer == "B"
    assert "B) blue" in problem.prompt
    places = set()
    for number in range(40):
        row = {"Question": f"q{number}", "Correct Answer": "right"}
        row |= {f"Incorrect Answer {n}": f"wrong{n}" for n in (1, 2, 3)}
        problem = _read("gpqa", row)
        assert f"{problem.answer}) right" in problem.prompt
        places.add(problem.answer)
    assert places == set("ABCD")


def _packed(cases: list[dict]) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def test_livecodebench_reads_hidden_tests_without_running_a_pickle() -> None:
    row = {
        "question_id": "q1",
        "question_content": "Add.",
        "public_test_cases": json.dumps([{"input": "[1, 2]\n3", "output": "true", "testtype": "functional"}]),
        "private_test_cases": _packed([{"input": "[]\n0", "output": "null", "testtype": "functional"}]),
        "starter_code": "class Solution:\n    def add(self, xs, y): ...",
        "metadata": json.dumps({"func_name": "add"}),
    }
    problem = _read("livecodebench", row)
    assert problem.tests == (
        "assert Solution().add([1, 2], 3) == True",
        "assert Solution().add([], 0) == None",
    )
    stdin = {**row, "metadata": "{}", "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n"}])}
    assert _read("livecodebench", {**stdin, "private_test_cases": "[]"}).tests == (
        "assert solve('1 2\\n').split() == ['3']",
    )
    evil = base64.b64encode(zlib.compress(pickle.dumps(os.system))).decode()
    with pytest.raises(DataError, match="more than one text"):
        _read("livecodebench", {**row, "private_test_cases": evil})


def test_codeforces_leaves_out_what_needs_a_checker() -> None:
    row = {"id": "1/A", "description": "d", "input_format": "i", "output_format": "o", "rating": 800}
    row["official_tests"] = [{"input": "1\n", "output": "2\n"}]
    problem = _read("codeforces", row)
    assert (problem.id, problem.tests) == ("codeforces-1-A", ("assert solve('1\\n').split() == ['2']",))
    assert _read("codeforces", {**row, "generated_checker": "print(1)"}) is None


@pytest.mark.parametrize(
    ("name", "content", "layout", "message"),
    [
        (
            "a.jsonl",
            '{"question": "q", "answer": "#### 1"}\n{"question": "q"}\n',
            "gsm8k",
            "row 1: column 'answer'",
        ),
        ("a.jsonl", '{"question": "q", "answer": "17"}\n', "gsm8k", "row 0: column 'answer' has no '#### "),
        (
            "a.jsonl",
            '{"question": "q", "answer": "#### 1"}\n{"quest',
            "gsm8k",
            "row 1 is not readable as jsonl",
        ),
        ("a.jsonl", "[1, 2]\n", "gsm8k", "row 0 is a list"),
        ("a.jsonl", "", "gsm8k", "the file is empty"),
        ("a.csv", "question,choices,answer\nq,,x\n", "mmlu", "row 0: ValueError"),
        ("a.txt", "x", "gsm8k", "cannot tell its format"),
        ("a.parquet", "x", "gsm8k", "row 0 is not readable as parquet"),
    ],
)
def test_a_bad_file_is_named_with_its_row(
    tmp_path: Path, name: str, content: str, layout: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_published(tmp_path / name, PublishedOptions(layout=layout))
    assert str(tmp_path / name) in str(caught.value)


def test_an_unknown_layout_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"known: codeforces, gpqa"):
        read_published(tmp_path / "x.jsonl", PublishedOptions(layout="gsm9k"))


def test_a_file_that_is_not_the_one_named_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "q", "answer": "#### 1"}\n')
    with pytest.raises(DataError, match="sha256"):
        read_published(tmp_path / "a.jsonl", PublishedOptions(layout="gsm8k", sha256="0" * 64))


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no published data sets in {SHARED} (set R1_SHARED_DATA)")
@pytest.mark.parametrize(
    ("name", "layout", "count", "domain"),
    [
        ("gsm8k_train.jsonl", "gsm8k", 7473, Domain.MATH),
        ("gsm8k_test.jsonl", "gsm8k", 1319, Domain.MATH),
        ("svamp_test.jsonl", "svamp", 1000, Domain.MATH),
        ("HumanEval.jsonl.gz", "humaneval", 164, Domain.CODE),
    ],
)
def test_the_real_files(name: str, layout: str, count: int, domain: Domain) -> None:
    problems = read_published(SHARED / name, PublishedOptions(layout=layout))
    assert len(problems) == count == len({problem.id for problem in problems})
    assert {problem.domain for problem in problems} == {domain}
    assert all(problem.answer or problem.tests for problem in problems)


def test_gzip_csv_and_parquet_hold_the_same_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {"question": "How many, then?", "answer": "so\n#### 3"}
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as stream:
        stream.write(json.dumps(row) + "\n")
    (tmp_path / "a.json").write_text(json.dumps([row]))
    (tmp_path / "a.csv").write_text('question,answer\n"How many, then?","so\n#### 3"\n')
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    read = [
        read_published(tmp_path / name, PublishedOptions(layout="gsm8k"))
        for name in ("a.jsonl.gz", "a.json", "a.csv", "a.parquet")
    ]
    assert read[0] == read[1] == read[2] == read[3]
    assert read[0][0].answer == "3"
