"""Checkpoints that a lab shows to harm whoever opens them: an inspector neither waits, nor dies, nor believes."""

import os
from pathlib import Path

import pytest
import torch

from brakeline.core.errors import BrakelineError, Malformed, Reason, Refused, Unavailable
from brakeline.core.transcript import Leaf
from brakeline.training.checkpoint import checkpoint_path, listed_digest, load_checkpoint
from brakeline.training.digest import snapshot
from brakeline.training.replay import open_recorded
from brakeline.training.tensorfile import TensorFile
from test_checkpoint_file import edited, put

A = {"model": {"a": torch.arange(4.0)}}


def header(path: Path, text: bytes, size: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + size)


def bytes_of(size: int, shape: str = "") -> bytes:
    entry = f'{{"dtype":"U8","shape":[{shape or size}],"data_offsets":[0,{size}]}}'
    return f'{{"x":{entry}}}'.encode()


def test_what_is_referred_to_may_be_a_pipe(tmp_path: Path) -> None:
    put(tmp_path, 3, A)
    edited(checkpoint_path(tmp_path, 3), lambda i: i["tensors"][0].update(step=2))
    os.mkfifo(checkpoint_path(tmp_path, 2))
    with pytest.raises(Unavailable, match="no checkpoint of step 2"):
        load_checkpoint(tmp_path, 3)


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/tty", "/proc/self/mem", "/"])
def test_it_may_lead_to_something_else_than_a_file(tmp_path: Path, target: str) -> None:
    checkpoint_path(tmp_path, 3).parent.mkdir()
    checkpoint_path(tmp_path, 3).symlink_to(target)
    with pytest.raises((BrakelineError, OSError)):
        load_checkpoint(tmp_path, 3)


@pytest.mark.parametrize("shape", [[0, 2**47, 2**47], [2**47] * 60 + [0]])
def test_a_shape_of_nothing_may_be_too_large_to_count(tmp_path: Path, shape: list[int]) -> None:
    put(tmp_path, 3, {"model": {"a": torch.zeros(0)}})
    edited(checkpoint_path(tmp_path, 3), lambda i: i["tensors"][0].update(shape=shape))
    with pytest.raises(Malformed):
        load_checkpoint(tmp_path, 3)


@pytest.mark.parametrize("shape", ["0, 9223372036854775808", "0, 18446744073709551616", "-1", "1.5", "[]", ""])
def test_a_header_may_say_what_no_tensor_is(tmp_path: Path, shape: str) -> None:
    header(checkpoint_path(tmp_path, 3), bytes_of(0, shape or "1"))
    with pytest.raises(Malformed):
        load_checkpoint(tmp_path, 3)


def test_holes_are_not_read(tmp_path: Path) -> None:
    # Four TiB, for nothing: what nobody lists is no business of the reader's.
    header(checkpoint_path(tmp_path, 3), bytes_of(4 << 40), 4 << 40)
    with pytest.raises(Malformed):
        load_checkpoint(tmp_path, 3)


def test_a_file_may_be_cut_short_while_it_is_read(tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path, 3)
    header(path, bytes_of(1 << 26), 1 << 26)
    with TensorFile(path) as file:
        os.truncate(path, 200)
        with pytest.raises(Malformed, match="ends early"):
            file.read("x")


def test_one_tensor_is_not_listed_twice(tmp_path: Path) -> None:
    put(tmp_path, 3, {"model": {"a": torch.zeros(4), "b": torch.zeros(4)}})
    edited(checkpoint_path(tmp_path, 3), lambda i: i["tensors"][1].update(i["tensors"][0]))
    with pytest.raises(Malformed, match="twice"):
        load_checkpoint(tmp_path, 3)


def test_the_list_is_compared_with_the_leaf_before_a_tensor_is_read(tmp_path: Path, monkeypatch) -> None:
    put(tmp_path, 3, A)
    state = snapshot(A, lambda *_: True).digest()
    leaf = Leaf(3, state, b"b" * 32, bytes(32), 0.5, 3)
    assert listed_digest(tmp_path, 3) == state == open_recorded(tmp_path, leaf).digest()
    put(tmp_path / "other", 3, {"model": {"a": torch.arange(5.0)}})
    monkeypatch.setattr(TensorFile, "tensor", lambda *_: pytest.fail("it was read"))
    with pytest.raises(Refused) as e:
        open_recorded(tmp_path / "other", leaf)
    assert e.value.reason is Reason.TAMPERED


def test_a_list_that_fits_and_bytes_that_do_not(tmp_path: Path) -> None:
    put(tmp_path, 3, A)
    path = checkpoint_path(tmp_path, 3)
    leaf = Leaf(3, listed_digest(tmp_path, 3), b"b" * 32, bytes(32), 0.5, 3)
    data = bytearray(path.read_bytes())
    with TensorFile(path) as file:
        name = next(n for n in file._at if not n.startswith("structure"))
        data[file._at[name][0]] ^= 1
    path.write_bytes(data)
    assert listed_digest(tmp_path, 3) == leaf.state
    with pytest.raises(Refused):
        open_recorded(tmp_path, leaf)


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    header(checkpoint_path(tmp_path, 3), b"[]")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        with pytest.raises(Malformed):
            load_checkpoint(tmp_path, 3)
    assert len(os.listdir("/proc/self/fd")) == before
