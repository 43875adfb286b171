"""How a model that knows no format is asked for one: written into the model directory's chat template once.

A base model earns no reward until it puts an answer where the verifier looks, and a small one never does by chance
(SmolLM2-135M: 0 of 436 samples right under its own template). The paper's R1-Zero therefore asks in the prompt (v1 Table 1),
and its cold-start data was drawn with examples in the prompt (v1 §2.3.1). Both ways are a template here, so that every
stage, evaluation and server that renders a prompt asks in the same words.
"""

from __future__ import annotations

import json

R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant first "
    "thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning process and "
    "answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning process "
    "here </think> <answer> answer here </answer>."
)
"""The paper's own words (v1 Table 1)."""

_R1_ZERO_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ "
    + json.dumps(R1_ZERO)
    + " + ' User: ' "
    "+ message['content'] + ' Assistant:' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)

EXAMPLES = (
    (
        "Tom had 12 pens. He gave 5 pens to Ann. How many pens does Tom have left?",
        "<think>12 - 5 = 7</think><answer>7</answer>",
    ),
    (
        "A book costs 9 dollars and a lamp costs 15 dollars. How much more does the lamp cost than the book?",
        "<think>15 - 9 = 6</think><answer>6</answer>",
    ),
    (
        "24 apples and 10 pears are in the kitchen. The apples are put on 3 plates. How many apples are on each plate?",
        "<think>24 / 3 = 8</think><answer>8</answer>",
    ),
)
"""Questions of our own, in the style of word problems. No gate reads templates: keep benchmark questions out by hand."""


def chat_template(kind: str, own: str | None) -> str | None:
    """The chat template called `kind`: `own` unchanged, `r1_zero` in the paper's words, `few_shot` with examples.

    `few_shot` keeps the model's own turn markers: the examples are earlier turns of the conversation.
    """
    if kind == "own":
        return own
    if kind == "r1_zero":
        return _R1_ZERO_TEMPLATE
    turns = []
    for question, answer in EXAMPLES:
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return "{% set messages = " + json.dumps(turns) + " + messages %}" + (own or "")
