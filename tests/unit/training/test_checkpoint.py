"""The checkpoint directory: what is kept, what is refused."""

from __future__ import annotations

import errno

import pytest
import torch

from pipeline_lib.errors import DataError, StorageError
from pipeline_lib.training.checkpoint import CheckpointStore, verify
from pipeline_lib.training.distributed import World

ALONE = World(0, 1, torch.device("cpu"))


def _store(tmp_path):
    return CheckpointStore(tmp_path, ALONE)


def test_the_newest_and_the_one_before_are_kept(tmp_path):
    store = _store(tmp_path)
    for step in (1, 2, 3):
        store.save(step, {}, {"step": step}, {"x": torch.tensor([step])})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    state, tensors = store.load({})
    assert state == {"step": 3}
    assert tensors["x"].tolist() == [3]


def test_nothing_to_resume(tmp_path):
    assert _store(tmp_path).load({}) is None


@pytest.mark.parametrize("harm", ["truncate", "remove", "flip", "manifest"])
def test_any_damage_is_found(tmp_path, harm, capsys):
    store = _store(tmp_path)
    store.save(1, {}, {"step": 1}, {})
    store.save(2, {}, {"step": 2}, {})
    newest = tmp_path / "step-00000002"
    target = newest / ("manifest.json" if harm == "manifest" else "tensors.pt")
    if harm == "remove":
        target.unlink()
    elif harm == "flip":
        data = bytearray(target.read_bytes())
        data[len(data) // 2] ^= 1
        target.write_bytes(data)
    else:
        target.write_bytes(target.read_bytes()[:-5])
    with pytest.raises(DataError):
        verify(newest)
    assert store.load({})[0] == {"step": 1}
    assert "warning" in capsys.readouterr().err


def test_a_half_written_one_is_never_read(tmp_path):
    store = _store(tmp_path)
    (tmp_path / ".partial-00000009").mkdir()
    (tmp_path / ".partial-00000009" / "state.json").write_text("{}")
    assert store.load({}) is None
    store.save(10, {}, {"step": 10}, {})
    assert not list(tmp_path.glob(".partial-*"))


def test_random_state_comes_back(tmp_path):
    torch.manual_seed(5)
    _store(tmp_path).save(1, {}, {}, {})
    wanted = torch.rand(3)
    torch.manual_seed(6)
    _store(tmp_path).load({})
    assert torch.equal(torch.rand(3), wanted)


class _Failing:
    def __init__(self, write):
        self.write = write

    def save(self, folder):
        self.write()


def _no_space():
    raise OSError(errno.ENOSPC, "No space left on device")


def _stale():
    raise OSError(errno.ESTALE, "Stale file handle")


def _lost_peer():
    raise RuntimeError("writev [127.0.0.1]: Connection reset by peer")


@pytest.mark.parametrize("write", [_no_space, lambda: torch.save(torch.zeros(100_000), "/dev/full")])
def test_a_full_disk_is_one_clear_error_and_keeps_the_last(tmp_path, write):
    store = _store(tmp_path)
    store.save(1, {}, {"step": 1}, {})
    with pytest.raises(StorageError, match="disk is full"):
        store.save(2, {"policy": _Failing(write)}, {"step": 2}, {})
    assert store.load({})[0] == {"step": 1}


@pytest.mark.parametrize(("write", "kind"), [(_stale, OSError), (_lost_peer, RuntimeError)])
def test_what_may_pass_is_not_called_a_full_disk(tmp_path, write, kind):
    """A crash is tried again; a full disk is not."""
    with pytest.raises(kind):
        _store(tmp_path).save(1, {"policy": _Failing(write)}, {}, {})
