"""The micro world: a place small enough for two cores in which the R1 story is true, not played.

Math (chains modulo 7), code (small Python functions) and general prompts; a pretraining corpus in which checked
solutions are better but rare; a tokenizer; exact measures of verification, backtracking and language.
docs/decisions/0001-micro-world.md says why it is the way it is.
"""

from pipeline_lib.data.microworld.corpus import corpus
from pipeline_lib.data.microworld.measures import (
    backtrack_count,
    languages_used,
    step_count,
    verification_count,
)
from pipeline_lib.data.microworld.problems import preference_pairs, problems, safety_examples
from pipeline_lib.data.microworld.vocabulary import REFUSAL, build_tokenizer, to_english

__all__ = [
    "REFUSAL",
    "backtrack_count",
    "build_tokenizer",
    "corpus",
    "languages_used",
    "preference_pairs",
    "problems",
    "safety_examples",
    "step_count",
    "to_english",
    "verification_count",
]
