"""The process group and the DeepSpeed engine: the same code path for one process and for many (design §5).

World size 1 needs no launcher and no port: a store in memory is enough. With more ranks, gloo (or nccl) meets at
the address the launcher exports. Ranks take equal numbers of micro-batches, because ZeRO's collectives run in
every forward and backward.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline_lib.startup import import_deepspeed

if TYPE_CHECKING:
    from pipeline_lib.params import EngineParams

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""The longest a rank waits for another that lives; one that does not is missed sooner (`heartbeat`)."""
ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Where ranks meet that are all on one machine."""
ELSEWHERE = "203.0.113.1"
"""An address of nobody (RFC 5737): the way to it is the default route. Nothing is sent there."""


@dataclass(frozen=True, slots=True)
class World:
    """This process among its peers."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """True on the rank that writes files."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum over all ranks, in float64."""
        if self.size == 1:
            return [float(value) for value in values]
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def max(self, value: int) -> int:
        """Largest value of any rank."""
        if self.size == 1:
            return value
        largest = torch.tensor([value], dtype=torch.long)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest.item())

    def gather(self, value: Any) -> list[Any]:
        """Every rank's object, by rank, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.size > 1:
            dist.barrier()


def place_in_world() -> tuple[int, int]:
    """(this rank, how many there are), as the launcher says; (0, 1) without one."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def join_world(engine: EngineParams) -> World:
    """Enter the process group that the environment describes (RANK, WORLD_SIZE, MASTER_*); alone without it."""
    rank, size = place_in_world()
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    torch.set_num_threads(engine.threads or int(os.environ.get("OMP_NUM_THREADS", "0")) or _share(size))
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        if size == 1:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        else:
            if interface := interface_to(os.environ.get("MASTER_ADDR", LOOPBACK[0])):
                os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
            dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    local = int(os.environ.setdefault("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    return World(rank, size, device)


def interface_to(address: str) -> str | None:
    """The network interface by which this machine reaches `address` (IP or name); None where no route tells.

    Left alone, gloo tells its peers the address that this host's own name resolves to. That is 127.0.1.1 on a usual Debian,
    or nothing at all. On the host of `address` itself its name may be loopback as well; the default route decides then.
    """
    if address in LOOPBACK:
        return "lo"
    for target in (address, ELSEWHERE):
        here = _source_address(target)
        if here is not None and not here.startswith("127.") and here != "::1":
            return next(
                (
                    name
                    for name, known in psutil.net_if_addrs().items()
                    if here in [each.address.partition("%")[0] for each in known]
                ),
                None,
            )
    return None


def _source_address(target: str) -> str | None:
    """The address that packets to `target` would come from."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(target, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # of a datagram socket: chooses the route, sends nothing
            return str(probe.getsockname()[0]).partition("%")[0]
    except OSError:
        return None


def _share(size: int) -> int:
    """Threads of one of `size` ranks on this machine, where no launcher has counted them."""
    return max(len(os.sched_getaffinity(0)) // size, 1)


def leave_world() -> None:
    """Take the process group down; gloo holds threads otherwise."""
    if dist.is_initialized():
        dist.destroy_process_group()


class Engine:
    """A module under DeepSpeed: backward over any number of micro-batches, then one optimizer step."""

    def __init__(
        self,
        module: nn.Module,
        engine: EngineParams,
        world: World,
        *,
        learning_rate: float,
        weight_decay: float,
        max_grad_norm: float,
    ) -> None:
        deepspeed = import_deepspeed()
        self.world = world
        self._sharded = engine.zero_stage == 3
        self._clips_itself = engine.zero_stage == 0 and engine.dtype == "float32"
        self._max_norm = max_grad_norm
        config: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 0.0 if self._clips_itself else max_grad_norm,
            "zero_optimization": {"stage": engine.zero_stage, **_offload(engine)},
            "optimizer": {
                "type": "AdamW",
                "params": {
                    "lr": learning_rate,
                    "betas": ADAM_BETAS,
                    "eps": ADAM_EPS,
                    "weight_decay": weight_decay,
                    "torch_adam": True,
                    "fused": True,  # one pass over the weights instead of eight
                },
            },
            "bf16": {"enabled": engine.dtype == "bfloat16"},
            "steps_per_print": 1 << 30,
        }
        self.deepspeed, self.optimizer, _, _ = deepspeed.initialize(
            model=module, model_parameters=[p for p in module.parameters() if p.requires_grad], config=config
        )
        self.module = module

    def __call__(self, *args: Any) -> Any:
        return self.deepspeed(*args)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of `loss`, a share of the batch's loss. `last` on the step's final micro-batch.

        DeepSpeed averages gradients over ranks; the shares must add up, so the loss is scaled by the world size.
        """
        self.deepspeed.set_gradient_accumulation_boundary(last)
        self.deepspeed.backward(loss * self.world.size)
        if not last:
            self.deepspeed.step()

    def step(self, learning_rate: float) -> float:
        """Clip, update the weights with `learning_rate`, clear the gradient; returns the norm before clipping."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        if self._clips_itself:
            # DeepSpeed's plain float32 path clips without telling the norm.
            norm = nn.utils.clip_grad_norm_(self.module.parameters(), self._max_norm)
            self.deepspeed.step()
            return float(norm)
        self.deepspeed.step()
        norm = self.deepspeed.get_global_grad_norm()
        return float(norm) if norm is not None else 0.0

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """Inside, every parameter is whole on every rank (ZeRO-3 shards them)."""
        if not self._sharded:
            yield
            return
        with import_deepspeed().zero.GatheredParameters(list(self.module.parameters())):
            yield

    def save(self, folder: Path) -> None:
        """Write weights and optimizer state of this rank below `folder`. Every rank calls it."""
        self.deepspeed.save_checkpoint(str(folder), tag="engine", save_latest=False)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote. Every rank calls it, inside `only_tensors`."""
        path, _ = self.deepspeed.load_checkpoint(str(folder), tag="engine")
        if path is None:
            raise FileNotFoundError(f"{folder}: no DeepSpeed checkpoint")


def _offload(engine: EngineParams) -> dict[str, Any]:
    if engine.offload == "none":
        return {}
    offload: dict[str, Any] = {"offload_optimizer": {"device": "cpu"}}
    if engine.zero_stage == 3:
        offload["offload_param"] = {"device": "cpu"}
    return offload
