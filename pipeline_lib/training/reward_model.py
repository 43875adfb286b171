"""Learned rewards for general prompts: helpfulness from pairs, safety pointwise (v2 B.3.1; lesson ch.4).

A reward model is a causal LM with a scalar head on the hidden state of the response's last token. It is saved as
a Hugging Face directory plus `reward_head.safetensors`. Helpfulness scores the final answer only, what stands
outside the think tags; safety scores the whole response, as in v2.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline_lib.algorithms.bradley_terry import bradley_terry_loss
from pipeline_lib.algorithms.safety import safety_loss
from pipeline_lib.data.schema import PreferencePair, SafetyExample, read_preferences, read_safety
from pipeline_lib.errors import DataError, NonFiniteError
from pipeline_lib.modeling import load_model, load_tokenizer, render_prompt, save_model
from pipeline_lib.params import EngineParams, RewardModelParams
from pipeline_lib.rewards.response import outside_thought
from pipeline_lib.training.checkpoint import CheckpointStore
from pipeline_lib.training.context import JobContext
from pipeline_lib.training.distributed import Engine
from pipeline_lib.training.metrics import Row
from pipeline_lib.training.order import derived_seed, epoch_order
from pipeline_lib.training.packing import Tree
from pipeline_lib.training.policy import Policy, Switches, pack_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HEAD = "reward_head.safetensors"
SETTINGS = "reward_model.json"
SCORING_BATCH = 64
STANDARDISED_ON = 512
"""Training items whose scores give the mean and the spread."""


class ScalarModel(nn.Module):
    """A causal LM's body with one number per response."""

    def __init__(self, lm: PreTrainedModel, *, gathered: bool = True) -> None:
        """`gathered` as in `Policy`."""
        super().__init__()
        self.body = Policy(lm, Switches(), gathered=gathered)
        self.head = nn.Linear(lm.config.hidden_size, 1, dtype=lm.dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, trees: Sequence[Tree]) -> Tensor:
        """(B,) one score per completion, read where its last token stands."""
        # The layout feeds all but a completion's last token; a closing dummy moves the real last one in.
        closed = [Tree(tree.prompt, [(*completion, 0) for completion in tree.completions]) for tree in trees]
        packed = pack_for(self.body.lm, closed, self.body.switches)
        last_B = packed.mask_BT.sum(dim=1).cumsum(0) - 1
        hidden_BE = self.body.hidden(packed)[packed.predictors_M[last_B]]
        return self.head(hidden_BE).squeeze(-1).float()


class RewardModel:
    """A trained reward model, ready to score. Scores are standardised, then squashed into (0, 1)."""

    def __init__(
        self,
        model: ScalarModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        mean: float,
        std: float,
        answer_only: bool,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.mean, self.std, self.answer_only = tokenizer, mean, std, answer_only

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """One number in (0, 1) per response; 0.5 is the average of what the model was trained on.

        NaN where the model's own number is not finite: who asked knows the problem and the sample.
        """
        return [self._squashed(score) for score in self.raw_scores(prompts, responses)]

    def _squashed(self, score: float) -> float:
        if not math.isfinite(score):  # infinity would pass for the best or the worst response
            return math.nan
        return 1 / (1 + math.exp(-max(min((score - self.mean) / self.std, 30.0), -30.0)))

    @torch.no_grad()
    def raw_scores(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """The head's numbers."""
        trees = [
            _tree(self.tokenizer, prompt, response, self.answer_only)
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        scores: list[float] = []
        for start in range(0, len(trees), SCORING_BATCH):
            scores += self.model(trees[start : start + SCORING_BATCH]).tolist()
        return scores

    def save(self, path: Path) -> None:
        """Write the directory; equal models give equal bytes."""
        from safetensors.torch import save_file

        from pipeline_lib.storage.atomic import write_json

        save_model(self.model.body.lm, self.tokenizer, path)
        save_file(
            {key: value.contiguous() for key, value in self.model.head.state_dict().items()}, path / HEAD
        )
        write_json(path / SETTINGS, {"mean": self.mean, "std": self.std, "answer_only": self.answer_only})

    @staticmethod
    def load(path: Path, device: torch.device | str = "cpu") -> RewardModel:
        """Read a directory that `save` wrote. DataError when a part is missing."""
        from safetensors.torch import load_file

        if not (path / HEAD).is_file():
            raise DataError(f"{path}: no {HEAD}; it is no reward model, run train_reward_models")
        model = ScalarModel(load_model(path))
        model.head.load_state_dict(load_file(path / HEAD))
        settings = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
        return RewardModel(model.to(device), load_tokenizer(path), **settings)


def load_learned_rewards(folder: Path, device: torch.device | str) -> dict[str, RewardModel]:
    """The learned rewards of stage 4, by the name of their weight."""
    return {name: RewardModel.load(folder / name, device) for name in ("helpfulness", "safety")}


@dataclass(frozen=True, slots=True)
class Task:
    """How one reward model is trained: its examples, their loss, what counts as right."""

    name: str
    items: Sequence[PreferencePair] | Sequence[SafetyExample]
    trees: Callable[[Any], list[Tree]]
    """An item's responses as trees: chosen and rejected, or the one judged."""
    loss: Callable[[Tensor, Sequence[Any], int], Tensor]
    """(scores, items, whole batch's size) -> loss."""
    right: Callable[[Tensor, Sequence[Any]], int]
    """How many items the scores judge as the data does."""


@dataclass(slots=True)
class RewardState:
    """What a checkpoint remembers besides weights."""

    step: int = 0
    rows: list[Row] = field(default_factory=list)


def run_reward_models(context: JobContext) -> None:
    """Train both reward models below the `model` output: `helpfulness/` and `safety/`."""
    tokenizer = load_tokenizer(context.input("model"))
    tasks = [
        helpfulness_task(read_preferences(context.input("preferences")), tokenizer),
        safety_task(read_safety(context.input("safety")), tokenizer),
    ]
    summary: dict[str, float] = {}
    rows: list[Row] = []
    for task in tasks:
        result, task_rows = _train(context, task, tokenizer)
        summary |= {f"{task.name}_{key}": value for key, value in result.items()}
        rows += task_rows
    context.write_result(rows, summary)


def helpfulness_task(pairs: Sequence[PreferencePair], tokenizer: PreTrainedTokenizerBase) -> Task:
    """Bradley-Terry on pairs; only the final answer is read."""
    return Task(
        "helpfulness",
        pairs,
        lambda pair: [_tree(tokenizer, pair.prompt, text, True) for text in (pair.chosen, pair.rejected)],
        lambda scores, items, total: bradley_terry_loss(scores[0::2], scores[1::2], total),
        lambda scores, items: int((scores[0::2] > scores[1::2]).sum()),
    )


def safety_task(examples: Sequence[SafetyExample], tokenizer: PreTrainedTokenizerBase) -> Task:
    """Cross-entropy, safe or unsafe; the whole response is read."""

    def truth(items: Sequence[SafetyExample]) -> Tensor:
        return torch.tensor([item.safe for item in items])

    return Task(
        "safety",
        examples,
        lambda example: [_tree(tokenizer, example.prompt, example.response, False)],
        lambda scores, items, total: safety_loss(scores, truth(items).to(scores.device), total),
        lambda scores, items: int(((scores > 0).cpu() == truth(items)).sum()),
    )


def within(task: Task, max_tokens: int) -> list[Any]:
    """The items of which every prompt + response has at most `max_tokens` tokens."""
    # A tree does not feed its last token.
    return [item for item in task.items if all(tree.tokens < max_tokens for tree in task.trees(item))]


def _train(
    context: JobContext, task: Task, tokenizer: PreTrainedTokenizerBase
) -> tuple[dict[str, float], list[Row]]:
    """Train one model from the base, save it, measure it on the part kept aside."""
    spec, world = context.spec, context.world
    params = RewardModelParams.model_validate(spec.section)
    engine_params = EngineParams.model_validate(spec.engine)
    items = within(task, params.max_tokens)
    order = epoch_order(len(items), derived_seed(spec.seed, spec.name, task.name, "heldout"), 0)
    aside = int(len(order) * params.heldout_fraction)
    heldout = [items[i] for i in order[:aside]]
    train = [items[i] for i in order[aside:]]
    if not train:
        raise DataError(
            f"{task.name}: no example is left to train on; {len(task.items) - len(items)} of {len(task.items)} are "
            f"longer than max_tokens = {params.max_tokens}"
        )
    lm = load_model(context.input("model"), engine_params.dtype)
    model = ScalarModel(lm, gathered=engine_params.zero_stage < 3).to(world.device)
    engine = Engine(
        model, engine_params, world, learning_rate=params.learning_rate, weight_decay=0.0, max_grad_norm=1.0
    )
    context = replace(context, store=CheckpointStore(context.folder / task.name, world))
    state = RewardState()
    if found := context.store.load({"policy": engine}):
        state = RewardState(**found[0])
    per_epoch = math.ceil(len(train) / params.batch_size)
    total = per_epoch * params.epochs
    progress = context.progress(total, state.step)
    while state.step < total:
        epoch, batch = divmod(state.step, per_epoch)
        shuffled = epoch_order(len(train), derived_seed(spec.seed, spec.name, task.name), epoch)
        chosen = [train[i] for i in shuffled[batch * params.batch_size : (batch + 1) * params.batch_size]]
        row = {"step": float(state.step), **_train_batch(engine, task, chosen, params.learning_rate)}
        state.rows.append(row)
        context.log({f"{task.name}/{key}": value for key, value in row.items()}, state.step)
        state.step += 1
        progress.step(state.step, row)
        if state.step % params.checkpoint_every == 0 and state.step < total:
            context.store.save(state.step, {"policy": engine}, asdict(state), {})
        if state.step < total:
            context.leave_if_asked(state.step, {"policy": engine}, asdict(state), {})
    with engine.whole_weights():
        result = _finish(context, task, model, tokenizer, train, heldout)
    return {
        **result,
        "too_long": float(len(task.items) - len(items)),
        "loss": state.rows[-1]["loss"] if state.rows else 0.0,
        "steps": float(total),
    }, state.rows


def _train_batch(engine: Engine, task: Task, items: Sequence[Any], learning_rate: float) -> Row:
    """One optimizer step; each rank takes its share of the items."""
    mine = list(items)[engine.world.rank :: engine.world.size]
    if mine:
        scores = engine([tree for item in mine for tree in task.trees(item)])
        _require_finite(task, scores, mine)
        loss = task.loss(scores, mine, len(items))
        right = task.right(scores.detach(), mine)
    else:
        loss, right = engine([Tree((0,), ((0,),))]).sum() * 0.0, 0
    engine.backward(loss, last=True)
    norm = engine.step(learning_rate)
    loss_sum, right_sum = engine.world.sum([float(loss.detach()), right])
    return {"loss": loss_sum, "accuracy": right_sum / len(items), "grad_norm": norm, "lr": learning_rate}


def _finish(
    context: JobContext,
    task: Task,
    model: ScalarModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Sequence[Any],
    heldout: Sequence[Any],
) -> dict[str, float]:
    """Standardise, measure, save."""
    scores = _scores(model, task, train[:STANDARDISED_ON])
    right = task.right(_scores(model, task, heldout), heldout) if heldout else 0
    finished = RewardModel(
        model,
        tokenizer,
        mean=float(scores.mean()),
        std=max(float(scores.std()) if len(scores) > 1 else 1.0, 1e-3),
        answer_only=task.name == "helpfulness",
    )
    if context.world.is_first:
        finished.save(context.output("model") / task.name)
    context.world.barrier()
    return {"heldout_accuracy": right / max(len(heldout), 1), "heldout": float(len(heldout))}


@torch.no_grad()
def _scores(model: ScalarModel, task: Task, items: Sequence[Any]) -> Tensor:
    trees = [tree for item in items for tree in task.trees(item)]
    scores = torch.cat(
        [model(trees[start : start + SCORING_BATCH]) for start in range(0, len(trees), SCORING_BATCH)]
    )
    _require_finite(task, scores, items)
    return scores


def _require_finite(task: Task, scores: Tensor, items: Sequence[Any]) -> None:
    """Raise NonFiniteError naming the first of `items` with a score that is not; each has equally many."""
    finite = torch.isfinite(scores.detach())
    if not finite.all():
        item = items[int((~finite).nonzero()[0]) * len(items) // len(scores)]
        raise NonFiniteError(f"{task.name}, example {item.id}: the reward model's score is not finite")


def _tree(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str, answer_only: bool) -> Tree:
    text = response
    if answer_only:
        outside = outside_thought(response)
        text = response if outside is None else outside
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] or [int(tokenizer.eos_token_id)]
    return Tree(tuple(render_prompt(tokenizer, prompt)), (tuple(ids),))
