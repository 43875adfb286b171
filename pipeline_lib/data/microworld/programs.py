"""Code of the micro world: a small Python function from a list of steps, judged by hidden tests.

`code f: x ①+3 ②*2 ③-1` asks for `def f(x):\\n return ((x+3)*2)-1`. The natural mistakes are forgotten parentheses,
a wrong operand or operator, and a step left out; listing the steps first (the plan) avoids most of them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from pipeline_lib.data.microworld.vocabulary import LABELS

TEST_INPUTS = (-5, -1, 0, 2, 7)
_OPERATORS = "+-*"


@dataclass(frozen=True, slots=True)
class Program:
    """The steps a function applies to its argument, in order."""

    name: str
    steps: tuple[tuple[str, int], ...]

    @property
    def prompt(self) -> str:
        """The question as the model reads it."""
        return f"code {self.name}: {self.plan}"

    @property
    def plan(self) -> str:
        """The steps with their labels, as in the prompt: `x ①+3 ②*2 ③-1`."""
        return "x" + "".join(f"{LABELS[i]}{op}{n}" for i, (op, n) in enumerate(self.steps))

    @property
    def source(self) -> str:
        """The right solution, with a parenthesis around all but the last step."""
        body = "(" * (len(self.steps) - 1) + "x"
        for index, (operator, operand) in enumerate(self.steps):
            body += f"{operator}{operand}" + (")" if index < len(self.steps) - 1 else "")
        return self._function(body)

    @property
    def tests(self) -> tuple[str, ...]:
        """Assert statements that call the function; the answer is never part of the prompt."""
        return tuple(f"assert {self.name}({x}) == {self(x)}" for x in TEST_INPUTS)

    def __call__(self, x: int) -> int:
        for operator, operand in self.steps:
            x = x + operand if operator == "+" else x - operand if operator == "-" else x * operand
        return x

    def without_parentheses(self) -> str:
        """The most common mistake: Python then multiplies first."""
        return self._function("x" + "".join(f"{op}{n}" for op, n in self.steps))

    def _function(self, body: str) -> str:
        return f"def {self.name}(x):\n return {body}"


def draw_program(rng: random.Random, n_steps: int) -> Program:
    """A program of `n_steps` (2..8) in which parentheses matter: something is added before the last multiplication."""
    while True:
        steps = tuple((rng.choice(_OPERATORS), rng.randrange(2, 10)) for _ in range(n_steps))
        first_sum = next((i for i, (op, _) in enumerate(steps) if op != "*"), n_steps)
        if any(op == "*" for op, _ in steps[first_sum:]):
            return Program("f", steps)


def wrong_source(program: Program, rng: random.Random) -> str:
    """A solution with one natural mistake. It fails the tests: no mistake here leaves the function the same."""
    kind = rng.random()
    if kind < 0.5:
        return program.without_parentheses()
    steps = list(program.steps)
    index = rng.randrange(len(steps))
    operator, operand = steps[index]
    if kind < 0.75:
        steps[index] = (operator, rng.choice([n for n in range(2, 10) if n != operand]))
    else:
        steps[index] = (rng.choice([op for op in _OPERATORS if op != operator]), operand)
    return Program(program.name, tuple(steps)).source
