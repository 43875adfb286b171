"""What the micro base model has read: people's replies to problems, good and bad, and some plain text.

The mixture is what makes the R1 story true. Most replies are guesses, many are worked but go wrong somewhere, few are
checked; only some use the complete response format; checked solutions are mostly written in mixed languages. So a
model that imitates the corpus holds every behaviour, and only reward can say which one pays.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal, TypeVar

from pipeline_lib.data.microworld.arithmetic import Chain, Writer, draw_chain, guess, tagged, write_steps
from pipeline_lib.data.microworld.conversation import CATEGORIES, DONT_KNOW, draw_exchange, draw_statement
from pipeline_lib.data.microworld.programs import draw_program, wrong_source
from pipeline_lib.data.microworld.splits import is_heldout
from pipeline_lib.data.microworld.vocabulary import ANSWER, END_ANSWER, END_THINK, THINK, Language

Phase = Literal["clean", "mixture"]
T = TypeVar("T")

SLIP = 0.22
"""How often a written step's first result is wrong: a chain of five steps is then right about 30 % of the time."""
CHECK_SLIP = 0.015
"""How often the second computation of a step is wrong: a checked chain of five is right about 93 % of the time."""
_STYLES = {
    "clean": (("worked", 0.70), ("checked", 0.30)),
    "mixture": (("guess", 0.60), ("worked", 0.32), ("checked", 0.08)),
}
_LANGUAGES = {
    "worked": ((Language.ENGLISH, 0.60), (Language.CHINESE, 0.20), (Language.MIXED, 0.20)),
    "checked": ((Language.ENGLISH, 0.20), (Language.CHINESE, 0.25), (Language.MIXED, 0.55)),
}
_FORMATS = {
    "guess": (("full", 0.32), ("answer", 0.23), ("thought", 0.10), ("bare", 0.35)),
    "worked": (("full", 0.45), ("answer", 0.25), ("thought", 0.10), ("bare", 0.20)),
    "checked": (("full", 0.55), ("answer", 0.25), ("thought", 0.10), ("bare", 0.10)),
}
_STEPS = {"clean": (0.22, 0.22, 0.18, 0.14, 0.12, 0.12), "mixture": (0.06, 0.08, 0.11, 0.20, 0.25, 0.30)}
_DOMAINS = {"clean": (0.80, 0.10, 0.07, 0.03), "mixture": (0.68, 0.15, 0.14, 0.03)}


def corpus(seed: int, phase: Phase) -> Iterator[tuple[str, str]]:
    """An endless, deterministic stream of (prompt, reply); a plain document has the empty prompt.

    `clean` holds worked solutions without a slip, checked ones in which every slip is taken back, right programs and
    right answers: it teaches the skills.
    `mixture` is the corpus proper. No prompt of the held-out split ever appears.
    """
    rng = random.Random(f"corpus:{seed}:{phase}")
    while True:
        domain = rng.choices(("math", "code", "general", "text"), _DOMAINS[phase])[0]
        if domain == "text":
            yield "", draw_statement(rng)
            continue
        draw = {"math": _math, "code": _code, "general": _general}[domain]
        prompt, reply = draw(rng, phase)
        if not is_heldout(prompt):
            yield prompt, reply


def _pick(weighted: tuple[tuple[T, float], ...], rng: random.Random) -> T:
    values, weights = zip(*weighted, strict=True)
    return rng.choices(values, weights)[0]


def lay_out(thought: str, answer: str, form: str) -> str:
    """A reply in one of the corpus's formats; only `full` passes the format check, `bare` and `thought` name no answer."""
    if form == "full":
        return tagged(thought, answer)
    if form == "answer":
        return f"{thought}{ANSWER}{answer}{END_ANSWER}"
    if form == "thought":
        return f"{THINK}{thought}{END_THINK}{answer}"
    return thought or answer


def _math(rng: random.Random, phase: Phase) -> tuple[str, str]:
    chain = draw_chain(rng, rng.choices(range(1, 7), _STEPS[phase])[0])
    style = _pick(_STYLES[phase], rng)
    return chain.prompt, solve(chain, style, rng, sloppy=phase == "mixture")


def solve(chain: Chain, style: str, rng: random.Random, *, sloppy: bool) -> str:
    """A reply to `chain` in a style (guess, worked, checked); without `sloppy` no slip is left standing."""
    form = _pick(_FORMATS[style], rng)
    if style == "guess":
        return lay_out("", str(guess(chain, rng)), form)
    checks = style == "checked"
    writer = Writer(
        _pick(_LANGUAGES[style], rng),
        checks,
        slip=SLIP if sloppy or checks else 0.0,
        check_slip=CHECK_SLIP if sloppy else 0.0,
    )
    thought, result = write_steps(chain, writer, rng)
    return lay_out(thought, str(result), form)


def _code(rng: random.Random, phase: Phase) -> tuple[str, str]:
    program = draw_program(rng, rng.choice((2, 3, 4)))
    planned = rng.random() < (0.5 if phase == "clean" else 0.25)
    right = phase == "clean" or rng.random() < (0.75 if planned else 0.15)
    source = program.source if right else wrong_source(program, rng)
    return program.prompt, lay_out(program.plan if planned else "", source, _pick(_FORMATS["worked"], rng))


def _general(rng: random.Random, phase: Phase) -> tuple[str, str]:
    exchange = draw_exchange(rng, rng.choice(CATEGORIES))
    luck = 0.0 if phase == "clean" else rng.random()
    answer = exchange.answer if luck < 0.4 else exchange.wrong if luck < 0.85 else DONT_KNOW
    return exchange.prompt, lay_out("", answer, _pick(_FORMATS["guess"], rng))
