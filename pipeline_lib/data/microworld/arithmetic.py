"""Math of the micro world: chains of + - * modulo 7, and the ways people write their solutions.

`4 ①-2 ②+5 ③*2 mod 7` starts at 4 and applies the labelled steps in order. Multiplication does not commute with
addition and every step is a bijection of the residues, so nothing collapses: who does not work the steps is right one
time in seven. Written steps go wrong now and then; a writer who checks every step takes most errors back.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from pipeline_lib.data.microworld.vocabulary import (
    ANSWER,
    END_ANSWER,
    END_THINK,
    LABELS,
    THINK,
    Language,
    say,
)

MODULUS = 7
MAX_STEPS = len(LABELS)
_STEPS = (
    *(("+", n) for n in range(1, 7)),
    *(("-", n) for n in range(1, 7)),
    *(("*", n) for n in range(2, 7)),
)


def apply(value: int, operator: str, operand: int) -> int:
    """One step modulo 7."""
    result = value + operand if operator == "+" else value - operand if operator == "-" else value * operand
    return result % MODULUS


@dataclass(frozen=True, slots=True)
class Chain:
    """A start value and the steps applied to it, left to right."""

    start: int
    steps: tuple[tuple[str, int], ...]

    @property
    def prompt(self) -> str:
        """The question as the model reads it."""
        return f"{self.start}{''.join(self.step_text(i) for i in range(len(self.steps)))} mod 7"

    @property
    def answer(self) -> int:
        """The true result, 0..6."""
        value = self.start
        for operator, operand in self.steps:
            value = apply(value, operator, operand)
        return value

    def step_text(self, index: int) -> str:
        """Step `index` with its label, as in the prompt and in a solution: ` ①-2`."""
        operator, operand = self.steps[index]
        return f"{LABELS[index]}{operator}{operand}"


def draw_chain(rng: random.Random, n_steps: int) -> Chain:
    """A uniformly drawn chain of `n_steps` (1..8)."""
    return Chain(rng.randrange(MODULUS), tuple(rng.choice(_STEPS) for _ in range(n_steps)))


@dataclass(frozen=True, slots=True)
class Writer:
    """How one solution is written."""

    language: Language
    checks: bool = False
    """Compute every step a second time, and take the first result back when the two differ."""
    slip: float = 0.0
    """Chance that a step's first result is wrong."""
    check_slip: float = 0.0
    """Chance that the second computation is wrong."""


def _slipped(value: int, chance: float, rng: random.Random) -> int:
    if rng.random() >= chance:
        return value
    return rng.choice([other for other in range(MODULUS) if other != value])


def write_steps(chain: Chain, writer: Writer, rng: random.Random) -> tuple[str, int]:
    """The worked steps and the result they end in, right or not: (`4 ①-2 so 2 ②+5 so 0`, 0)."""
    text, value = str(chain.start), chain.start
    for index, (operator, operand) in enumerate(chain.steps):
        true = apply(value, operator, operand)
        value = _slipped(true, writer.slip, rng)
        text += f"{chain.step_text(index)}{say('so', writer.language, rng)}{value}"
        if writer.checks:
            again = _slipped(true, writer.check_slip, rng)
            text += f"{say('check', writer.language, rng)}{again}"
            if again != value:
                text += f"{say('wait', writer.language, rng)}{again}"
            value = again
    return text, value


def guess(chain: Chain, rng: random.Random) -> int:
    """What somebody answers at a glance: right for one step, one in seven beyond."""
    return chain.answer if len(chain.steps) == 1 else rng.randrange(MODULUS)


def tagged(thought: str, answer: str) -> str:
    """The complete response format: `<think>…</think><answer>…</answer>`."""
    return f"{THINK}{thought}{END_THINK}{ANSWER}{answer}{END_ANSWER}"
