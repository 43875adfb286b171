"""Competition programming as problems: LiveCodeBench and Codeforces.

Most of these programs read standard input. Here the model is asked for `solve(stdin: str) -> str` instead, so that
one verifier judges every program: a test calls the function and compares words, as contest judges do.
"""

from __future__ import annotations

import base64
import json
import pickletools
import zlib
from collections.abc import Mapping
from typing import Any

from pipeline_lib.errors import DataError
from pipeline_lib.types import Domain, Problem

_STDIN_NOTE = "Write a Python function `solve(stdin: str) -> str` that takes the whole input and returns the whole output."


def _stdin_tests(cases: list[tuple[str, str]]) -> tuple[str, ...]:
    """Tests that compare the words of the output."""
    return tuple(f"assert solve({given!r}).split() == {wanted.split()!r}" for given, wanted in cases)


def livecodebench(row: Mapping[str, Any]) -> Problem | None:
    """LiveCodeBench: `question_content`, `public_test_cases`, `private_test_cases`, `starter_code`, `metadata`."""
    try:
        cases = [*json.loads(row["public_test_cases"]), *_private_cases(row["private_test_cases"])]
        name = json.loads(row.get("metadata") or "{}").get("func_name")
        prompt, identity = str(row["question_content"]).strip(), str(row["question_id"])
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"not the LiveCodeBench layout: {error!r}") from error
    starter = str(row.get("starter_code") or "").strip()
    if name:
        calls = [(", ".join(case["input"].strip().split("\n")), case["output"].strip()) for case in cases]
        tests = tuple(
            f"assert Solution().{name}({_literals(given)}) == {_literals(out)}" for given, out in calls
        )
        prompt, entry_point = f"{prompt}\n\nComplete this class:\n\n{starter}", "Solution"
    else:
        tests, entry_point = _stdin_tests([(case["input"], case["output"]) for case in cases]), "solve"
        prompt = f"{prompt}\n\n{_STDIN_NOTE}"
    return Problem(
        id=f"livecodebench-{identity}",
        domain=Domain.CODE,
        prompt=prompt,
        tests=tests,
        entry_point=entry_point,
        category=str(row.get("difficulty") or "contest"),
        source="livecodebench",
        licence="CC-BY-4.0",
    )


def _literals(arguments: str) -> str:
    """JSON values, comma separated, as Python literals: `[1], true` -> `[1], True`."""
    return repr(json.loads(f"[{arguments}]"))[1:-1]


def _private_cases(packed: str) -> list[dict[str, str]]:
    """Hidden tests: JSON, or JSON in a pickle in zlib in base64, as the authors publish them.

    The pickle is read as a list of opcodes and never run: one text is all that it may hold.
    """
    try:
        return list(json.loads(packed))
    except ValueError:
        pickled = zlib.decompress(base64.b64decode(packed))
    opcodes = list(pickletools.genops(pickled))
    texts = [argument for opcode, argument, _ in opcodes if opcode.name.endswith("BINUNICODE")]
    if len(texts) != 1 or any(
        opcode.name in ("GLOBAL", "STACK_GLOBAL", "REDUCE") for opcode, _, _ in opcodes
    ):
        raise DataError("column 'private_test_cases' holds more than one text")
    return list(json.loads(str(texts[0])))


def codeforces(row: Mapping[str, Any]) -> Problem | None:
    """Codeforces: `description`, `input_format`, `output_format`, `examples`, `official_tests`.

    None for a problem with a `generated_checker`: it has several right outputs, which a comparison cannot judge.
    """
    if row.get("generated_checker"):
        return None
    try:
        cases = [(case["input"], case["output"]) for case in (row.get("official_tests") or row["examples"])]
        parts = [row["description"], "Input", row["input_format"], "Output", row["output_format"]]
        identity = str(row["id"]).replace("/", "-")
    except (KeyError, TypeError) as error:
        raise DataError(f"not the Codeforces layout: {error!r}") from error
    if not cases:
        return None
    return Problem(
        id=f"codeforces-{identity}",
        domain=Domain.CODE,
        prompt="\n".join(str(part) for part in parts if part) + f"\n\n{_STDIN_NOTE}",
        tests=_stdin_tests(cases),
        entry_point="solve",
        category=f"rated_{row['rating']}" if row.get("rating") else "contest",
        source="codeforces",
        licence="CC-BY-4.0",
    )
