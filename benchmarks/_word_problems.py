"""A problem set as large as wanted: made-up word problems with planted repeats and planted benchmark questions.

Row i is a function of i alone, so a file of n rows is the beginning of every longer one, and it is written row by row.
Of every hundred rows one repeats an earlier prompt exactly, one in other letters, one with a single word changed;
of every thousand one is a benchmark's question (an exact repeat once all questions were there).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NAMES = (
    "Ada",
    "Bruno",
    "Chidi",
    "Dalia",
    "Emre",
    "Farah",
    "Goran",
    "Hana",
    "Ines",
    "Jonas",
    "Kofi",
    "Lena",
    "Mateo",
    "Noor",
)
PLACES = (
    "harbour",
    "orchard",
    "bakery",
    "library",
    "workshop",
    "greenhouse",
    "market",
    "quarry",
    "dairy",
    "printing house",
)
THINGS = ("crates", "baskets", "trays", "boxes", "sacks", "bundles", "barrels", "cartons", "pallets", "bags")
GOODS = (
    "apples",
    "bricks",
    "letters",
    "candles",
    "melons",
    "tiles",
    "books",
    "bottles",
    "seedlings",
    "spoons",
    "lamps",
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ADJECTIVES = ("old", "busy", "quiet", "new", "crowded", "small", "famous", "windy", "sunny", "distant")
STORY = (
    "On a {adjective} {day} morning {name} counts {a} {thing} of {goods} at the {place}, and every one of them holds exactly {b} "
    "{goods}. Before noon a driver carries {c} {goods} away to the {other} {place2} while {friend} is watching. "
    "How many {goods} are left at the {place}?"
)  # fmt: skip
BACK = 50
"""A planted repeat says what the row so far before it says, which is never planted itself."""


@dataclass(frozen=True, slots=True)
class Planted:
    """How many rows of each kind a file holds."""

    rows: int
    exact: int
    normalised: int
    near: int
    contaminated: int

    @property
    def clean(self) -> int:
        """Rows that nothing is wrong with."""
        return self.rows - self.exact - self.normalised - self.near - self.contaminated


def write_word_problems(path: Path, rows: int, questions: Sequence[str]) -> Planted:
    """Write `rows` problems as JSON lines in the project's own layout; `questions`: benchmark questions to plant."""
    counts = {"exact": 0, "normalised": 0, "near": 0, "contaminated": 0}
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            kind, row = _row(number, questions)
            if kind:
                counts[kind] += 1
            file.write(json.dumps(row) + "\n")
    return Planted(rows, **counts)


def big_world(folder: Path, rows: int) -> Planted:
    """A folder in which the two stages can run: params.yaml of the micro profile with these problems to train on."""
    import yaml

    from pipeline_lib.data.sources import load_problems
    from pipeline_lib.evaluation.suites import suite_sources
    from pipeline_lib.params import compose

    root = Path(__file__).resolve().parent.parent
    suites = suite_sources(["micro_math", "micro_code"])
    questions = [problem.prompt for suite in suites.values() for problem in load_problems(suite, seed=0)]
    planted = write_word_problems(folder / "words.jsonl", rows, questions)
    tree = compose("micro", {}, root=root)
    words = {"path": str(folder / "words.jsonl"), "layout": "problems"}
    others = [source for source in tree["prepare_problems"]["sources"] if source["role"] != "train"]
    tree["prepare_problems"]["sources"] = [
        {"kind": "files", "role": "train", "limit": None, "options": words},
        *others,
    ]
    (folder / "params.yaml").write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    for name in ("profiles", "mlflow", "assets"):
        (folder / name).symlink_to(root / name)
    return planted


def _row(number: int, questions: Sequence[str]) -> tuple[str, dict[str, object]]:
    """(how it is planted or empty, the row)."""
    place = number % 100
    if number % 1000 == 503:
        kind = "contaminated" if number < 1000 * len(questions) else "exact"
        return kind, _problem(number, questions[number // 1000 % len(questions)], 0)
    if number < 100 or place > 2:
        return "", _problem(number, *_story(number))
    prompt, answer = _story(number - BACK)
    if place == 0:
        return "exact", _problem(number, prompt, answer)
    if place == 1:
        return "normalised", _problem(number, prompt.upper().replace(",", " ;"), answer)
    return "near", _problem(number, prompt.replace("driver", "carrier"), answer)


def _story(number: int) -> tuple[str, int]:
    draw = random.Random(number)
    a, b = draw.randrange(101, 9999), draw.randrange(11, 999)
    c = draw.randrange(1, a * b)
    prompt = STORY.format(
        adjective=draw.choice(ADJECTIVES), day=draw.choice(DAYS), name=draw.choice(NAMES), a=a, b=b, c=c,
        thing=draw.choice(THINGS), goods=draw.choice(GOODS), place=draw.choice(PLACES), other=draw.choice(ADJECTIVES),
        place2=draw.choice(PLACES), friend=draw.choice(NAMES),
    )  # fmt: skip
    return prompt, a * b - c


def _problem(number: int, prompt: str, answer: int) -> dict[str, object]:
    return {
        "id": f"word-{number:07d}",
        "domain": "math",
        "prompt": prompt,
        "answer": str(answer),
        "reference": f"Count everything, then take away what is carried off: {answer} is left."
        if number % 3 == 0
        else None,
        "category": "word_problem",
        "source": "word_problems",
        "licence": "CC0-1.0",
    }
