"""A rollout server on this host, as its trainer sees it: an address, a key, and a guard process that ends with it."""

from __future__ import annotations

import getpass
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline_lib.params import EngineParams
from pipeline_lib.rollout.servers.command import command, environment
from pipeline_lib.rollout.servers.guard import MODEL
from pipeline_lib.rollout.servers.placement import cores_of_server, gpus_of_server

STOP_SECONDS = 20.0


class LocalServer:
    """Started when constructed. It listens on 127.0.0.1, on a free port, for whoever has its key."""

    def __init__(self, engine: EngineParams, number: int, files: Mapping[str, str], ranks: int) -> None:
        """`files`: the model's configuration by file name; `ranks`: trainer processes, which have GPUs of their own."""
        on_gpu = Path("/dev/nvidia0").exists()
        port = _free_port()
        self.address, self.key = f"127.0.0.1:{port}", secrets.token_hex(16)
        # What torch compiles is kept for the next server; everything else temporary goes with this one.
        compiled = os.path.join(tempfile.gettempdir(), f"torchinductor_{getpass.getuser()}")
        settings = {
            **environment(on_gpu=on_gpu),
            "VLLM_API_KEY": self.key,
            "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", compiled),
        }
        cores: list[int] = []
        if on_gpu:
            each = engine.servers.tensor_parallel_size
            settings["CUDA_VISIBLE_DEVICES"] = ",".join(gpus_of_server(number, each, _visible_gpus(), ranks))
        else:
            cores = cores_of_server(number, engine.servers.count, sorted(os.sched_getaffinity(0)))
            settings["OMP_NUM_THREADS"] = str(len(cores))
        told = {
            "parent": os.getpid(),
            "files": dict(files),
            "command": command(engine, MODEL, "127.0.0.1", port, on_gpu=on_gpu),
            "environment": settings,
            "cores": cores,
        }
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "pipeline_lib.rollout.servers.guard"],
            env={**_without_ranks(), "PYTHONPATH": settings["PYTHONPATH"]},
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._guard.stdin is not None
        self._guard.stdin.write(json.dumps(told).encode())
        self._guard.stdin.close()

    @property
    def guard_pid(self) -> int:
        """The guard's process id; the server's processes descend from it."""
        return self._guard.pid

    def ended(self) -> bool:
        """The guard has left, and so has the server."""
        return self._guard.poll() is not None

    def kill(self) -> None:
        """End the server, whatever it is doing, and wait until it is gone."""
        self._guard.terminate()
        try:
            self._guard.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._guard.kill()  # its server is told by the kernel (PR_SET_PDEATHSIG)
            self._guard.wait()


def _without_ranks() -> dict[str, str]:
    """This environment without what makes a process a rank of the trainer: vLLM forms groups of its own."""
    ranks = (
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "LOCAL_SIZE",
    )
    return {
        name: value for name, value in os.environ.items() if name not in (*ranks, "CROSS_RANK", "CROSS_SIZE")
    }


def _visible_gpus() -> Sequence[str]:
    if told := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return told.split(",")
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
