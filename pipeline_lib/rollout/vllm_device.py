"""Where vLLM runs in this process: on the device of the rank that it samples for."""

from __future__ import annotations

import torch
from vllm.v1.executor.uniproc_executor import UniProcExecutor


class OwnDeviceExecutor(UniProcExecutor):
    """vLLM's executor for one process, on torch's current device.

    vLLM's own takes the first one (0.32), which all ranks of a node would share.
    """

    def _distributed_args(self) -> tuple[str, int, int]:
        method, rank, _ = super()._distributed_args()
        return method, rank, torch.cuda.current_device() if torch.cuda.is_available() else 0
