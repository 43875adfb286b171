"""Published data sets as problems: one function for each layout, a row in, a `Problem` out.

A layout reads the columns under the names its authors gave them (checked against the files: GSM8K, SVAMP,
HumanEval; from the data cards: MATH-500, AIME, GPQA, MMLU, LiveCodeBench, Codeforces). A row that no verifier here
can judge (a Codeforces problem with a checker of its own) gives None.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from typing import Any

from pipeline_lib.data.identity import content_id, share_texts
from pipeline_lib.errors import DataError
from pipeline_lib.types import Domain, Problem, Split

Row = Mapping[str, Any]
RowLayout = Callable[[Row], Problem | None]

_CALCULATOR = re.compile(r"<<[^>]*>>")


def _text(row: Row, *names: str) -> str:
    """The first of the named columns (any letter case) as text. Raises DataError when there is none."""
    lowered = {key.lower(): value for key, value in row.items()}
    for name in names:
        value = lowered.get(name.lower())
        if value is not None and str(value).strip():
            return str(value).strip()
    raise DataError(f"column {names[0]!r} is missing or empty (has {', '.join(row)})")


def gsm8k(row: Row) -> Problem:
    """GSM8K: `question`, `answer` ending in `#### n`; the worked solution becomes the reference."""
    question, answer = _text(row, "question"), _text(row, "answer")
    worked, mark, number = answer.rpartition("####")
    if not mark:
        raise DataError("column 'answer' has no '#### <number>' at its end")
    return Problem(
        id=content_id("gsm8k", question),
        domain=Domain.MATH,
        prompt=question,
        answer=number.strip().replace(",", ""),
        reference=_CALCULATOR.sub("", worked).strip() or None,
        category="word_problem",
        source="gsm8k",
        licence="MIT",
    )


def svamp(row: Row) -> Problem:
    """SVAMP: `Body`, `Question`, a float `Answer`, `Type`, `ID`."""
    value = float(_text(row, "Answer"))
    return Problem(
        id=f"svamp-{_text(row, 'ID')}",
        domain=Domain.MATH,
        prompt=f"{_text(row, 'Body')} {_text(row, 'Question')}",
        answer=str(int(value)) if value.is_integer() else str(value),
        category=_text(row, "Type").lower(),
        source="svamp",
        licence="MIT",
    )


def humaneval(row: Row) -> Problem:
    """HumanEval: `prompt` (signature and docstring), `canonical_solution`, `test` (a `check` function)."""
    prompt, entry_point = _text(row, "prompt"), _text(row, "entry_point")
    return Problem(
        id=_text(row, "task_id").lower().replace("/", "-"),
        domain=Domain.CODE,
        prompt=f"Complete this Python function. Answer with the whole function.\n\n{prompt}",
        tests=_humaneval_tests(_text(row, "test"), entry_point),
        entry_point=entry_point,
        # Not stripped: the first line of the body is indented.
        reference=str(row["prompt"]) + str(row["canonical_solution"]),
        category="function",
        source="humaneval",
        licence="MIT",
    )


def _humaneval_tests(program: str, entry_point: str) -> tuple[str, ...]:
    """One test for each assert of `check(candidate)`; the whole program as one test where it does more than assert."""
    check = next(
        (
            node
            for node in ast.parse(program).body
            if isinstance(node, ast.FunctionDef) and node.name == "check"
        ),
        None,
    )
    if check is None:
        raise DataError("column 'test' defines no function `check`")
    if not all(isinstance(node, ast.Assert) for node in check.body):
        return (f"{program}\n\ncheck({entry_point})\n",)
    rename = _Rename("candidate", entry_point)
    tests = [ast.unparse(rename.visit(node)) for node in check.body]
    return tuple(test for test in tests if entry_point in test)


class _Rename(ast.NodeTransformer):
    """Replace one variable's name by another."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """The name itself, or the new one."""
        return ast.Name(self.new, node.ctx) if node.id == self.old else node


def math(row: Row) -> Problem:
    """MATH-500 and AIME: `problem`, `answer`, and where given `solution`, `subject`, `unique_id`."""
    prompt = _text(row, "problem", "question")
    return Problem(
        id=content_id("math", prompt),
        domain=Domain.MATH,
        prompt=prompt,
        answer=_text(row, "answer"),
        reference=str(row.get("solution") or row.get("Solution") or "") or None,
        category=str(row.get("subject") or "competition").lower(),
        source="math",
        licence="MIT",
    )


_LETTERS = "ABCDEFGHIJ"


def _choice(
    question: str, choices: list[str], right: int, source: str, category: str, licence: str
) -> Problem:
    """A multiple-choice question; its answer is a letter."""
    listed = "\n".join(f"{letter}) {text}" for letter, text in zip(_LETTERS, choices, strict=False))
    return Problem(
        id=content_id(source, question + listed),
        domain=Domain.GENERAL,
        prompt=f"{question}\n{listed}\nAnswer with the letter of the right choice.",
        answer=_LETTERS[right],
        category=category,
        source=source,
        licence=licence,
    )


def gpqa(row: Row) -> Problem:
    """GPQA: `Question`, `Correct Answer`, `Incorrect Answer 1..3`. The right one's place follows from the question."""
    question = _text(row, "Question")
    wrong = [_text(row, f"Incorrect Answer {number}") for number in (1, 2, 3)]
    place = int(content_id("", question).removeprefix("-"), 16) % 4
    choices = [*wrong[:place], _text(row, "Correct Answer"), *wrong[place:]]
    return _choice(question, choices, place, "gpqa", "choice", "CC-BY-4.0")


def mmlu(row: Row) -> Problem:
    """MMLU: `question`, `choices` (a list), `answer` (an index), `subject`."""
    choices = [str(choice) for choice in row.get("choices") or []]
    right = int(_text(row, "answer"))
    if not 0 <= right < len(choices) <= len(_LETTERS):
        raise DataError(f"column 'answer' = {right} is no index into the {len(choices)} 'choices'")
    return _choice(_text(row, "question"), choices, right, "mmlu", str(row.get("subject") or "choice"), "MIT")


def problems(row: Row) -> Problem:
    """Our own layout (pipeline_lib/data/schema.py)."""
    fields = dict(row)
    try:
        fields["domain"] = Domain(fields["domain"])
        fields["split"] = Split(fields.get("split", "train"))
        fields["tests"] = tuple(fields.get("tests") or ())
        return Problem(**share_texts(fields))
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"not our problem layout: {error}") from error


def layouts() -> dict[str, RowLayout]:
    """Every layout by the name that parameters use."""
    from pipeline_lib.data import programming_layouts as programming

    return {
        "gsm8k": gsm8k,
        "svamp": svamp,
        "humaneval": humaneval,
        "math": math,
        "gpqa": gpqa,
        "mmlu": mmlu,
        "livecodebench": programming.livecodebench,
        "codeforces": programming.codeforces,
        "problems": problems,
    }
