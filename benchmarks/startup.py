"""What a process costs before it does anything: imports, the first model, a rollout engine.

A micro run of the pipeline starts some twenty stages, so a second of each is twenty. Every case is a fresh Python that says when it
reached its end; the cases take turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks._bench import Bench, Benchmark
from benchmarks._measure import Spread, ratio_of_pairs, spread, table

MODEL = "assets/micro/base"
HIDDEN = "from pipeline_lib.training.startup import import_model_libraries; import_model_libraries()"
PLAIN = "import deepspeed, deepspeed.runtime.zero.muon.muon_optimizer, transformers.generation.utils, transformers.modeling_utils"
ENGINE = (
    "from pathlib import Path\n"
    "from pipeline_lib.params import load_params\n"
    "from pipeline_lib.rollout import vllm_generator\n"
    "engine = load_params(Path('params.yaml')).engine\n"
    "vllm = engine.vllm.model_copy(update={{'enforce_eager': {eager}}})\n"
    f"vllm_generator._start(engine.model_copy(update={{{{'vllm': vllm}}}}), Path({MODEL!r}))"
)
CASES = {
    "Python": "pass",
    "torch": "import torch",
    "a job's libraries, as its process imports them": HIDDEN,
    "the same libraries, imported plainly": PLAIN,
    "and the micro base loaded": f"{HIDDEN}\nfrom pipeline_lib.modeling import load_model; load_model({MODEL!r})",
    "vLLM with the micro base, eager": ENGINE.format(eager=True),
    "vLLM with the micro base, compiled": ENGINE.format(eager=False),
}
QUICK = ("Python", "torch", "a job's libraries, as its process imports them")


def _start(code: str, folder: Path) -> tuple[float, float]:
    """Wall and processor seconds from the start of a process to the end of `code`, all its processes counted.

    The process is not waited for: how long a library takes to leave is another question.
    """
    report = folder / "report"
    program = (
        f"{code}\nimport os, resource, time\n"
        "used = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))\n"
        f"open({str(report)!r}, 'w').write(f'{{time.monotonic()}} {{used}}')\nos._exit(0)"
    )
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "2", "VLLM_CACHE_ROOT": str(folder / "vllm")}  # fmt: skip
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    report.unlink(missing_ok=True)
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    if not report.is_file():
        raise RuntimeError(f"`{code}` ended with {done.returncode}: {done.stderr[-2000:]}")
    ended, used = map(float, report.read_text(encoding="utf-8").split())
    return ended - began, used


def _run(bench: Bench) -> str:
    cases = {name: CASES[name] for name in QUICK} if bench.quick else CASES
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for turn in range(bench.rounds + 1):
        for name, code in cases.items():
            found = _start(code, bench.folder)
            if turn:  # the first fills the page cache, and vLLM's cache of what it compiled
                measured[name].append(found)
    rows = [
        [name, *(spread(pair[side] for pair in found).show(1) for side in (0, 1))]
        for name, found in measured.items()
    ]
    text = table(["a fresh process up to", "seconds", "processor seconds"], rows)
    return text if bench.quick else f"{text}\n\n{_saved(measured)}"


def _saved(measured: dict[str, list[tuple[float, float]]]) -> str:
    hidden, plain = (
        [pair[1] for pair in measured[name]]
        for name in ("a job's libraries, as its process imports them", "the same libraries, imported plainly")
    )
    ratio: Spread = ratio_of_pairs(plain, hidden)
    return f"Imported plainly the libraries cost **{ratio.show(1)}×** the processor time."


BENCHMARK = Benchmark("startup", "Starting a process", _run)
