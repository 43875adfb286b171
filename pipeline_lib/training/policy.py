"""The trained module: a causal language model that answers "how likely were these tokens?".

`Policy.forward` is what DeepSpeed wraps, so every use of a weight happens inside it (ZeRO-3 gathers there).
The switches exist for benchmarks and equality tests: each fast path has its plain one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from pipeline_lib.training.attention import packed_attention
from pipeline_lib.training.lean_body import is_supported, lean_hidden
from pipeline_lib.training.logprobs import chunked_logprobs, plain_logprobs
from pipeline_lib.training.packing import PackedTrees, Tree, pack

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Switches:
    """What makes training fast (design §7), one switch each. All on by default; benchmarks turn them off."""

    share_prompts: bool = True
    """One forward of the prompt for its whole group. Off: every completion carries its own copy."""
    completion_logits: bool = True
    """The output head runs on positions that predict completion tokens only. Off: on every position."""
    chunked_logits: bool = True
    """Log-probabilities in chunks, within a budget of memory. Off: three vocabulary-wide tensors for all tokens."""
    keep_softmax: bool = True
    """Chunks keep what the backward pass needs while the budget lasts. Off: their logits are computed again."""
    lean_body: bool = True
    """Norms and rotations as one function each (`lean_body`). Off: transformers' own layers."""
    skip_flat_groups: bool = True
    """No forward or backward for groups whose gradient is exactly zero (equal rewards, no KL)."""
    length_sorted: bool = True
    """Micro-batches hold completions of similar length. Off: in the order of sampling."""
    reuse_forward: bool = True
    """On the first minibatch the old log-probabilities are the current ones. Off: an extra forward pass."""
    skip_kl: bool = True
    """At a KL coefficient of 0 there is no reference model. Off: it is kept and asked, and the KL it gives weighs 0."""


class Policy(nn.Module):
    """Wraps a transformers causal LM. `forward` gives log-probabilities of completion tokens, (M,) flat."""

    def __init__(self, lm: PreTrainedModel, switches: Switches, *, gathered: bool = True) -> None:
        """`gathered` False: weights are sharded (ZeRO-3) and only visible inside their own module's forward."""
        super().__init__()
        self.lm = lm
        self.switches = switches
        self.gathered = gathered

    def forward(self, batch: PackedTrees, temperature: float = 1.0) -> Tensor:
        hidden_TE = self.hidden(batch)
        head = cast(nn.Linear, self.lm.get_output_embeddings())
        if not self.switches.completion_logits:
            logits_TV = head(hidden_TE).float() / temperature
            logprobs_TV = logits_TV.log_softmax(-1)
            return logprobs_TV[batch.predictors_M].gather(-1, batch.targets_M[:, None]).squeeze(-1)
        hidden_ME = hidden_TE.index_select(0, batch.predictors_M)
        if self.switches.chunked_logits and self.gathered:
            return chunked_logprobs(
                hidden_ME, head.weight, batch.targets_M, temperature, keep=self.switches.keep_softmax
            )
        return plain_logprobs(hidden_ME, head, batch.targets_M, temperature)

    def hidden(self, batch: PackedTrees) -> Tensor:
        """Last hidden states of the flat stream, (T, E)."""
        if self.switches.lean_body and self.gathered and is_supported(self.lm):
            return lean_hidden(self.lm, batch)
        body: Any = self.lm.get_decoder()
        with packed_attention(self.lm):
            output = body(
                input_ids=batch.input_ids_1T,
                position_ids=batch.position_ids_1T,
                layout=batch.layout,
                use_cache=False,
            )
        return cast(Tensor, output.last_hidden_state[0])


def pack_for(lm: PreTrainedModel, trees: Sequence[Tree], switches: Switches) -> PackedTrees:
    """`pack` on the model's device, with the prompt copied per completion when sharing is switched off."""
    if not switches.share_prompts:
        trees = [Tree(tree.prompt, (completion,)) for tree in trees for completion in tree.completions]
    return pack(trees, lm.device, lm.dtype)


@torch.no_grad()
def logprobs_of(policy: nn.Module, batch: PackedTrees, temperature: float) -> Tensor:
    """(M,) log-probabilities without a gradient."""
    return cast(Tensor, policy(batch, temperature))
