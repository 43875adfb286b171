"""How a rollout server is started: vLLM's own server, told to load this project's routes and worker extension.

`python -m pipeline_lib.rollout.servers.command MODEL_DIR --host H --port P` starts one by hand, for
`engine.servers.addresses`, with the settings of params.yaml's `engine` (or of --params). A trainer starts its local
ones with the same command (`guard`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline_lib.params import EngineParams

ROOT = Path(__file__).resolve().parents[3]
PLUGIN = "r1_rollout"
MAX_SEQUENCES = 256
# Not `vllm serve`: that program asks for its own version under the name `vllm`, which the CPU package has not.
MODULE = "vllm.entrypoints.launchers.api_server.entry"


def command(engine: EngineParams, model_dir: str, host: str, port: int, *, on_gpu: bool) -> list[str]:
    """The command line of one server. Weights start as noise: it serves nothing before a trainer sent some."""
    vllm = engine.vllm
    words = [sys.executable, "-m", MODULE, "--model", model_dir, "--host", host, "--port", str(port)]
    words += ["--load-format", "dummy", "--skip-tokenizer-init", "--generation-config", "vllm"]
    words += ["--dtype", engine.dtype, "--max-model-len", str(vllm.max_model_len)]
    words += ["--max-num-seqs", str(MAX_SEQUENCES), "--enable-prefix-caching"]
    words += ["--logprobs-mode", "processed_logprobs"]
    words += ["--tensor-parallel-size", str(engine.servers.tensor_parallel_size)]
    words += ["--weight-transfer-config", json.dumps({"backend": "safetensors_files"})]
    words += ["--worker-extension-cls", "pipeline_lib.rollout.servers.worker.RolloutWorker"]
    words += ["--disable-log-stats", "--disable-uvicorn-access-log", "--uvicorn-log-level", "warning"]
    if vllm.enforce_eager:
        words.append("--enforce-eager")
    if on_gpu:
        return [*words, "--gpu-memory-utilization", str(vllm.gpu_memory_utilization)]
    if engine.servers.tensor_parallel_size == 1:  # one worker: in the engine's own process
        words += ["--distributed-executor-backend", "uni"]
    return [*words, "--kv-cache-memory-bytes", str(int(vllm.kv_cache_gib * 2**30))]


def environment(*, on_gpu: bool) -> dict[str, str]:
    """What a server needs in its environment: where the plugin is found, and that it may be loaded."""
    path = [str(ROOT), str(ROOT / "infra" / "vllm"), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {
        "PYTHONPATH": os.pathsep.join(path),
        "VLLM_PLUGINS": PLUGIN,
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "VLLM_NO_USAGE_STATS": "1",
    }
    if not on_gpu:
        # Threads follow the process's own affinity; "uni" above is honoured only without multiprocessing.
        settings |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    return settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Become a server (exec)."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline_lib.rollout.servers.command", description="Start a rollout server by hand."
    )
    parser.add_argument("model", help="a model directory: its config.json decides the architecture")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; a private one")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    told = parser.parse_args(arguments)
    from pipeline_lib.modeling import require_model_dir
    from pipeline_lib.params import load_params

    on_gpu = Path("/dev/nvidia0").exists()
    words = command(
        load_params(told.params).engine,
        str(require_model_dir(told.model)),
        told.host,
        told.port,
        on_gpu=on_gpu,
    )
    os.execve(words[0], words, {**os.environ, **environment(on_gpu=on_gpu)})


if __name__ == "__main__":
    main()
