"""Checkpoints are read as data: no file of one may run code.

DeepSpeed asks torch to unpickle whatever its files hold. Checkpoints also come from S3, and who may write there is not to
run code in a trainer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import torch

from pipeline_lib.errors import DataError

SWITCH = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""torch's own environment variable."""
HARMLESS = (
    ("deepspeed.runtime.fp16.loss_scaler", "LossScaler"),
    ("deepspeed.runtime.zero.config", "ZeroStageEnum"),
    ("deepspeed.utils.tensor_fragment", "fragment_address"),
)
"""Classes in DeepSpeed's checkpoints (ZeRO 1 to 3): they hold numbers."""
_REFUSED = re.compile(r"WeightsUnpickler error: *(.*)")


@contextmanager
def only_tensors(folder: Path) -> Iterator[None]:
    """Inside, `torch.load` makes tensors, plain values and `HARMLESS`; DataError where a file of `folder` asks for more."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "1"
    try:
        with torch.serialization.safe_globals([getattr(import_module(m), name) for m, name in HARMLESS]):
            yield
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":  # of a module that nothing here imports
            raise
        said = _REFUSED.search(str(error))
        raise DataError(
            f"{folder}: the checkpoint holds more than tensors and was not loaded: {said[1] if said else error}"
            " Find out who wrote it, and remove it."
        ) from None
    finally:
        os.environ.pop(SWITCH)
        if before is not None:
            os.environ[SWITCH] = before
