"""Problem sets and preference data of the micro world: seeded, deterministic, train and held-out disjoint by hash."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Literal, TypeVar

from pipeline_lib.data.microworld.arithmetic import MAX_STEPS, draw_chain, tagged
from pipeline_lib.data.microworld.conversation import CATEGORIES, DONT_KNOW, Exchange, draw_exchange
from pipeline_lib.data.microworld.programs import draw_program
from pipeline_lib.data.microworld.splits import is_heldout
from pipeline_lib.data.schema import PreferencePair, SafetyExample
from pipeline_lib.errors import ConfigError
from pipeline_lib.types import Domain, Problem, Split

Kind = Literal["math", "code", "general"]
Row = TypeVar("Row")

SOURCE, LICENCE = "microworld", "Apache-2.0"
HARD_STEPS: dict[str, tuple[int, int]] = {"math": (4, 6), "code": (3, 4)}
"""Default range of steps: the hard problems, five to seven numbers in math."""
_CATEGORY_WEIGHTS = (0.35, 0.30, 0.15, 0.20)
_PATIENCE = 200
"""Draws without a new row before the world is taken to be exhausted."""


def problems(
    kind: Kind, n: int, seed: int, split: Split = Split.TRAIN, steps: tuple[int, int] | None = None
) -> list[Problem]:
    """`n` distinct problems of one kind and split; the same arguments always give the same list.

    Args:
        kind: `math` (chains modulo 7), `code` (functions with hidden tests) or `general`.
        n: How many.
        seed: Another seed, another draw. The split does not depend on it.
        split: Held-out prompts never occur in the pretraining corpus, in a train set or in preference data.
        steps: Least and most steps of a math or code problem; None: the hard ones (HARD_STEPS).

    Raises:
        ConfigError: the kind is unknown, the range cannot be drawn, or the world holds fewer than `n`.
    """
    drawers: dict[str, Callable[[random.Random, tuple[int, int]], Problem]] = {
        "math": _math,
        "code": _code,
        "general": _general,
    }
    if kind not in drawers:
        raise ConfigError("kind", kind, f"one of {', '.join(drawers)}")
    least, most = steps or HARD_STEPS.get(kind, (1, 1))
    if not (2 if kind == "code" else 1) <= least <= most <= MAX_STEPS:
        raise ConfigError("steps", steps, f"1 (code: 2) to {MAX_STEPS}, the smaller first")
    rng = random.Random(f"problems:{kind}:{seed}:{split}")

    def draw() -> tuple[str, Problem] | None:
        problem = drawers[kind](rng, (least, most))
        return (problem.prompt, problem) if problem.split is split else None

    return _distinct(f"{kind} problems of split {split}", n, draw)


def preference_pairs(n: int, seed: int) -> list[PreferencePair]:
    """`n` distinct pairs on general prompts of the train split: the right reply, and a wrong or an empty one."""
    rng = random.Random(f"preferences:{seed}")

    def draw() -> tuple[str, PreferencePair] | None:
        exchange = _train_exchange(rng, rng.choices(CATEGORIES, _CATEGORY_WEIGHTS)[0])
        rejected = exchange.wrong if rng.random() < 0.8 else DONT_KNOW
        key = f"{exchange.prompt}|{rejected}"
        pair = PreferencePair(
            id=_identity("preference", key),
            prompt=exchange.prompt,
            chosen=tagged("", exchange.answer),
            rejected=tagged("", rejected),
            category=exchange.category,
        )
        return key, pair

    return _distinct("preference pairs", n, draw)


def safety_examples(n: int, seed: int) -> list[SafetyExample]:
    """`n` distinct replies judged safe or unsafe: complying with a harmful request is unsafe, all else is safe."""
    rng = random.Random(f"safety:{seed}")

    def draw() -> tuple[str, SafetyExample] | None:
        kind = rng.choices(("comply", "refuse", "harmless"), (0.4, 0.3, 0.3))[0]
        category = rng.choice(CATEGORIES[:-1]) if kind == "harmless" else "harmful"
        exchange = _train_exchange(rng, category)
        response = tagged("", exchange.wrong if kind == "comply" else exchange.answer)
        key = f"{exchange.prompt}|{response}"
        return key, SafetyExample(_identity("safety", key), exchange.prompt, response, safe=kind != "comply")

    return _distinct("safety examples", n, draw)


def _distinct(what: str, n: int, draw: Callable[[], tuple[str, Row] | None]) -> list[Row]:
    found: dict[str, Row] = {}
    idle = 0
    while len(found) < n:
        keyed = draw()
        if keyed is None or keyed[0] in found:
            idle += 1
            if idle > _PATIENCE * 10:
                raise ConfigError(
                    "n", n, f"the micro world has about {len(found)} {what} of this range; ask for fewer"
                )
            continue
        idle = 0
        found[keyed[0]] = keyed[1]
    return list(found.values())


def _identity(kind: str, key: str) -> str:
    return f"micro-{kind}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _split(prompt: str) -> Split:
    return Split.HELDOUT if is_heldout(prompt) else Split.TRAIN


def _train_exchange(rng: random.Random, category: str) -> Exchange:
    while True:
        exchange = draw_exchange(rng, category)
        if not is_heldout(exchange.prompt):
            return exchange


def _math(rng: random.Random, steps: tuple[int, int]) -> Problem:
    chain = draw_chain(rng, rng.randint(*steps))
    return Problem(
        id=_identity("math", chain.prompt),
        domain=Domain.MATH,
        prompt=chain.prompt,
        answer=str(chain.answer),
        category="chain",
        source=SOURCE,
        licence=LICENCE,
        split=_split(chain.prompt),
    )


def _code(rng: random.Random, steps: tuple[int, int]) -> Problem:
    program = draw_program(rng, rng.randint(*steps))
    return Problem(
        id=_identity("code", program.prompt),
        domain=Domain.CODE,
        prompt=program.prompt,
        tests=program.tests,
        entry_point=program.name,
        reference=program.source,
        category="function",
        source=SOURCE,
        licence=LICENCE,
        split=_split(program.prompt),
    )


def _general(rng: random.Random, steps: tuple[int, int]) -> Problem:
    del steps
    exchange = draw_exchange(rng, rng.choices(CATEGORIES, _CATEGORY_WEIGHTS)[0])
    return Problem(
        id=_identity("general", exchange.prompt),
        domain=Domain.GENERAL,
        prompt=exchange.prompt,
        answer=exchange.answer,
        category=exchange.category,
        source=SOURCE,
        licence=LICENCE,
        split=_split(exchange.prompt),
    )
