"""What a process does before it works: its start and its end kept short, its threads polite.

More than thirty processes start in one micro run of the pipeline, most to work for a second or two.

Three things cost more than the work, and none is needed:

- Libraries import other installed libraries for features that nothing here uses: DeepSpeed's autotuner mlflow, its Muon
  optimizer the whole of inductor (through a `torch.compile` decorator), transformers' generation scikit-learn and pandas, its
  losses for pictures scipy. Python's own way to say "not installed" is None in `sys.modules`; `find_spec` and `import` honour it.
  What a library cannot do without, but only uses in a corner of its own, `deferred` imports when that is used.
- The garbage collector looks through what is being imported again and again. None of it is garbage.
- At its end Python takes every module apart, with torch and transformers for two to three seconds.

What each of them takes: `python -m benchmarks --only startup`.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from typing import Any

UNUSED = ("sklearn", "scipy", "mlflow", "pandas", "accelerate", "triton", "datasets")
"""Packages that torch, transformers and DeepSpeed would import and no stage uses through them."""

SPINS = "1000"
"""Of a thread that waits for the others of its product, before it sleeps: some microseconds, as long as they usually take (decision 0021)."""


def wait_briefly() -> None:
    """Have OpenMP's threads sleep soon while they wait for one another. Before torch is imported: OpenMP reads it then.

    By default they spin for milliseconds, in which nobody else gets the core: not even the thread they wait for, where other
    processes share the machine. What is computed is the same. A setting of one's own wins.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


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


class _Deferring:
    """A finder whose modules run their code when something of theirs is first asked for (`importlib.util.LazyLoader`)."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: Any = None
    ) -> ModuleSpec | None:
        """Of a named module alone; the other finders know the rest."""
        spec = PathFinder.find_spec(name, path, target) if name in self.names else None
        if spec is None or spec.loader is None:
            return None
        spec.loader = LazyLoader(spec.loader)
        return spec


@contextmanager
def deferred(*names: str) -> Iterator[None]:
    """Modules first imported inside are loaded when they are first used, be that after this block; unknown names are not found, as ever."""
    finder = _Deferring(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def uncollected() -> Iterator[None]:
    """Inside, the garbage collector rests: for imports, which make hundreds of thousands of objects and hardly any garbage."""
    resting = not gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not resting:
            gc.enable()


@contextmanager
def lean_imports() -> Iterator[None]:
    """Inside, torch and transformers are imported without what nothing here uses, and without collecting garbage."""
    with absent(*UNUSED), uncollected():
        yield


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
    with absent("mlflow", "triton"), uncollected(), uncompiled():
        import deepspeed
        import deepspeed.ops.triton_ops  # deepspeed.initialize would, when triton is no longer hidden
        import deepspeed.runtime.zero.muon.muon_optimizer
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def import_model_libraries() -> None:
    """Import transformers and DeepSpeed without what they pull in and a job does not need."""
    with lean_imports(), absent("gguf"):
        import_deepspeed()
        import transformers.generation.utils  # the package itself is lazy, and would import it when nothing is hidden
        import transformers.modeling_utils  # noqa: F401


@contextmanager
def quick_end() -> Iterator[None]:
    """What a program does goes in here; when that is over the process ends as soon as its threads and exit handlers have.

    For the outermost block of a program, entered before it imports anything else: exit handlers run in reverse order, so that
    the one that ends the process is the last. An exception other than SystemExit goes Python's own way, traceback and all.
    """
    codes: list[int] = []
    atexit.register(lambda: _end_now(codes[0]) if codes else None)
    try:
        yield
    except SystemExit as leaving:
        codes.append(_code_of(leaving))
        raise
    codes.append(0)


def _code_of(leaving: SystemExit) -> int:
    """The exit code Python would end with: a text is printed, and counts as 1."""
    if leaving.code is None:
        return 0
    return leaving.code if isinstance(leaving.code, int) else 1


def _end_now(code: int) -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return  # nobody reads any more: Python's own end says so
    os._exit(code)
