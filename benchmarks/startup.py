"""What a process costs before and after it does anything: imports, the first model, a rollout engine, and its end.

A micro run of the pipeline starts more than thirty, so a second of each is half a minute. Every case is a fresh Python that says when
it reached its end; the cases take turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from textwrap import indent

from benchmarks._bench import Bench, Benchmark
from benchmarks._measure import ratio_of_pairs, spread, table

MODEL = "assets/micro/base"
HIDDEN = "from pipeline_lib.startup import import_model_libraries; import_model_libraries()"
PLAIN = "import deepspeed, deepspeed.runtime.zero.muon.muon_optimizer, transformers.generation.utils, transformers.modeling_utils"
SAMPLER = (
    "from pathlib import Path\n"
    "from pipeline_lib.params import load_params\n"
    "from pipeline_lib.rollout import open_generator\n"
    f"open_generator({MODEL!r}, load_params(Path('params.yaml')).engine)"
)
PLAIN_SAMPLER = f"import torch, transformers.generation.utils, transformers.modeling_utils\n{SAMPLER}"
ENGINE = (
    "from pathlib import Path\n"
    "from pipeline_lib.params import load_params\n"
    "from pipeline_lib.rollout import vllm_generator\n"
    "engine = load_params(Path('params.yaml')).engine\n"
    "vllm = engine.vllm.model_copy(update={{'enforce_eager': {eager}}})\n"
    f"vllm_generator._start(engine.model_copy(update={{{{'vllm': vllm}}}}), Path({MODEL!r}))"
)
TRACKER = (
    "import os, tempfile\n"
    "from pathlib import Path\n"
    "folder = Path(tempfile.mkdtemp(dir=os.environ['BENCH_FOLDER']))\n"
    "from pipeline_lib.tracking.client import open_client\n"
    "open_client(f'sqlite:///{folder}/mlflow.db', folder)"
)
PLAIN_TRACKER = (
    "import os, tempfile\n"
    "uri = f\"sqlite:///{tempfile.mkdtemp(dir=os.environ['BENCH_FOLDER'])}/mlflow.db\"\n"
    "from mlflow.tracking import MlflowClient\n"
    "MlflowClient(uri, uri).search_experiments(max_results=1)"
)
CASES = {
    "Python": "pass",
    "torch": "import torch",
    "a job's libraries, as its process imports them": HIDDEN,
    "the same libraries, imported plainly": PLAIN,
    "and the micro base loaded": f"{HIDDEN}\nfrom pipeline_lib.modeling import load_model; load_model({MODEL!r})",
    "the CPU's sampler with the micro base, as a stage opens it": SAMPLER,
    "the same sampler, its libraries imported plainly": PLAIN_SAMPLER,
    "a gate's library, as its stage imports it": "from pipeline_lib.quality.gate import load_great_expectations; load_great_expectations()",
    "the same library, imported plainly": "import great_expectations",
    "MLflow's client and a new store, as the shipper opens them": TRACKER,
    "the same client and store, imported plainly": PLAIN_TRACKER,
    "vLLM with the micro base, eager": ENGINE.format(eager=True),
    "vLLM with the micro base, compiled": ENGINE.format(eager=False),
}
QUICK = ("Python", "torch", "a job's libraries, as its process imports them")
ENDS = {
    "as Python ends": SAMPLER,
    "as a stage ends": "from pipeline_lib.startup import quick_end\nwith quick_end():\n"
    + indent(SAMPLER, "    "),
}


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
    environment |= {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"), "BENCH_FOLDER": str(folder)}
    report.unlink(missing_ok=True)
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    if not report.is_file():
        raise RuntimeError(f"`{code}` ended with {done.returncode}: {done.stderr[-2000:]}")
    ended, used = map(float, report.read_text(encoding="utf-8").split())
    return ended - began, used


def _end(code: str, folder: Path) -> float:
    """Seconds from the end of `code` to the end of its process."""
    report = folder / "report"
    program = f"{code}\nimport time\nopen({str(report)!r}, 'w').write(str(time.monotonic()))"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "OMP_NUM_THREADS": "2"}, capture_output=True, check=True)  # fmt: skip
    return time.monotonic() - float(report.read_text(encoding="utf-8"))


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
    ends: dict[str, list[float]] = {name: [] for name in ENDS}
    for _ in range(bench.rounds):
        for name, code in ENDS.items():
            ends[name].append(_end(code, bench.folder))
    text += "\n\n" + table(
        ["the end of a process that sampled", "seconds"],
        [[name, spread(seconds).show(2)] for name, seconds in ends.items()],
    )
    return text if bench.quick else f"{text}\n\n{_saved(measured)}"


def _saved(measured: dict[str, list[tuple[float, float]]]) -> str:
    pairs = (
        ("a job's libraries", "a job's libraries, as its process imports them", "the same libraries, imported plainly"),
        ("the sampler", "the CPU's sampler with the micro base, as a stage opens it", "the same sampler, its libraries imported plainly"),
        ("a gate's library", "a gate's library, as its stage imports it", "the same library, imported plainly"),
        ("MLflow's client", "MLflow's client and a new store, as the shipper opens them", "the same client and store, imported plainly"),
    )  # fmt: skip
    said = []
    for what, *names in pairs:
        lean, plain = ([pair[1] for pair in measured[name]] for name in names)
        said.append(f"{what} **{ratio_of_pairs(plain, lean).show(1)}×**")
    return f"Imported plainly costs more processor time: {', '.join(said)}."


BENCHMARK = Benchmark("startup", "Starting a process", _run)
