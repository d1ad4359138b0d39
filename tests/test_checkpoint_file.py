"""Checkpoints as files: what goes in comes out, what is damaged is told, and what has not changed is stored once."""

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brakeline.core.errors import BrakelineError, Malformed, Misuse, Unavailable
from brakeline.training.checkpoint import (
    checkpoint_path,
    checkpoint_steps,
    image,
    load_checkpoint,
    referred,
    write,
)
from brakeline.training.digest import snapshot

DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64),
    *(torch.int64, torch.uint8, torch.bool),
)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    tensor = torch.arange(draw(st.integers(0, 9)), draw(st.integers(9, 90)), dtype=torch.float32)
    numbers = torch.zeros(shape).flatten()
    numbers += tensor[:1]
    return numbers.reshape(shape).to(draw(st.sampled_from(DTYPES)))


texts = st.text(max_size=4) | st.just("\ud800")
plain = st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats() | texts | tensors()
trees = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3)
    | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(st.integers(-3, 3) | st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
states = st.dictionaries(st.sampled_from(["data", "model", "rng"]), trees, min_size=1, max_size=3)


def put(folder: Path, step: int, state: dict[str, object], held: dict[str, int] | None = None) -> dict[str, int]:
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    it = snapshot(state, lambda *_: True)
    made = image(step, it, list(it.items()), held or {})
    write(folder, made)
    return made.held


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(states)
def test_what_goes_in_comes_out(tmp_path: Path, state: dict[str, object]) -> None:
    checkpoint_path(tmp_path, 3).unlink(missing_ok=True)
    put(tmp_path, 3, state)
    again = load_checkpoint(tmp_path, 3)
    assert again.digest() == snapshot(state, lambda *_: True).digest()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_told_or_is_another_state(tmp_path: Path, data: st.DataObject) -> None:
    path = checkpoint_path(tmp_path, 3)
    state = {"model": {"a": torch.arange(4.0), "b": [1, (2.5, "c", None)]}, "rng": {1: True}}
    path.unlink(missing_ok=True)
    put(tmp_path, 3, state)
    whole = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
    for at in data.draw(st.lists(st.integers(0, max(0, len(whole) - 1)), min_size=1, max_size=3)):
        if whole:
            whole[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    try:
        again = load_checkpoint(tmp_path, 3)
    except BrakelineError:
        return
    assert again.digest() != snapshot(state, lambda *_: True).digest() or whole == path.read_bytes()


def test_a_large_tensor_that_has_not_changed_is_stored_once(tmp_path: Path) -> None:
    base, adapter = torch.randn(1 << 19), torch.zeros(8)
    held = put(tmp_path, 0, {"model": {"base": base, "adapter": adapter}})
    first = checkpoint_path(tmp_path, 0).stat().st_size
    for step in (5, 10):
        adapter += 1
        held = put(tmp_path, step, {"model": {"base": base, "adapter": adapter}}, held)
        assert checkpoint_path(tmp_path, step).stat().st_size < first / 100
        assert referred(tmp_path, step) == {0}
        assert torch.equal(load_checkpoint(tmp_path, step).tree["model"]["base"], base)
    base += 1
    put(tmp_path, 15, {"model": {"base": base, "adapter": adapter}}, held)
    assert referred(tmp_path, 15) == frozenset()
    checkpoint_path(tmp_path, 0).unlink()
    with pytest.raises(Unavailable, match="no checkpoint of step 0"):
        load_checkpoint(tmp_path, 10)
    assert load_checkpoint(tmp_path, 15).tree["model"]["adapter"].tolist() == [2.0] * 8
    assert checkpoint_steps(tmp_path) == [5, 10, 15]


def test_what_is_written_is_what_was_hashed(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    weight = torch.zeros(8)
    it = snapshot({"model": weight}, lambda *_: True)
    items = list(it.items())
    weight.data += 1
    with pytest.raises(Misuse, match=r"written to while it was recorded"):
        write(tmp_path, image(4, it, items, {}))
    assert checkpoint_steps(tmp_path) == []


def edited(path: Path, change: object) -> None:
    """The file with its header changed by `change`, a function of the index."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    index = json.loads(header["__metadata__"]["brakeline"])
    change(index)  # type: ignore[operator]
    header["__metadata__"]["brakeline"] = json.dumps(index, sort_keys=True, separators=(",", ":"))
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(struct.pack("<Q", len(head)) + head + data[8 + size :])


@pytest.mark.parametrize(
    "change",
    [
        lambda i: i["tensors"][0].update(shape=[2**47, 2**47]),
        lambda i: i["tensors"][0].update(shape=[1] * 100),
        lambda i: i["tensors"][0].update(shape=[-4]),
        lambda i: i["tensors"][0].update(shape=[5]),
        lambda i: i["tensors"][0].update(dtype="torch.nn"),
        lambda i: i["tensors"][0].update(dtype="float32"),
        lambda i: i["tensors"][0].update(digest="ab" * 32),
        lambda i: i["tensors"].append(i["tensors"][0]),
        lambda i: i["tensors"].clear(),
        lambda i: i["structures"].append("nothing"),
        lambda i: i.update(step=4),
        lambda i: i.update(format="brakeline/checkpoint/v1"),
    ],
)
def test_sizes_and_names_are_checked_before_they_cost_anything(tmp_path: Path, change: object) -> None:
    put(tmp_path, 3, {"model": {"a": torch.arange(4.0)}})
    edited(checkpoint_path(tmp_path, 3), change)
    with pytest.raises((Malformed, Unavailable)):
        load_checkpoint(tmp_path, 3)


def test_a_list_that_says_it_is_endless_is_not_read(tmp_path: Path) -> None:
    put(tmp_path, 3, {"model": {}})
    checkpoint_path(tmp_path, 3).write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    with pytest.raises(Malformed, match="too long"):
        load_checkpoint(tmp_path, 3)
