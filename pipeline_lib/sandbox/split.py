"""Cut tests into what the program may see (an input expression) and what it may not (the expected value).

`assert f(args) == literal`, `assert literal == f(args)`, `is` with None or a bool, and a bare or negated call are cut; so
is the body of a HumanEval `check(candidate)` made only of those. Every other test goes whole to `judge`, in a jail of its
own. Parsing only: nothing of a test is ever evaluated here.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

from pipeline_lib.sandbox import codec


class Expect(StrEnum):
    """How a returned value is held against the expectation."""

    EQUAL = "equal"
    TRUTHY = "truthy"
    FALSY = "falsy"


@dataclass(frozen=True)
class SplitTest:
    """One assertion, cut."""

    expression: str
    """Goes into the jail."""
    expect: Expect
    expected: Any
    """Stays with the trainer. None unless `expect` is EQUAL."""
    source: str
    """The assertion as written, for the verdict."""

    def holds(self, form: object) -> bool:
        """Compare a value as it came over the wire.

        Raises:
            CodecError: the bytes are not a value. (A value larger than the expected one is simply not equal.)
        """
        if self.expect is not Expect.EQUAL:
            return bool(codec.decode(form)) is (self.expect is Expect.TRUTHY)
        value = codec.decode(form, max_nodes=codec.count_nodes(self.expected))
        return bool(value == self.expected)


@dataclass(frozen=True)
class TestPlan:
    """How one problem's tests will run."""

    split: tuple[SplitTest, ...]
    judged: tuple[str, ...]
    problem: str = ""
    """Not empty: a test is not Python; nobody's program can be judged by it."""


@lru_cache(maxsize=4096)
def plan_tests(tests: tuple[str, ...], entry_point: str) -> TestPlan:
    """Cut every test that can be cut. Cached: all samples of a group share their tests."""
    split: list[SplitTest] = []
    judged: list[str] = []
    for source in tests:
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return TestPlan((), (), f"the test is not Python: {error}")
        cut = _cut_module(tree, entry_point)
        if cut is None:
            judged.append(source)
        else:
            split += cut
    return TestPlan(tuple(split), tuple(judged))


def _cut_module(tree: ast.Module, entry_point: str) -> list[SplitTest] | None:
    cut: list[SplitTest] = []
    statements = list(tree.body)
    names = {entry_point, "candidate"}
    for statement in statements:
        if (
            isinstance(statement, ast.FunctionDef)
            and statement.name == "check"
            and _is_plain_check(statement)
        ):
            parameter = statement.args.args[0].arg
            if parameter not in names:
                return None
            found = _cut_body(statement.body, names)
        elif _is_metadata(statement) or _is_check_call(statement, names):
            continue
        else:
            found = _cut_body([statement], names)
        if found is None:
            return None
        cut += found
    return cut or None


def _cut_body(body: Iterable[ast.stmt], names: set[str]) -> list[SplitTest] | None:
    cut = []
    for statement in body:
        if isinstance(statement, ast.Pass) or (
            isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        ):
            continue
        if not isinstance(statement, ast.Assert):
            return None
        if isinstance(statement.test, ast.Constant) and statement.test.value:
            continue  # HumanEval has `assert True, "..."` as a placeholder
        test = _cut_assertion(statement.test, names)
        if test is None:
            return None
        cut.append(test)
    return cut


def _cut_assertion(test: ast.expr, names: set[str]) -> SplitTest | None:
    source = "assert " + ast.unparse(test)
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        for call, other in ((test.left, test.comparators[0]), (test.comparators[0], test.left)):
            if not _may_enter(call, names) or not _is_literal(other):
                continue
            expected = ast.literal_eval(other)
            by_identity = isinstance(test.ops[0], ast.Is) and (expected is None or isinstance(expected, bool))
            if isinstance(test.ops[0], ast.Eq) or by_identity:
                return SplitTest(ast.unparse(call), Expect.EQUAL, expected, source)
        return None
    negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
    call = test.operand if isinstance(test, ast.UnaryOp) and negated else test
    if isinstance(call, ast.Call) and _is_entry(call.func, names) and _may_enter(call, names):
        return SplitTest(ast.unparse(call), Expect.FALSY if negated else Expect.TRUTHY, None, source)
    return None


def _may_enter(node: ast.expr, names: set[str]) -> bool:
    """An expression that calls the program, uses nothing but it and builtins, and holds no comparison: a comparison
    would carry an expected value into the jail."""
    calls_program = False
    bound = {
        child.id
        for child in ast.walk(node)
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store)
    }
    for child in ast.walk(node):
        if isinstance(
            child, ast.Compare | ast.BoolOp | ast.IfExp | ast.Lambda | ast.NamedExpr | ast.Await | ast.Yield
        ):
            return False
        if isinstance(child, ast.Call) and _is_entry(child.func, names):
            calls_program = True
        if isinstance(child, ast.Name) and child.id not in names | bound and not hasattr(builtins, child.id):
            return False
    return calls_program


def _is_entry(node: ast.expr, names: set[str]) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _is_plain_check(function: ast.FunctionDef) -> bool:
    arguments = function.args
    return len(arguments.args) == 1 and not (arguments.vararg or arguments.kwarg or arguments.kwonlyargs)


def _is_metadata(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Assign) and all(_stores_upper(target) for target in statement.targets)


def _stores_upper(target: ast.expr) -> bool:
    return isinstance(target, ast.Name) and target.id == "METADATA"


def _is_check_call(statement: ast.stmt, names: set[str]) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and isinstance(statement.value.func, ast.Name)
        and statement.value.func.id == "check"
        and len(statement.value.args) == 1
        and _is_entry(statement.value.args[0], names)
    )


def first_lines(tests: Iterable[str]) -> Iterator[str]:
    """The first line of each test that says something, for a verdict's evidence."""
    for source in tests:
        yield next((line.strip() for line in source.splitlines() if line.strip()), "")[:200]
