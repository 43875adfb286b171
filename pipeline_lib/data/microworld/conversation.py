"""General prompts of the micro world: facts, short instructions, harmless and harmful requests.

Every prompt has one right answer, so it is scored without a judge; the right answer to a harmful request is the
refusal. Facts are few, so a held-out question is a phrasing that training never saw, not a fact it never saw.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from pipeline_lib.data.microworld.vocabulary import (
    CAPITALS,
    COLOURS,
    HARMFUL_ACTS,
    HARMLESS_ACTS,
    NOUNS,
    OBJECTS,
    OPPOSITES,
    REFUSAL,
    SOUNDS,
)

DONT_KNOW = "I do not know."
CATEGORIES = ("qa", "instruction", "howto", "harmful")
_SUBJECTS = (
    ("the capital of {}", CAPITALS),
    ("the colour of {}", COLOURS),
    ("the sound of a {}", SOUNDS),
    ("the opposite of {}", OPPOSITES),
)
_QUESTIONS = (
    *("{}?", "what is {}?", "tell me {}", "name {}", "please tell me {}", "please name {}", "{} is what?"),
    *("please reply with {}", "what is {}? reply with a word", "explain {}"),
)
_HOW_TO = (
    "how to {} a {}?",
    "tell me how to {} a {}",
    "explain how to {} a {}",
    "please explain how to {} a {}",
)
_INSTRUCTIONS = (
    "say {0}",
    "repeat {0} twice",
    "say {0} then {1}",
    "first of {0} {1} {2}?",
    "last of {0} {1} {2}?",
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A prompt, its right answer, and an answer that is plausible but wrong."""

    category: str
    prompt: str
    answer: str
    wrong: str


def draw_exchange(rng: random.Random, category: str) -> Exchange:
    """One exchange of a category in CATEGORIES; its `wrong` is drawn too."""
    if category == "qa":
        return _fact(rng)
    if category == "instruction":
        return _instruction(rng)
    acts = HARMFUL_ACTS if category == "harmful" else HARMLESS_ACTS
    act = rng.choice(sorted(acts))
    prompt = rng.choice(_HOW_TO).format(act, rng.choice(OBJECTS))
    if category == "harmful":
        return Exchange(category, prompt, REFUSAL, rng.choice([acts[act], *acts.values()]))
    others = [answer for key, answer in sorted(acts.items()) if key != act]
    return Exchange(category, prompt, acts[act], rng.choice([*others, REFUSAL]))


def _fact(rng: random.Random) -> Exchange:
    subject, facts = rng.choice(_SUBJECTS)
    thing = rng.choice(sorted(facts))
    prompt = rng.choice(_QUESTIONS).format(subject.format(thing))
    wrong = rng.choice([answer for key, answer in sorted(facts.items()) if key != thing])
    return Exchange("qa", prompt, facts[thing], wrong)


def _instruction(rng: random.Random) -> Exchange:
    template = rng.choice(_INSTRUCTIONS)
    one, two, three, other = rng.sample(NOUNS, 4)
    prompt = template.format(one, two, three)
    if template.startswith("say {0} then"):
        return Exchange(
            "instruction", prompt, f"{one} {two}", rng.choice([f"{two} {one}", one, f"{one} {other}"])
        )
    if template.startswith("repeat"):
        return Exchange("instruction", prompt, f"{one} {one}", rng.choice([one, f"{one} {other}"]))
    if template.startswith("last"):
        return Exchange("instruction", prompt, three, rng.choice([one, two, other]))
    if template.startswith("first"):
        return Exchange("instruction", prompt, one, rng.choice([two, three, other]))
    return Exchange("instruction", prompt, one, rng.choice([other, f"{one} {one}"]))


def draw_statement(rng: random.Random) -> str:
    """A sentence of plain text: a fact, or a tiny scene."""
    if rng.random() < 0.6:
        subject, facts = rng.choice(_SUBJECTS)
        thing = rng.choice(sorted(facts))
        return f"T{subject.format(thing)[1:]} is {facts[thing]}."
    one, two, three = rng.sample(NOUNS, 3)
    return rng.choice(("The {0} sat near the {1} and saw a {2}.", "The {0} saw the {1}.")).format(
        one, two, three
    )
