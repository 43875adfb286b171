"""A training job starts quickly: what the libraries offer to import and a job never uses stays unimported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline_lib.training.startup import UNUSED, absent
from tests.unit.training.tiny import build_world, grpo_spec

ROOT = Path(__file__).resolve().parents[3]
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


@pytest.mark.parametrize("package", UNUSED)
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
