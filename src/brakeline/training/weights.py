"""Whether published weights are the end of an audited transcript, to the bit, and a statement that says so elsewhere.

The last leaf binds the whole state, so the checkpoint that has its digest is what the run ended in, whoever shows it. A
file is compared with that: it needs no trust, and its publisher none in whoever compares.
"""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from brakeline.core.errors import Malformed, Unavailable
from brakeline.training.digest import raw_bytes
from brakeline.training.spread import State, is_weight, tensors

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PAYLOAD: Final = "application/vnd.in-toto+json"
PREDICATE: Final = "urn:brakeline:transcript:v1"
_PREFIXES: Final = ("model.", "module.", "_orig_mod.", "transformer.")  # that frameworks put before every name


class Compared(NamedTuple):
    """`same`; `cast`, the same in another type; `part`, what is there is the same; `other`. `detail` says more."""

    kind: Literal["same", "cast", "part", "other"]
    detail: str


def compare_weights(recorded: State, file: Path) -> Compared:
    """Compare the tensors of the safetensors `file` with those of the modules in a recorded state.

    Raises:
        Unavailable: there is no such file. Malformed: it is none, or no module in the state could be meant.
    """
    components: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors(recorded).items():
        if is_weight(key) and not key[0]:
            components.setdefault(key[1], {})[str(key[2][1])] = value
    if not components:
        raise Malformed("the recorded state has no module", hint="weights can be compared with those of modules alone")
    try:
        with safe_open(file, framework="pt", device="cpu") as shown:
            names = list(shown.keys())
            best = max(components, key=lambda it: _known(names, components[it])[0])
            _, name_of = _known(names, components[best])
            return _compared(components[best], names, name_of, shown.get_tensor)
    except FileNotFoundError as e:
        raise Unavailable(f"there is no file {file}") from e
    except (SafetensorError, OSError, ValueError) as e:
        raise Malformed(f"{file} is no safetensors file: {e}") from e


def _known(names: Sequence[str], own: Mapping[str, torch.Tensor]) -> tuple[int, Callable[[str], str]]:
    """How many names of a file are those of a module, and how they are written there: one way for all of them."""
    ways: list[Callable[[str], str]] = [lambda name: name]
    for prefix in _PREFIXES:
        ways += [lambda name, p=prefix: name.removeprefix(p), lambda name, p=prefix: p + name]  # type: ignore[misc]
    counted = [(sum(way(name) in own for name in names), -i) for i, way in enumerate(ways)]
    most, i = max(counted)
    return most, ways[-i]


def _compared(
    own: Mapping[str, torch.Tensor],
    names: Sequence[str],
    name_of: Callable[[str], str],
    tensor: Callable[[str], torch.Tensor],
) -> Compared:
    there = {name_of(name) for name in names}
    types: set[str] = set()
    if len(there) < len(names):
        return Compared("other", "two of its tensors have one name")
    for name in names:
        recorded = own.get(name_of(name))
        if recorded is None:
            return Compared("other", f"{name} is none of the recorded weights")
        shown = tensor(name)
        if shown.shape != recorded.shape:
            return Compared("other", f"{name} has another shape")
        if shown.dtype != recorded.dtype:
            types.add(str(shown.dtype).removeprefix("torch."))
            recorded = recorded.to(shown.dtype)
        if bytes(raw_bytes(shown)) != bytes(raw_bytes(recorded)):
            return Compared("other", f"{name} has other values")
    kept = {_identity(own[name]) for name in there}
    missing = [name for name in own if name not in there and _identity(own[name]) not in kept]
    if missing:
        return Compared("part", f"{missing[0]} is missing" + (f", and {len(missing) - 1} more" if missing[1:] else ""))
    return Compared("cast", f"as {', '.join(sorted(types))}") if types else Compared("same", "")


def _identity(it: torch.Tensor) -> tuple[str, torch.Size, bytes]:
    """Tied weights are published once."""
    return str(it.dtype), it.shape, bytes(raw_bytes(it))


def statement(name: str, sha256: str, predicate: Mapping[str, Any]) -> bytes:
    """An in-toto statement (v1) of the file's digest (hex), with what is known of the run as its predicate."""
    subject = [{"name": name, "digest": {"sha256": sha256}}]
    body = {"_type": STATEMENT, "subject": subject, "predicateType": PREDICATE, "predicate": predicate}
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def envelope(payload: bytes, keyid: str, sign: Callable[[bytes], bytes]) -> bytes:
    """A DSSE envelope (v1) of a statement, signed over its pre-authentication encoding."""
    signature = b64encode(sign(authenticated(payload))).decode()
    body = {
        "payload": b64encode(payload).decode(),
        "payloadType": PAYLOAD,
        "signatures": [{"keyid": keyid, "sig": signature}],
    }
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def authenticated(payload: bytes) -> bytes:
    """DSSE v1, PAE."""
    return b" ".join(_parts(PAYLOAD.encode(), payload))


def _parts(*values: bytes) -> Iterator[bytes]:
    yield b"DSSEv1"
    for value in values:
        yield str(len(value)).encode()
        yield value
