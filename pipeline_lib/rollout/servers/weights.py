"""Where servers read a trainer's weights: one safetensors file, in memory for this host, in a directory for others.

For servers on the trainer's own host the file is anonymous memory (memfd), which they open as /proc/<pid>/fd/<n>: no
disk is touched, and nothing is left however the trainer ends. It lives until the next one, because a server that is
replaced under way needs it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline_lib.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class WeightFiles(Protocol):
    """Publishes weights as files that servers can open."""

    def publish(self, model: PreTrainedModel, version: int) -> list[str]:
        """Write `model`'s present weights; paths as servers open them. What was published before may go."""
        ...

    def close(self) -> None:
        """Remove what was published."""
        ...


class MemoryFiles:
    """Weights in this process's memory."""

    def __init__(self) -> None:
        self._held: int | None = None

    def publish(self, model: PreTrainedModel, version: int) -> list[str]:
        """See `WeightFiles.publish`."""
        from safetensors.torch import save

        file = os.memfd_create(f"rollout-weights-{version}")
        with open(file, "wb", closefd=False) as memory:
            memory.write(save(dict(_tensors(model))))
        self.close()
        self._held = file
        return [f"/proc/{os.getpid()}/fd/{file}"]

    def close(self) -> None:
        """Free the memory."""
        if self._held is not None:
            os.close(self._held)
            self._held = None


class DirectoryFiles:
    """Weights in a directory that every host sees at the same path; it must be this job's alone."""

    def __init__(self, folder: Path, rank: int) -> None:
        if not folder.is_dir():
            raise ConfigError(
                "engine.servers.weights_dir",
                str(folder),
                "no such directory; make one that the trainer's and the servers' hosts see at this path",
            )
        self._folder, self._stem = folder, f"rollout-weights-{rank}"
        self.close()  # what a killed trainer left

    def publish(self, model: PreTrainedModel, version: int) -> list[str]:
        """See `WeightFiles.publish`."""
        from safetensors.torch import save_file

        path = self._folder / f"{self._stem}-{version}.safetensors"
        partial = path.with_suffix(".partial")
        save_file(dict(_tensors(model)), str(partial))
        self._remove("*.safetensors")
        partial.rename(path)
        return [str(path)]

    def close(self) -> None:
        """Remove this rank's files."""
        self._remove("*")

    def _remove(self, pattern: str) -> None:
        for path in self._folder.glob(f"{self._stem}-{pattern}"):
            path.unlink(missing_ok=True)


def _tensors(model: PreTrainedModel) -> Mapping[str, Tensor]:
    """Parameters by name; a tied output head is the embedding and is not sent twice."""
    tied = bool(model.config.tie_word_embeddings)
    return {
        name: parameter.detach().contiguous()
        for name, parameter in model.named_parameters()
        if not (tied and name == "lm_head.weight")
    }
