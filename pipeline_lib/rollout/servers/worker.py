"""What a rollout server adds to vLLM's worker process: a weight backend that reads files, and a seed for a batch.

vLLM imports this module in each of its workers because the server's command line names `RolloutWorker` as the
worker extension (`--worker-extension-cls`); that is also what makes the backend known there. The backend is vLLM's
own interface (`start_weight_update`, `update_weights`, `finish_weight_update`), as in `vllm_weights`, only that the
tensors come from safetensors files: of a checkpoint, of a directory that all hosts see, or of the trainer's memory
(`/proc/<pid>/fd/<n>` of a memfd), which is how servers on the trainer's own host get them.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from safetensors import safe_open
from torch import Tensor
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from pipeline_lib.rollout.vllm_weights import ReloadingWeightTransfer

BACKEND = "safetensors_files"
_PR_SET_PDEATHSIG = 1


@dataclass
class FilesInit(WeightTransferInitInfo):
    """Nothing to agree on before the first update."""


@dataclass
class FilesUpdate(WeightTransferUpdateInfo):
    """Paths of safetensors files, which together are one checkpoint in the Hugging Face layout."""

    paths: list[str] = field(default_factory=list)


class FilesWeightTransfer(ReloadingWeightTransfer[FilesInit, FilesUpdate]):
    """Loads a checkpoint's files into the model that this worker runs; every tensor-parallel rank takes its part."""

    init_info_cls = FilesInit
    update_info_cls = FilesUpdate

    def receive_weights(self, update_info: FilesUpdate) -> None:
        self.model.load_weights(self._tensors(update_info.paths))

    def _tensors(self, paths: list[str]) -> Iterator[tuple[str, Tensor]]:
        tied = bool(self.model_config.hf_config.tie_word_embeddings)
        for path in paths:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    if not (tied and name == "lm_head.weight"):
                        yield name, file.get_tensor(name)


class RolloutWorker:
    """Methods that vLLM's worker gets; the server calls them by `collective_rpc`."""

    def seed_sampler(self, seed: int) -> None:
        """Every draw from here on follows from `seed` (vLLM draws from torch's default generator)."""
        torch.manual_seed(seed)


def _die_with_parent() -> None:
    """A server that is killed takes its engine along: vLLM's engine process would live on, with all its memory."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


WeightTransferEngineFactory.register_engine(BACKEND, FilesWeightTransfer)
_die_with_parent()
