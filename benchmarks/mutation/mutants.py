"""Every mutant of some files, as JSON lines. Run by `runner`, in the environment that has Cosmic Ray; imports nothing of ours.

Cosmic Ray's operators, less the replacements that could only crash (`**` or `<<` for `+` on tensors: they would flatter the rate),
and one of our own, because no tool has it: a call is replaced by what it was given, `zero_padding(x, mask)` by `x`,
`text.strip()` by `text`, so that a dropped mask, clamp or check is a mutant too.

Not mutated: text (messages, patterns, word lists), annotations (never evaluated), arguments of `@dataclass` (`frozen`, `slots`) and
caches (`@lru_cache`): no result depends on them.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.provider import OperatorProvider

_OPERATORS = (
    *("AddNot", "NumberReplacer", "RemoveDecorator", "ZeroIterationForLoop", "ExceptionReplacer"),
    *("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak"),
    *(f"ReplaceUnaryOperator_Delete_{name}" for name in ("USub", "Invert", "Not")),
    *(
        f"ReplaceBinaryOperator_{a}_{b}"
        for pair in ("Add Sub", "Mul Div", "BitOr BitAnd", "LShift RShift")
        for a, b in (pair.split(), pair.split()[::-1])
    ),
    *("ReplaceBinaryOperator_FloorDiv_Mul", "ReplaceBinaryOperator_Mod_Mul", "ReplaceBinaryOperator_Pow_Mul"),
    *(
        f"ReplaceComparisonOperator_{a}_{b}"
        for a, others in {
            "Lt": "LtE GtE", "LtE": "Lt Gt", "Gt": "GtE LtE", "GtE": "Gt Lt",
            "Eq": "NotEq LtE GtE", "NotEq": "Eq Lt Gt", "Is": "IsNot", "IsNot": "Is",
        }.items()
        for b in others.split()
    ),
)  # fmt: skip

Span = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Mutant:
    """A file's whole text with one change, and the change by itself."""

    file: str
    line: int
    operator: str
    before: str
    after: str
    text: str


def mutants_of(file: str) -> Iterator[Mutant]:
    """All mutants of one file, in the order of its lines; the same text once."""
    source = Path(file).read_text(encoding="utf-8")
    seen = {ast.dump(ast.parse(source))}
    for operator, text in [*_cosmic_ray(source), *_dropped_calls(source)]:
        try:
            meaning = ast.dump(ast.parse(text))
        except SyntaxError:  # `not match := ...`, or quotes inside an f-string
            continue
        if meaning not in seen and _signatures(text) == _signatures(
            source
        ):  # Cosmic Ray takes a bare `*` for a product
            seen.add(meaning)
            yield _describe(file, operator, source, text)


def _signatures(text: str) -> list[tuple[int, int, int]]:
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.arguments)]
    return [(len(a.posonlyargs), len(a.args), len(a.kwonlyargs)) for a in found]


def _cosmic_ray(source: str) -> Iterator[tuple[str, str]]:
    provider, skipped = OperatorProvider(), _never_evaluated(source)
    tree = get_ast(source)
    for name in _OPERATORS:
        operator = provider[name]()
        positions = [p for node in ast_nodes(tree) for p in operator.mutation_positions(node)]
        for occurrence, (start, end) in enumerate(positions):
            if not any(a <= start and end <= b for a, b in skipped):
                try:
                    text = mutate_code(source, operator, occurrence)
                except AttributeError:  # ExceptionReplacer knows no dotted names
                    continue
                assert text is not None
                yield name, text


def _never_evaluated(source: str) -> list[Span]:
    spans = []
    for node in ast.walk(ast.parse(source)):
        for decorator in getattr(node, "decorator_list", ()):
            start, end = _span(decorator)
            if ast.unparse(decorator).partition("(")[0] in ("lru_cache", "cache"):
                spans.append(((start[0], start[1] - 1), (end[0] + 1, 0)))
            elif isinstance(node, ast.ClassDef):
                spans.append((start, end))
        if isinstance(node, ast.JoinedStr):
            spans.append(_span(node))
        for field in ("annotation", "returns"):
            if isinstance(part := getattr(node, field, None), ast.expr):
                spans.append(_span(part))
    return spans


def _span(node: ast.expr) -> Span:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _dropped_calls(source: str) -> Iterator[tuple[str, str]]:
    tree = ast.parse(source)
    modules = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    decorators = {id(d) for node in ast.walk(tree) for d in getattr(node, "decorator_list", ())}
    raised = {id(node.exc) for node in ast.walk(tree) if isinstance(node, ast.Raise)}
    text_parts = {id(n) for f in ast.walk(tree) if isinstance(f, ast.JoinedStr) for n in ast.walk(f)}
    for call in calls:
        if id(call) in decorators | raised | text_parts or not (kept := _given(call, modules)):
            continue
        data = source.encode()
        starts = [0]
        for line in data.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        (a, b), (c, d) = _span(call)
        inner = ast.get_source_segment(source, kept)
        assert inner is not None
        yield (
            "DropCall",
            (data[: starts[a - 1] + b] + f"({inner})".encode() + data[starts[c - 1] + d :]).decode(),
        )


def _given(call: ast.Call, modules: set[str]) -> ast.expr | None:
    """What the call was given: the object of a method, the first argument of a function; None for constructors."""
    function = call.func
    of_module = isinstance(function, ast.Attribute) and ast.unparse(function.value).split(".")[0] in modules
    if isinstance(function, ast.Attribute) and not of_module:
        return function.value
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "X")
    if (
        name == "frozenset"
        or name.lstrip("_")[:1].isupper()
        or not call.args
        or isinstance(call.args[0], ast.Starred)
    ):
        return None
    return None if isinstance(call.args[0], ast.GeneratorExp) else call.args[0]


def _describe(file: str, operator: str, source: str, text: str) -> Mutant:
    old, new = source.splitlines(), text.splitlines()
    first = next(i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1])
    last = next(i for i, pair in enumerate(zip(old[::-1], new[::-1], strict=False)) if pair[0] != pair[1])
    before = old[first : max(first + 1, len(old) - last)]
    after = new[first : max(first, len(new) - last)]
    squeeze = lambda lines: " ".join(" ".join(lines).split())  # noqa: E731
    return Mutant(file, first + 1, operator, squeeze(before), squeeze(after), text)


if __name__ == "__main__":
    for path in sys.argv[1:]:
        for mutant in sorted(mutants_of(path), key=lambda m: m.line):
            print(json.dumps(asdict(mutant)))
