"""Processes start and end quickly: what libraries offer to import and nothing uses stays unimported, nothing is taken apart at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline_lib.startup import SPINS, UNUSED, absent, deferred, uncollected
from tests.unit.training.tiny import build_world, grpo_spec

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import json, sys
from pathlib import Path
from pipeline_lib.training import job, samples_table

imported = {}
write = samples_table.write_rollouts

def note(moment):
    imported[moment] = sorted(name for name, module in sys.modules.items() if module is not None)

def noting(*arguments):
    note("after the last step")
    write(*arguments)

samples_table.write_rollouts = noting
job.run(Path("job").resolve())
note("at the end")
Path("imported.json").write_text(json.dumps(imported))
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> dict[str, list[str]]:
    """Every module in a process of its own that runs a GRPO job: after its last step, and when all is written."""
    world = tmp_path_factory.mktemp("world")
    build_world(world)
    (world / "job").mkdir()
    (world / "job" / "spec.json").write_text(grpo_spec(steps=2).to_json(), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("R1_")}
    environment |= {"PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=world, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (world / "job" / "result.json").is_file()
    return json.loads((world / "imported.json").read_text(encoding="utf-8"))


def test_the_job_really_ran_with_its_libraries(imported):
    assert {"torch", "transformers", "deepspeed"} <= set(imported["after the last step"])


@pytest.mark.parametrize("package", [*UNUSED, "gguf"])
def test_a_job_runs_without_a_package_it_does_not_use(imported, package):
    """pandas up to the last step only: pyarrow itself asks for it while it writes the sample table."""
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed: nothing could import it")
    moment = "after the last step" if package == "pandas" else "at the end"
    assert package not in {name.partition(".")[0] for name in imported[moment]}


def test_a_job_does_not_import_the_compiler(imported):
    """DeepSpeed decorates a function with `torch.compile`, which imports the whole of inductor unless it is kept from it."""
    names = imported["at the end"]
    assert "deepspeed.runtime.zero.muon.muon_optimizer" in names
    assert "torch._inductor.compile_fx" not in names


def test_absent_hides_what_is_not_imported_yet_and_gives_it_back():
    assert "wave" not in sys.modules
    with absent("wave", "json"):
        with pytest.raises(ImportError):
            import wave
        import json as still_here

        assert still_here is json
    import wave

    assert wave.open


SAMPLING = """
import sys
from pathlib import Path
from pipeline_lib.params import load_params
from pipeline_lib.rollout import open_generator

generator = open_generator("assets/micro/base", load_params(Path("params.yaml")).engine)
print(*sorted({name.partition(".")[0] for name, module in sys.modules.items() if module is not None}))
"""


def test_a_stage_that_samples_imports_nothing_it_does_not_use():
    done = subprocess.run(
        [sys.executable, "-c", SAMPLING], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    packages = set(done.stdout.split())
    assert {"torch", "transformers"} <= packages
    assert packages.isdisjoint(UNUSED)


def test_a_deferred_module_is_loaded_when_it_is_used(tmp_path, monkeypatch):
    (tmp_path / "late.py").write_text("import builtins\nbuiltins.late_ran = True\nANSWER = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)
    with deferred("late", "no_such_module"):
        import late

        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            import no_such_module  # noqa: F401
    assert sys.meta_path == finders
    import builtins

    assert not hasattr(builtins, "late_ran")
    assert late.ANSWER == 42
    assert builtins.late_ran
    del sys.modules["late"], builtins.late_ran


GATE = """
import sys
from pathlib import Path
from pipeline_lib.quality.gate import GatePart, load_great_expectations, run_gate

load_great_expectations()
import great_expectations.expectations as gxe
import pandas as pd

def check(name, expectation):
    frame = pd.DataFrame({"number": [0, 1, 2], "kind": ["a", "b", "b"]})
    run_gate(name, [GatePart("rows", frame, [expectation])], Path(f"{name}.json"), Path(f"docs_{name}"))
    print(*(part for part in ("altair.vegalite", "scipy.stats._stats_py") if part in sys.modules))

check("usual", gxe.ExpectColumnValuesToBeInSet(column="kind", value_set=["a", "b"]))
wanted = {"values": ["a", "b"], "weights": [0.3, 0.7]}
check("rare", gxe.ExpectColumnKLDivergenceToBeLessThan(column="kind", partition_object=wanted, threshold=0.1))
"""


def test_a_gate_does_not_load_what_its_expectations_do_not_use_and_an_expectation_that_does_finds_it(
    tmp_path,
):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", GATE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["", "altair.vegalite scipy.stats._stats_py"]
    for name in ("usual", "rare"):
        assert json.loads((tmp_path / f"{name}.json").read_text())["success"]
        assert list((tmp_path / f"docs_{name}").rglob("*.html"))


@pytest.mark.parametrize("collecting", [True, False])
def test_the_garbage_collector_rests_and_is_left_as_it_was(collecting):
    import gc

    before = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        with uncollected():
            assert not gc.isenabled()
        assert gc.isenabled() is collecting
    finally:
        (gc.enable if before else gc.disable)()


PROGRAM = """
import atexit, sys, threading, time
from pipeline_lib.startup import quick_end

class Module:
    def __del__(self):
        print("taken apart")

def finish():
    time.sleep(0.3)
    print("thread ended")

def main():
    sys.modules["module"] = Module()
    atexit.register(print, "handler ran")
    threading.Thread(target=finish).start()
    print("no line end", end="\\n")
    {end}

with quick_end():
    main()
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("pass", 0),
        ("sys.exit(75)", 75),
        ("sys.exit()", 0),
        ("sys.exit('one line')", 1),
        ("raise KeyError(5)", 1),
    ],
)
def test_a_program_ends_with_its_code_after_its_threads_and_handlers(end: str, code: int):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{end}", end)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines()[:3] == ["no line end", "thread ended", "handler ran"]
    assert ("taken apart" in done.stdout) == (end == "raise KeyError(5)"), "an error goes Python's own way"
    assert ("KeyError: 5" in done.stderr) == (end == "raise KeyError(5)")
    assert ("one line" in done.stderr) == ("one line" in end)


def test_a_reader_that_is_gone_is_no_success():
    """A pipe that nobody reads: Python's own end reports it, with 120."""
    program = "import sys\nfrom pipeline_lib.startup import quick_end\nwith quick_end():\n    sys.stdin.read()\n    print('x' * 100)"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    process.communicate(timeout=60)
    assert process.returncode == 120


STAGE = "from tasks import _main; _main._run_to_its_code = lambda *_: __import__('torch'); _main.run_stage('none', main)"
PROGRAMS = {
    "stage": ["-c", f"def main(): ...\n{STAGE}"],
    "job": ["-m", "pipeline_lib.training.job", "no-such-job"],
}
"""Up to where torch, with its OpenMP, is loaded."""


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("own", "spins"), [({}, SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")]
)
def test_openmp_is_told_to_wait_briefly_unless_somebody_chose(program, own, spins, tmp_path):
    """What OpenMP itself says that it does."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE", "PYTHONPATH": str(ROOT), **own}
    done = subprocess.run(
        [sys.executable, *PROGRAMS[program]], cwd=tmp_path, env=environment, capture_output=True, text=True
    )  # fmt: skip
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr
