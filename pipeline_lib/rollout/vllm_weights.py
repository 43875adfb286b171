"""Handing live weights to vLLM in the same process, as a backend of vLLM's own weight-transfer API.

vLLM updates weights through a `WeightTransferEngine` named in its configuration (`start_weight_update`,
`update_weights`, `finish_weight_update`; it ships NCCL and CUDA-IPC backends for trainers in other
processes). Here trainer and engine share a process, so this backend takes the tensors themselves: no
serialisation, no second process group, and it works on a CPU too. vLLM's loader copies each tensor into
its own (possibly fused) parameters and repacks them layer by layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

BACKEND = "in_process"
InitInfo = TypeVar("InitInfo", bound=WeightTransferInitInfo)
UpdateInfo = TypeVar("UpdateInfo", bound=WeightTransferUpdateInfo)


@dataclass
class InProcessInit(WeightTransferInitInfo):
    """Nothing to agree on before the first update."""


@dataclass
class InProcessUpdate(WeightTransferUpdateInfo):
    """One chunk of a checkpoint: (name in the Hugging Face layout, tensor)."""

    weights: Sequence[tuple[str, Tensor]] = field(default_factory=list)


class ReloadingWeightTransfer(WeightTransferEngine[InitInfo, UpdateInfo]):
    """What every backend of this project shares: an update is a reload of the layers that it names."""

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """No connection to make."""

    def start_weight_update(self) -> None:
        """Bring parameters back to checkpoint layout: kernels (also the CPU's) have repacked them for speed."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load one chunk. The base class would also synchronise an accelerator, which a CPU has not."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            import torch

            torch.accelerator.synchronize()

    def finish_weight_update(self) -> None:
        """Repack each layer for the kernels, into the storage that they already use."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        if self.model_config.hf_config.tie_word_embeddings:
            # The head shares the embedding's weight and so receives none of its own; on a CPU it multiplies by
            # a packed copy of it, which the reload leaves at the old weights (vLLM 0.32).
            head = self.model.lm_head
            head.quant_method.process_weights_after_loading(head)

    def shutdown(self) -> None:
        """No connection to close."""


class InProcessWeightTransfer(ReloadingWeightTransfer[InProcessInit, InProcessUpdate]):
    """Loads tensors of the trainer's module into the model that vLLM runs."""

    init_info_cls = InProcessInit
    update_info_cls = InProcessUpdate

    def receive_weights(self, update_info: InProcessUpdate) -> None:
        self.model.load_weights(update_info.weights)


def register() -> str:
    """Make the backend known to vLLM and return the name to configure it by."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, InProcessWeightTransfer)
    return BACKEND
