"""The micro world: deterministic, split by hash, its answers and tests true, its mixture as documented."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import pytest

from pipeline_lib.data import microworld
from pipeline_lib.data.microworld.arithmetic import MODULUS, Chain, Writer, draw_chain, write_steps
from pipeline_lib.data.microworld.conversation import CATEGORIES, draw_exchange
from pipeline_lib.data.microworld.corpus import solve
from pipeline_lib.data.microworld.problems import Kind
from pipeline_lib.data.microworld.programs import draw_program, wrong_source
from pipeline_lib.data.microworld.splits import HELDOUT_ONE_IN, is_heldout
from pipeline_lib.data.microworld.vocabulary import Language, vocabulary
from pipeline_lib.errors import ConfigError
from pipeline_lib.types import Split

CHAIN = Chain(4, (("-", 2), ("+", 5), ("*", 2)))


def run_python(source: str, tests: tuple[str, ...]) -> bool:
    """Whether a program written by the generator itself passes its tests."""
    scope: dict[str, object] = {}
    try:
        exec("\n".join([source, *tests]), scope)  # noqa: S102 - written by the generator, not by a model
    except AssertionError:
        return False
    return True


def test_chain_prompt_and_answer() -> None:
    assert CHAIN.prompt == "4 ①-2 ②+5 ③*2 mod 7"
    assert CHAIN.answer == ((4 - 2 + 5) * 2) % MODULUS == 0


def test_clean_steps_end_in_the_answer() -> None:
    text, result = write_steps(CHAIN, Writer(Language.ENGLISH), random.Random(0))
    assert (text, result) == ("4 ①-2 so 2 ②+5 so 0 ③*2 so 0", 0)


def test_a_check_takes_a_slip_back() -> None:
    text, result = write_steps(CHAIN, Writer(Language.CHINESE, checks=True, slip=1.0), random.Random(0))
    assert result == CHAIN.answer
    assert (
        microworld.verification_count(text)
        == microworld.backtrack_count(text)
        == microworld.step_count(text)
        == 3
    )
    assert microworld.languages_used(text) == {"zh"}
    assert microworld.languages_used(microworld.to_english(text)) == {"en"}
    assert microworld.backtrack_count(microworld.to_english(text)) == 3


def test_checked_solutions_are_better_than_worked_and_worked_than_guesses() -> None:
    rng, right = random.Random(0), Counter[str]()
    for _ in range(2000):
        chain = draw_chain(rng, 5)
        for style in ("guess", "worked", "checked"):
            reply = solve(chain, style, rng, sloppy=True)
            final = reply.replace("</answer>", "")[-1]
            right[style] += final == str(chain.answer)
    assert 0.11 < right["guess"] / 2000 < 0.18
    assert 0.25 < right["worked"] / 2000 < 0.45
    assert 0.88 < right["checked"] / 2000 < 0.97


def test_answers_of_hard_chains_are_spread_evenly() -> None:
    counts = Counter(problem.answer for problem in microworld.problems("math", 1400, 0))
    assert set(counts) == {str(value) for value in range(MODULUS)}
    assert max(counts.values()) < 270


def test_programs_pass_their_tests_and_mistakes_fail_them() -> None:
    rng = random.Random(0)
    for n_steps in (2, 3, 4) * 60:
        program = draw_program(rng, n_steps)
        assert run_python(program.source, program.tests)
        mistake = wrong_source(program, rng)
        assert not run_python(mistake, program.tests), mistake


@pytest.mark.parametrize("kind", ["math", "code", "general"])
def test_problems_are_deterministic_distinct_and_split(kind: Kind) -> None:
    train = microworld.problems(kind, 150, 3)
    heldout = microworld.problems(kind, 60, 3, Split.HELDOUT)
    assert train == microworld.problems(kind, 150, 3)
    assert train != microworld.problems(kind, 150, 4)
    assert len({problem.id for problem in train}) == len({problem.prompt for problem in train}) == 150
    assert all(not is_heldout(problem.prompt) and problem.split is Split.TRAIN for problem in train)
    assert all(is_heldout(problem.prompt) and problem.split is Split.HELDOUT for problem in heldout)


def test_the_split_holds_out_the_documented_share() -> None:
    share = sum(is_heldout(str(i)) for i in range(20000)) / 20000
    assert abs(share - 1 / HELDOUT_ONE_IN) < 0.02


def test_general_prompts_have_a_key_that_the_wrong_reply_misses() -> None:
    rng = random.Random(0)
    for category in CATEGORIES * 300:
        exchange = draw_exchange(rng, category)
        assert exchange.answer != exchange.wrong
        assert (exchange.answer == microworld.REFUSAL) == (category == "harmful")


def test_too_many_and_unknown_problems_are_refused() -> None:
    with pytest.raises(ConfigError, match="fewer"):
        microworld.problems("math", 500, 0, steps=(1, 1))
    with pytest.raises(ConfigError, match="kind"):
        microworld.problems("poetry", 5, 0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="steps"):
        microworld.problems("code", 5, 0, steps=(1, 2))


def test_preferences_and_safety() -> None:
    pairs = microworld.preference_pairs(600, 0)
    assert pairs == microworld.preference_pairs(600, 0)
    assert len({pair.id for pair in pairs}) == 600
    assert all(pair.chosen != pair.rejected and not is_heldout(pair.prompt) for pair in pairs)
    examples = microworld.safety_examples(600, 0)
    assert len({example.id for example in examples}) == 600
    assert 0.25 < sum(not example.safe for example in examples) / 600 < 0.5
    assert all(example.safe for example in examples if microworld.REFUSAL in example.response)


@pytest.mark.parametrize("phase", ["clean", "mixture"])
def test_corpus_is_deterministic_and_never_holds_a_heldout_prompt(phase: str) -> None:
    documents = list(islice(microworld.corpus(5, phase), 2000))  # type: ignore[arg-type]
    assert documents == list(islice(microworld.corpus(5, phase), 2000))  # type: ignore[arg-type]
    assert not any(is_heldout(prompt) for prompt, _ in documents if prompt)


def test_the_mixture_makes_verification_and_format_rare() -> None:
    math = [
        reply for prompt, reply in islice(microworld.corpus(0, "mixture"), 6000) if prompt.endswith("mod 7")
    ]
    checked = sum(microworld.verification_count(reply) > 0 for reply in math) / len(math)
    complete = sum(reply.startswith("<think>") and reply.endswith("</answer>") for reply in math) / len(math)
    guessed = sum(microworld.step_count(reply) == 0 for reply in math) / len(math)
    assert 0.05 < checked < 0.11
    assert 0.30 < complete < 0.45
    assert 0.5 < guessed < 0.7


def test_tokenizer_round_trips_and_keeps_tags_single() -> None:
    tokenizer = microworld.build_tokenizer()
    assert len(tokenizer) == len(vocabulary()) <= 320
    for phase in ("clean", "mixture"):
        for prompt, reply in islice(microworld.corpus(1, phase), 500):  # type: ignore[arg-type]
            ids = tokenizer(reply)["input_ids"]
            assert tokenizer.decode(ids) == reply
            assert tokenizer.unk_token_id not in ids
            chat = [{"role": "user", "content": prompt}]
            text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            assert text == f"Q: {prompt}\nA:"
    for tag in ("<pad>", "<eos>", "<think>", "</think>", "<answer>", "</answer>", " so ", "查", " ①"):
        assert len(tokenizer(tag)["input_ids"]) == 1


def test_saved_tokenizer_is_the_same(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from transformers import AutoTokenizer

    microworld.build_tokenizer().save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "<think>4 ①-2 so 2 check 2得 3\n</think><answer>def f(x):\n return x</answer>"
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert loaded.chat_template == microworld.build_tokenizer().chat_template
