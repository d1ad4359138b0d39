"""Published weights beside the end of a transcript."""

import json
import sys
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import audit as bench

from brakeline.cli.common import EXIT_VERDICT
from brakeline.cli.weights import weighed
from brakeline.core.errors import Malformed, Misuse, Unavailable
from brakeline.core.keys import PublicKey
from brakeline.training.digest import snapshot
from brakeline.training.spread import State
from brakeline.training.weights import PAYLOAD, STATEMENT, authenticated, compare_weights
from world import key

Weights = dict[str, torch.Tensor]


def module() -> Weights:
    generator = torch.Generator().manual_seed(1)
    made = {"a.weight": (4, 3), "a.bias": (4,), "b.weight": (2, 4), "tied.weight": (4, 3)}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in made.items()}
    return {**weights, "tied.weight": weights["a.weight"].clone()}


def state(**components: Weights) -> State:
    trees: dict[str, Any] = {name: {"state": it, "transient": {}} for name, it in components.items()}
    return snapshot({**trees, "optimizer": {"state": {}, "param_groups": []}}, lambda *_: True)


def published(folder: Path, weights: Weights) -> Path:
    save_file({name: it.contiguous().clone() for name, it in weights.items()}, folder / "model.safetensors")
    return folder / "model.safetensors"


def less(weights: Weights, *names: str) -> Weights:
    return {name: it for name, it in weights.items() if name not in names}


def nudged(weights: Weights) -> Weights:
    bent = weights["b.weight"].clone()
    bent[0, 0] = torch.nextafter(bent[0, 0], bent[0, 1])
    return {**weights, "b.weight": bent}


@pytest.mark.parametrize(
    ("change", "kind", "detail"),
    [
        (lambda w: w, "same", ""),
        (lambda w: {f"model.{n}": it for n, it in w.items()}, "same", ""),
        (lambda w: less(w, "tied.weight"), "same", ""),
        (lambda w: {n: it.bfloat16() for n, it in w.items()}, "cast", "as bfloat16"),
        (lambda w: less(w, "b.weight"), "part", "b.weight is missing"),
        (lambda w: less(w, "a.weight", "tied.weight"), "part", "a.weight is missing, and 1 more"),
        (nudged, "other", "b.weight has other values"),
        (lambda w: {**w, "a.bias": w["a.bias"][:3]}, "other", "a.bias has another shape"),
        (lambda w: {**w, "c.weight": w["a.bias"]}, "other", "c.weight is none of the recorded weights"),
        (lambda w: {**w, "a.weight": w["a.weight"].double() + 1e-12}, "other", "a.weight has other values"),
        (lambda w: {**w, "a.bias": torch.full((4,), float("nan"))}, "other", "a.bias has other values"),
    ],
)
def test_a_file_is_compared_to_the_bit(
    change: Callable[[Weights], Weights], kind: str, detail: str, tmp_path: Path
) -> None:
    weights = module()
    other = {name: it + 1 for name, it in weights.items()}
    recorded = state(average={"shadow": torch.zeros(2)}, model=weights)
    assert compare_weights(recorded, published(tmp_path, change(weights))) == (kind, detail)
    assert compare_weights(state(model=other), published(tmp_path, change(weights))).kind == "other"


@pytest.mark.parametrize("data", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{}" * 3, (2**62).to_bytes(8, "little") + b"{}"])
def test_what_holds_no_weights_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(Malformed, match="no safetensors file"):
        compare_weights(state(model=module()), tmp_path / "file")
    with pytest.raises(Unavailable, match="no file"):
        compare_weights(state(model=module()), tmp_path / "none")
    with pytest.raises(Malformed, match="no module"):
        compare_weights(snapshot({"data": {"step": 1}}, lambda *_: True), tmp_path / "file")


def test_the_end_of_an_audited_run_is_said_and_signed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    run = bench.Run("run", 16, tmp_path)
    ends: list[Weights] = []
    train = run.code.train

    def kept(config: Any, gate: Any, recorder: Any) -> None:
        def opened(**objects: Any) -> int:
            ends.append(objects["model"].state_dict())
            return int(recorder.open(**objects))

        train(config, gate, SimpleNamespace(open=opened, step=recorder.step, stop=recorder.stop))

    run.session(kept)
    file = published(tmp_path, ends[0])
    home: Any = SimpleNamespace(key=lambda purpose: key("beta"))

    def said(out: Path | None = None) -> int:
        return weighed(home, run.world.state, run.live.now, run.world.events, run.evidence, file, out)

    assert said() == EXIT_VERDICT
    assert "is, bit for bit, the end of alpha/run, step 16: passed by nobody; not settled" in capsys.readouterr().out
    for inspector in bench.INSPECTORS:
        run.audit(inspector)
    run.world.stamp()
    assert said(tmp_path / "said.json") == 0
    assert "passed by beta, delta; settled" in capsys.readouterr().out
    envelope = json.loads((tmp_path / "said.json").read_bytes())
    payload, (signature,) = b64decode(envelope["payload"]), envelope["signatures"]
    assert envelope["payloadType"] == PAYLOAD
    assert authenticated(payload).startswith(b"DSSEv1 28 application/vnd.in-toto+json ")
    assert PublicKey.parse(signature["keyid"]).verify(b64decode(signature["sig"]), authenticated(payload))
    statement = json.loads(payload)
    assert statement["_type"] == STATEMENT
    assert statement["predicate"]["settled"] is True
    assert statement["predicate"]["root"] == run.live.now.head.root
    file.write_bytes(published(tmp_path, {n: it + 1 for n, it in ends[0].items()}).read_bytes())
    assert said() == EXIT_VERDICT
    other = bench.Run("other", 16, tmp_path / "other")
    with pytest.raises(Misuse, match="has not ended"):
        weighed(home, other.world.state, other.live.now, other.world.events, other.evidence, file, None)
