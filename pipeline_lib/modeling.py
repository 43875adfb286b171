"""Model directories in the Hugging Face layout: load, save, render a prompt, decode a response.

A model directory is `config.json`, `model.safetensors`, `tokenizer.json`, `tokenizer_config.json` and
`generation_config.json`. `save_model` writes the same bytes for the same weights (DVC hashes them): no
path, time or host enters a file.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pipeline_lib.errors import ConfigError, DataError, StorageError
from pipeline_lib.startup import lean_imports

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("float32", "bfloat16", "float16")


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype called `name`; ConfigError for a name this project does not compute in."""
    import torch

    if name not in DTYPES:
        raise ConfigError("dtype", name, f"use one of {', '.join(DTYPES)}")
    return cast("torch.dtype", getattr(torch, name))


def require_model_dir(path: Path | str) -> Path:
    """`path` as a directory that holds a model; DataError naming the path and the remedy otherwise."""
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: no such model directory; run the stage that writes it or correct the path")
    if not (path / "config.json").is_file():
        raise DataError(f"{path}: no config.json; a model directory in the Hugging Face layout is needed")
    if not any(path.glob("*.safetensors")):
        raise DataError(
            f"{path}: no *.safetensors; the directory has no weights, restore or convert them first"
        )
    return path


def load_tokenizer(path: Path | str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory, exactly as its tokenizer.json says. DataError when it is missing.

    Not AutoTokenizer: for a directory whose model_type is `qwen2`, transformers 5.19 ignores the saved
    tokenizer class and rebuilds Qwen's own pre-tokenizer around the vocabulary, which loses characters.
    """
    with lean_imports():
        from transformers import PreTrainedTokenizerFast

    path = Path(path)
    if not (path / "tokenizer.json").is_file():
        raise DataError(
            f"{path}: no tokenizer.json; copy the base model's tokenizer files beside the weights"
        )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(path))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return cast("PreTrainedTokenizerBase", tokenizer)


def load_model(path: Path | str, dtype: str = "float32") -> PreTrainedModel:
    """The causal language model of a directory, in evaluation mode, without dropout, on the CPU.

    Raises DataError when there are no weights, when they cannot be read, or when some parameter of the
    architecture is not among them (transformers would fill it with noise and only warn).
    """
    with lean_imports():
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

    logging.disable_progress_bar()
    path = require_model_dir(path)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            str(path),
            dtype=torch_dtype(dtype),
            local_files_only=True,
            attention_dropout=0.0,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise DataError(f"{path}: the model cannot be loaded: {_first_line(error)}") from error
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise DataError(f"{path}: the weights lack {len(info['missing_keys'])} parameters ({missing}, …)")
    return cast("PreTrainedModel", model.eval())


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path | str) -> None:
    """Write `model` and `tokenizer` as a directory; equal weights give equal bytes.

    The directory appears complete or not at all: it is written under a temporary name and renamed.
    Raises StorageError when the disk is full.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.config._name_or_path = ""
    tokenizer.name_or_path = ""
    for how_it_was_loaded in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(how_it_was_loaded, None)
    try:
        model.save_pretrained(partial, safe_serialization=True)
        tokenizer.save_pretrained(partial)
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(f"{path}: the disk is full; free space and run the stage again") from error
        raise


def render_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids of `prompt` as one user turn in the model's own chat template, ready for the answer."""
    if tokenizer.chat_template is None:
        raise DataError("the tokenizer has no chat_template: add one to its tokenizer_config.json")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    return list(tokenizer(cast(str, text), add_special_tokens=False)["input_ids"])


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Text of a response: tags such as `<think>` stay, end-of-sequence and padding go."""
    dropped = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    kept = [token for token in ids if token not in dropped]
    return cast(str, tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token that ends a response: the tokenizer's and the generation config's end-of-sequence."""
    configured: int | Iterable[int] | None = None
    if model.generation_config is not None:
        configured = model.generation_config.eos_token_id
    ids = {tokenizer.eos_token_id}
    ids.update([configured] if isinstance(configured, int) else (configured or ()))
    return tuple(sorted(cast("set[int]", ids - {None})))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
