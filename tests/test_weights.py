"""Published weights beside the end of a run: the same is told from what nearly is, and no file fools anybody."""

import base64
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, load_file, save_file
from torch import nn

import vector
from brakeline.cli import weights as command
from brakeline.core.dsse import pae
from brakeline.core.encoding import convert, parse_json, sha256
from brakeline.core.errors import Malformed, Misuse, Reason, Refused, Unavailable
from brakeline.core.finding import Fault, Finding
from brakeline.core.keys import PrivateKey
from brakeline.core.provenance import TRANSCRIPT, Transcript, signed_model, signed_transcript, standing, transcript
from brakeline.core.tlog.checkpoint import checkpoint_in
from brakeline.training.checkpoint import checkpoint_path
from brakeline.training.digest import capture, snapshot
from brakeline.training.published import INDEX, Published
from brakeline.training.ranks import Together
from brakeline.training.recorder import LEAVES
from brakeline.training.weights import Likeness, compare, end_of
from test_audit import bench, recorded
from world import key

Weights = dict[str, torch.Tensor]
EMBED, HEAD = "embed.weight", "head.weight"


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


class Net(nn.Module):
    """Has what weights may have: tied ones, buffers that are kept and not, integers, a scalar, a NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.norm = nn.BatchNorm1d(4)
        self.mid = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.tensor(0.1))
        self.register_buffer("place", torch.arange(3.0), persistent=False)
        with torch.no_grad():
            self.mid.bias[1] = float("nan")


@pytest.fixture
def net() -> Net:
    torch.manual_seed(7)
    return Net()


def state_of(module: nn.Module) -> Weights:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def found(module: nn.Module | dict[str, Any], weights: Weights, folder: Path) -> Likeness:
    save_file(weights, folder / "model.safetensors")
    objects = module if isinstance(module, dict) else {"model": module}
    return compare(capture(objects), Published(folder / "model.safetensors"))


# --- the same


def test_the_same_weights(net, tmp_path):
    weights = state_of(net)
    assert found(net, weights, tmp_path) == Likeness("model", True, len(weights))


def test_a_tied_weight_may_be_left_out_and_an_integer_too(net, tmp_path):
    weights = state_of(net)
    del weights[HEAD], weights["norm.num_batches_tracked"]
    assert found(net, weights, tmp_path) == Likeness("model", True, len(weights), (), (HEAD,))


def test_a_buffer_that_only_memory_keeps_may_be_there(net, tmp_path):
    assert found(net, {**state_of(net), "place": torch.arange(3.0)}, tmp_path).same
    assert not found(net, {**state_of(net), "place": torch.arange(3.0) + 1}, tmp_path).same


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_cast_is_the_same_and_is_told(net, tmp_path, dtype):
    weights = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state_of(net).items()}
    assert found(net, weights, tmp_path) == Likeness("model", True, len(weights), (str(dtype)[6:],))
    weights["mid.bias"] = state_of(net)["mid.bias"]  # what stays as it was may stay
    assert found(net, weights, tmp_path).casts == (str(dtype)[6:],)


def wrapped(module: nn.Module, *names: str) -> nn.Module:
    for name in names:
        outer = nn.Module()
        outer.add_module(name, module)
        module = outer
    return module


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "_orig_mod.", "module._orig_mod."])
def test_one_prefix_may_have_come_or_gone(net, tmp_path, prefix):
    published = {prefix + k: v for k, v in state_of(net).items()}
    assert found(net, published, tmp_path).same
    trained = wrapped(net, *reversed(prefix.split(".")[:-1]))
    assert found(trained, state_of(net), tmp_path).same
    assert found(trained, published, tmp_path).same
    if prefix:
        published[EMBED] = published.pop(prefix + EMBED)
        assert not found(net, published, tmp_path).same, "one prefix is for all"


def test_the_module_that_they_are_is_named(net, tmp_path):
    average = torch.optim.swa_utils.AveragedModel(net)
    with torch.no_grad():
        average.module.mid.weight += 1
    objects = {"average": average, "model": net, "optimizer": torch.optim.SGD(net.parameters())}
    assert found(objects, state_of(net), tmp_path) == Likeness("model", True, 10)
    assert found(objects, state_of(average.module), tmp_path) == Likeness("average", True, 10)
    assert found({}, state_of(net), tmp_path).why == "the run recorded no module"


# --- not the same


def one_ulp(w: Weights) -> None:
    w["mid.weight"].view(torch.int32)[2, 1] += 1


def other_nan(w: Weights) -> None:
    w["mid.bias"].view(torch.int32)[1] ^= 1


def minus_zero(w: Weights) -> None:
    w["norm.bias"].neg_()


def swapped(w: Weights) -> None:
    w["norm.weight"], w["norm.running_mean"] = w["norm.running_mean"], w["norm.weight"]


def renamed(w: Weights) -> None:
    w["mid.gain"] = w.pop("mid.weight")


def untied(w: Weights) -> None:
    w[HEAD] = w[HEAD] + 1


def cut(w: Weights) -> None:
    w["mid.weight"] = w["mid.weight"][:2].clone()


def retyped(w: Weights) -> None:
    w["mid.weight"] = w["mid.weight"].view(torch.int32)


def badly_cast(w: Weights) -> None:
    w["mid.weight"] = w["mid.weight"].bfloat16() * 2


CHEATS: dict[Callable[[Weights], object], str] = {
    one_ulp: "'mid.weight' has other bits than recorded",
    other_nan: "'mid.bias' has other bits than recorded",
    minus_zero: "'norm.bias' has other bits than recorded",
    swapped: "'norm.running_mean' has other bits than recorded",
    renamed: "'mid.gain' is no tensor of the run's model",
    untied: "'head.weight' has other bits than recorded",
    cut: "'mid.weight' has the shape (2, 4), recorded is (4, 4)",
    retyped: "'mid.weight' is of the type int32, recorded is float32",
    badly_cast: "'mid.weight' is not what was recorded, cast to bfloat16",
    lambda w: w.pop("mid.weight"): "'mid.weight' is not among them",
    lambda w: w.pop("scale"): "'scale' is not among them",
    lambda w: w.pop("norm.bias"): "'norm.bias' is not among them",
    lambda w: [w.pop(HEAD), w.pop(EMBED)]: "'embed.weight' is not among them",
    lambda w: w.update(more=torch.zeros(2)): "'more' is no tensor of the run's model",
    lambda w: w.update(more=torch.zeros(1000)): "'more' is no tensor of the run's model",
    lambda w: w.update({"mid.weight": torch.zeros(1000)}): "'mid.weight' has the shape (1000,), recorded is (4, 4)",
    dict.clear: "they hold no tensor",
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_what_is_not_the_same_is_named(net, tmp_path, cheat):
    weights = state_of(net)
    cheat(weights)
    likeness = found(net, weights, tmp_path)
    assert (likeness.same, likeness.why) == (False, CHEATS[cheat])


# --- several ranks


def ranks(*states: Weights) -> Together:
    tree = [{"model": {"state": state, "transient": {}}} for state in states]
    return Together(tuple(snapshot(t, lambda *_: True) for t in tree))


def test_copies_and_shards_of_several_ranks(tmp_path):
    big, row = torch.randn(5, 4), torch.arange(4.0)
    path = tmp_path / "model.safetensors"
    save_file({"big": big, "row": row}, path)
    assert compare(ranks({"big": big, "row": row}, {"big": big, "row": row + 1}), Published(path)).same, "rank 0's"
    for dim in (0, 1):
        halves = big.split(3, dim)
        assert compare(ranks(*({"big": half, "row": row} for half in halves)), Published(path)).same
        both = ranks(*({"big": half, "row": r} for half, r in zip(halves, row.split(2), strict=True)))
        assert compare(both, Published(path)).same
        save_file({"big": halves[0].clone(), "row": row}, tmp_path / "half.safetensors")
        assert not compare(both, Published(tmp_path / "half.safetensors")).same


def test_a_state_of_another_form_is_no_module(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(2)}, path)
    odd = [{"state": [1], "transient": {}}, {"state": {1: torch.ones(2), "a": 7}, "transient": {}}]
    for tree in odd:
        assert not compare(snapshot({"model": tree}, lambda *_: True), Published(path)).same
    lost = ranks({"a": torch.ones(2)}, {"b": torch.ones(2)})
    assert not compare(lost, Published(path)).same


# --- files


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(start: int, end: int, shape: list[int] | None = None, dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


BAD = {
    "nothing": b"",
    "ends in the length": b"\0" * 7,
    "ends in the header": raw({"a": entry(0, 1)}, b"x")[:20],
    "a header of 2**63": raw({}, length=2**63),
    "a header that is too long": raw({}, length=10**9),
    "ends early": raw({"a": entry(0, 4)}, b"xyz"),
    "more than is listed": raw({"a": entry(0, 4)}, b"wxyz!"),
    "the same bytes twice": raw({"a": entry(0, 4), "b": entry(0, 4)}, b"wxyz"),
    "bytes that overlap": raw({"a": entry(0, 4), "b": entry(2, 6)}, b"uvwxyz"),
    "a hole": raw({"a": entry(0, 2), "b": entry(3, 4)}, b"wxyz"),
    "backwards": raw({"a": entry(4, 0, [4])}, b"wxyz"),
    "another size": raw({"a": entry(0, 4, [1], "F64")}, b"wxyz"),
    "a name twice": raw(b'{"a":%b,"a":%b}' % ((json.dumps(entry(0, 4)).encode(),) * 2), b"wxyz"),
    "a key twice": raw(b'{"a":{"dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4]}}', b"wxyz"),
    "no type": raw({"a": entry(0, 4, dtype="Q4")}, b"wxyz"),
    "a negative shape": raw({"a": entry(0, 4, [-2, -2])}, b"wxyz"),
    "a shape beyond numbers": raw({"a": entry(0, 0, [0, 2**70])}),
    "many dimensions": raw({"a": entry(0, 1, [1] * 100)}, b"x"),
    "a field more": raw({"a": {**entry(0, 1), "stride": 1}}, b"x"),
    "no object": raw([]),
    "no JSON": raw(b"{"),
    "not UTF-8": raw(b'{"\xff":1}'),
    "infinity": raw(b'{"a":Infinity}'),
    "a deep header": raw(b"[" * 10**5),
    "a long number": raw(b'{"a":' + b"9" * 10**5 + b"}"),
    "a pickle": b"\x80\x04N.",
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_none(tmp_path, name):
    path = tmp_path / "model.safetensors"
    path.write_bytes(BAD[name])
    with pytest.raises(Malformed, match=r"model\.safetensors"):
        list(Published(path).tensors(100))


entries = st.builds(
    lambda start, count, dtype, shape: entry(start, start + count, shape, dtype),
    st.integers(0, 4),
    st.integers(0, 4),
    st.sampled_from(["U8", "F32", "BF16", "I64", "F8_E4M3", "Q4"]),
    st.none() | st.lists(st.integers(0, 4), max_size=3),
)


@given(st.dictionaries(st.text(max_size=2), entries, max_size=3) | st.binary(max_size=40), st.binary(max_size=12))
def test_what_is_read_here_is_what_others_read(tmp_path_factory, header, data):
    """Where this reader takes a file, the safetensors library reads the same in it."""
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(raw(header, data))
    try:
        mine = dict(Published(path).tensors(1000))
    except Malformed:
        return
    theirs = load(path.read_bytes())
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert (value.dtype, value.shape) == (theirs[name].dtype, theirs[name].shape)
        assert value.reshape(-1).view(torch.uint8).equal(theirs[name].reshape(-1).view(torch.uint8))


@given(st.dictionaries(st.text("abc.", min_size=1, max_size=3), st.lists(st.floats(width=32), max_size=4), max_size=3))
def test_what_the_library_writes_is_read(tmp_path_factory, weights):
    path = tmp_path_factory.getbasetemp() / "written.safetensors"
    save_file({name: torch.tensor(x, dtype=torch.float32) for name, x in weights.items()}, path)
    published = Published(path)
    assert {n: v.shape for n, v in published.tensors(100)} == {n: v.shape for n, v in load_file(path).items()}
    assert published.subjects == (("written.safetensors", sha256(path.read_bytes()).hex()),)


def test_what_is_too_large_is_hashed_and_not_held(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(10**6), "b": torch.ones(3)}, path)
    published = Published(path)
    (_, a), (_, b) = published.tensors(3)
    assert (a.device.type, a.shape, b.tolist()) == ("meta", (10**6,), [1, 1, 1])
    assert published.subjects[0].digest == sha256(path.read_bytes()).hex()


def test_no_pipe_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    for path in ("model.safetensors", "none.safetensors", "a\0b"):
        with pytest.raises(Unavailable, match="cannot read"):
            list(Published(tmp_path / path).tensors(1))


def sharded(folder: Path, weights: Weights, **places: str) -> Path:
    """`weights` in two files; `places` change the index."""
    names = sorted(weights)
    parts = {"one.safetensors": names[:3], "two.safetensors": names[3:]}
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, folder / file)
    index = {name: file for file, part in parts.items() for name in part} | places
    (folder / f"model{INDEX}").write_text(json.dumps({"weight_map": {k: v for k, v in index.items() if v}}))
    return folder / f"model{INDEX}"


def test_a_model_in_several_files(net, tmp_path):
    index = sharded(tmp_path, state_of(net))
    for path in (index, tmp_path):
        published = Published(path)
        assert compare(capture({"model": net}), published).same
        assert [s.name for s in published.subjects] == [f"model{INDEX}", "one.safetensors", "two.safetensors"]
        assert all(s.digest == sha256((tmp_path / s.name).read_bytes()).hex() for s in published.subjects)
        assert published.name == tmp_path.name
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")  # which loaders would take instead
    with pytest.raises(Misuse, match=r"model\.safetensors lies beside"):
        Published(tmp_path)


@pytest.mark.parametrize(
    ("places", "why"),
    [
        ({EMBED: "two.safetensors"}, "the index does not place there"),
        ({EMBED: ""}, "the index does not place there"),
        ({"more": "two.safetensors"}, "the index places 'more' where it is not"),
        ({"more": "../two.safetensors"}, "lists no files beside it"),
        ({"more": "/two.safetensors"}, "lists no files beside it"),
        ({"more": "two.bin"}, "lists no files beside it"),
    ],
)
def test_an_index_that_says_something_else(net, tmp_path, places, why):
    with pytest.raises(Malformed, match=why):
        list(Published(sharded(tmp_path, state_of(net), **places)).tensors(100))


@pytest.mark.parametrize("text", [b"[]", b"{}", b'{"weight_map":[]}', b'{"weight_map":{}}', b'{"weight_map":{"a":1}}'])
def test_an_index_that_is_none(tmp_path, text):
    (tmp_path / f"model{INDEX}").write_bytes(text)
    with pytest.raises(Malformed, match="model"):
        Published(tmp_path)


def test_a_folder_with_none_or_two(tmp_path):
    with pytest.raises(Misuse, match="holds 0 files"):
        Published(tmp_path)
    for name in ("a", "b"):
        save_file({"a": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(Misuse, match="holds 2 files"):
        Published(tmp_path)


# --- of a recorded run


def publish(run: bench.Run, path: Path) -> Path:
    """What a lab publishes: its model at the end of the run."""
    save_file({k: v.clone() for k, v in end_of(run.evidence, run.live.now).tree["model"]["state"].items()}, path)
    return path


class Desk:
    """Has of `node.desk.Desk` what the command needs."""

    def __init__(self, run: bench.Run, party: str = "gamma") -> None:
        cosigned = SimpleNamespace(checkpoint=checkpoint_in(run.world.checkpoint()), time=run.world.now)
        self.history = lambda progress: SimpleNamespace(state=run.world.state, events=tuple(run.world.events))
        self.follower = SimpleNamespace(cosigned=cosigned)
        self.me = SimpleNamespace(name=party)
        self.home = SimpleNamespace(key=lambda purpose: key(party))


def asked(weights: Path, **out: Path) -> command.Asked:
    return command.Asked(weights, out.get("statement"), out.get("model_signature"), out.get("model_key"))


def test_the_end_of_a_run_before_its_audits_and_after(tmp_path, capsys):
    run = recorded(tmp_path)
    weights = publish(run, tmp_path / "model.safetensors")
    for inspector, said in (("beta", "0 of two"), ("delta", "1 of two")):
        with pytest.raises(Refused, match=rf"is the end of alpha/run \(step 24\), which is not settled yet: .*{said}"):
            command.judged(Desk(run), run.live.now, run.evidence, asked(weights))
        run.audit(inspector)
    statement = tmp_path / "statement.json"
    assert command.judged(Desk(run), run.live.now, run.evidence, asked(weights, statement=statement)) == 0
    out = capsys.readouterr().out
    assert f"{weights} is the end of alpha/run (step 24), which two inspectors passed: beta, delta\n" in out
    assert "tensors of its 'model', bit for bit\n" in out
    envelope = parse_json(statement.read_bytes())
    payload = base64.b64decode(envelope["payload"])
    (signature,) = envelope["signatures"]
    assert key("gamma").public.verify(base64.b64decode(signature["sig"]), pae(envelope["payloadType"], payload))
    said = parse_json(payload)
    digest = sha256(weights.read_bytes()).hex()
    assert said["subject"] == [{"name": "model.safetensors", "digest": {"sha256": digest}}]
    assert (said["_type"], said["predicateType"]) == ("https://in-toto.io/Statement/v1", TRANSCRIPT)
    predicate, head = said["predicate"], run.live.head
    assert (predicate["run"], predicate["root"], predicate["state"]) == (run.live.id, head.root, head.state)
    assert (predicate["steps"], predicate["head"], predicate["settled"]) == (24, run.live.heads[-1].index, True)
    assert [(a["inspector"], a["verdict"]) for a in predicate["audits"]] == [("beta", "pass"), ("delta", "pass")]
    assert all(a["head"] == predicate["head"] < a["entry"] < predicate["size"] for a in predicate["audits"])
    assert predicate["tree"] == run.world.state.root().hex()


def test_other_weights_are_no_end_and_nothing_is_signed(tmp_path, capsys):
    run = recorded(tmp_path)
    weights, statement = publish(run, tmp_path / "model.safetensors"), tmp_path / "statement.json"
    changed = load_file(weights)
    name = next(iter(changed))
    changed[name].view(torch.int32).view(-1)[0] ^= 1
    save_file(changed, weights)
    for inspector in ("beta", "delta"):
        run.audit(inspector)
    assert command.judged(Desk(run), run.live.now, run.evidence, asked(weights, statement=statement)) == 1
    assert f"is not the end of alpha/run (step 24): '{name}' has other bits" in capsys.readouterr().out
    assert not statement.exists()


def test_a_checkpoint_before_the_end_is_not_the_end(tmp_path):
    run = bench.Run("run", 24, tmp_path)
    kept: list[Weights] = []
    run.events = {20: lambda: kept.append(load_state(run, 20))}
    run.session()
    save_file(kept[0], tmp_path / "model.safetensors")
    assert not compare(end_of(run.evidence, run.live.now), Published(tmp_path / "model.safetensors")).same


def load_state(run: bench.Run, step: int) -> Weights:
    return {k: v.detach().clone() for k, v in run._recorder._objects["model"].state_dict().items()}


def test_a_run_that_was_stopped_has_no_end_yet(tmp_path):
    run = bench.Run("run", 24, tmp_path)
    run.events = {13: run.trip}
    run.session()
    run.world.stamp()
    weights = publish(run, tmp_path / "model.safetensors")
    with pytest.raises(Refused, match=r"\(step 13\), which was never ended: its last head says stopped"):
        command.judged(Desk(run), run.live.now, run.evidence, asked(weights))


def test_a_barred_run_is_a_no(tmp_path, capsys):
    run = bench.Run("run", 24, tmp_path)
    run.session(bench.smuggle(sys.modules[run.code.train.__module__], 1.0, bench.SEGMENT))
    weights, statement = publish(run, tmp_path / "model.safetensors"), tmp_path / "statement.json"
    for inspector in ("beta", "delta"):
        run.audit(inspector)
    assert command.judged(Desk(run), run.live.now, run.evidence, asked(weights, statement=statement)) == 1
    assert f"which is barred: {Fault.REPLAY_MISMATCH}" in capsys.readouterr().out
    assert not statement.exists()
    with pytest.raises(Refused, match="nothing is signed") as e:
        transcript(run.world.state, run.live.now, (), Desk(run).follower.cosigned, "model", ())
    assert e.value.reason is Reason.BARRED


def test_evidence_that_is_not_what_the_log_commits_to(tmp_path):
    run = recorded(tmp_path)
    leaves, last = run.evidence / LEAVES, checkpoint_path(run.evidence, 24)
    whole = leaves.read_bytes()
    leaves.write_bytes(whole[:300] + bytes([whole[300] ^ 1]) + whole[301:])
    with pytest.raises(Refused, match="is not the transcript") as e:
        end_of(run.evidence, run.live.now)
    assert e.value.reason is Reason.TAMPERED
    leaves.write_bytes(whole[:-128])
    with pytest.raises(Refused, match="is not the transcript"):
        end_of(run.evidence, run.live.now)
    leaves.write_bytes(whole)
    kept = last.read_bytes()
    last.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(Unavailable):
        end_of(run.evidence, run.live.now)
    last.unlink()
    with pytest.raises(Unavailable, match="no checkpoint of step 24"):
        end_of(run.evidence, run.live.now)


def test_how_an_end_stands(tmp_path):
    """Only what inspectors passed is relied on, whatever else counts as settled."""
    run = recorded(tmp_path)
    state, change = run.world.state, msgspec.structs.replace
    attested = change(run.live.now, settlement="settled")
    assert standing(state, attested).answer == "not yet", "settled, and nobody has looked"
    alleged = Finding(fault=Fault.NO_PERMIT, severity="violation", segment=(1, 2), detail="")
    body = run.world.audit_of("delta", run.live, alleged, segments=(), verdict="fail", head=run.live.heads[-1].index)
    assert run.world.log("delta", "audit", body).reason is None
    assert standing(run.world.state, run.live.now).why == "which is not settled yet: one finding against it"
    released = change(attested, released=True)
    assert standing(state, released) == ("yes", "which is settled, and of which nothing is owed any more")


def test_runs_that_bind_no_weights(tmp_path):
    run = recorded(tmp_path)
    attested = run.world.opened("alpha", name="attested", rung="attested", segment_steps=bench.SEGMENT)
    with pytest.raises(Misuse, match="binds no weights"):
        end_of(run.evidence, attested.now)
    fresh = run.world.declare("alpha", name="fresh", segment_steps=bench.SEGMENT)
    for ask in (lambda: end_of(run.evidence, fresh.now), lambda: standing(run.world.state, fresh.now)):
        with pytest.raises(Refused, match="no head yet"):
            ask()


# --- what is signed


def model_key(curve: ec.EllipticCurve, how: ser.KeySerializationEncryption | None = None) -> bytes:
    return ec.generate_private_key(curve).private_bytes(*PLAIN[:2], how or ser.NoEncryption())


PLAIN = (ser.Encoding.PEM, ser.PrivateFormat.PKCS8, ser.NoEncryption())
FILES = (("a.safetensors", "11" * 32), ("b.safetensors", "22" * 32))


@pytest.mark.parametrize(
    ("curve", "hash_"),
    [(ec.SECP256R1(), hashes.SHA256()), (ec.SECP384R1(), hashes.SHA384()), (ec.SECP521R1(), hashes.SHA512())],
    ids=["P-256", "P-384", "P-521"],
)
def test_a_model_signature(curve, hash_):
    pem = model_key(curve)
    bundle = json.loads(signed_model("folder", FILES, pem))
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    (signature,) = bundle["dsseEnvelope"]["signatures"]
    public = ser.load_pem_private_key(pem, None).public_key()
    public.verify(base64.b64decode(signature["sig"]), pae("application/vnd.in-toto+json", payload), ec.ECDSA(hash_))
    text = public.public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo)
    assert bundle["verificationMaterial"]["publicKey"]["hint"] == sha256(text).hex()
    said = json.loads(payload)
    whole = sha256(bytes.fromhex("11" * 32 + "22" * 32)).hex()
    assert said["subject"] == [{"name": "folder", "digest": {"sha256": whole}}]
    assert [r["name"] for r in said["predicate"]["resources"]] == ["a.safetensors", "b.safetensors"]


def test_keys_that_sign_no_model():
    password = ser.BestAvailableEncryption(b"x")
    for pem, kind, why in (
        (b"x", Malformed, "not a PEM private key"),
        (model_key(ec.SECP256R1(), password), Misuse, "encrypted"),
        (model_key(ec.SECP256K1()), Misuse, "P-256, P-384 or P-521"),
        (ed25519.Ed25519PrivateKey.generate().private_bytes(*PLAIN), Misuse, "P-256, P-384 or P-521"),
    ):
        with pytest.raises(kind, match=why):
            signed_model("m", FILES, pem)


def test_a_signature_and_its_key_are_asked_for_together(tmp_path):
    with pytest.raises(Misuse, match="go together"):
        command.judged(SimpleNamespace(), SimpleNamespace(), tmp_path, asked(tmp_path, model_key=tmp_path))


@given(st.text(max_size=20), st.binary(max_size=40), st.text(max_size=20), st.binary(max_size=40))
def test_no_two_payloads_have_one_encoding(kind, payload, other, more):
    assert (pae(kind, payload) == pae(other, more)) == ((kind, payload) == (other, more))


@vector.load("provenance", 3, "pae-")
def test_encoding_vectors(v):
    assert pae(v.input["type"], v.bytes("payload")).hex() == v.output["pae"]


@vector.load("provenance", 3, "statement-")
def test_statement_vectors(v):
    private = PrivateKey(v.bytes("seed"))
    made = signed_transcript(v.input["files"], convert(v.input["predicate"], Transcript), private)
    assert made.decode() == v.output["envelope"]
    envelope = parse_json(made)
    payload = base64.b64decode(envelope["payload"])
    (signature,) = envelope["signatures"]
    assert signature["keyid"] == private.public.id
    assert private.public.verify(base64.b64decode(signature["sig"]), pae("application/vnd.in-toto+json", payload))
    assert parse_json(payload)["predicate"] == v.input["predicate"]
