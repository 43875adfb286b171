"""Keeping a job's start short: about twenty processes start in one micro run of the pipeline.

Libraries import other installed libraries for features that a training job does not use: DeepSpeed's autotuner
mlflow, its Muon optimizer the whole of inductor (through a `torch.compile` decorator), transformers' generation
scikit-learn and pandas. Measured on a busy 2-core machine, CPU seconds for a job's imports: 30 with them, 19 without.
Python's own way to say "not installed" is None in `sys.modules`; `find_spec` and `import` both honour it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

UNUSED = ("sklearn", "mlflow", "pandas", "accelerate", "triton", "gguf", "datasets")


@contextmanager
def absent(*names: str) -> Iterator[None]:
    """Inside, the named packages look as if they were not installed; already imported ones stay."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Inside, `torch.compile` used as a decorator leaves the function as it is, and does not import inductor."""
    import torch

    def identity(function: Callable[..., Any] | None = None, **_: Any) -> Any:
        return function if function is not None else lambda inner: inner

    before = torch.compile
    torch.compile = identity
    try:
        yield
    finally:
        torch.compile = before


def import_deepspeed() -> Any:
    """DeepSpeed, without its shared-memory op: compiling that takes minutes, and gloo does what it does."""
    with absent("mlflow", "triton"), uncompiled():
        import deepspeed
        import deepspeed.ops.triton_ops  # deepspeed.initialize would, when triton is no longer hidden
        import deepspeed.runtime.zero.muon.muon_optimizer
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def import_model_libraries() -> None:
    """Import transformers and DeepSpeed without what they pull in and a job does not need."""
    with absent(*UNUSED):
        import_deepspeed()
        import transformers.generation.utils  # the package itself is lazy, and would import it when nothing is hidden
        import transformers.modeling_utils  # noqa: F401
