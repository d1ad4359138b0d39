"""A vector as it is made, and what a log gives as plain values."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from brakeline.core.state import apply, begin
from brakeline.core.state.codec import digest
from brakeline.core.state.events import Event, Void
from brakeline.core.treaty import Treaty, parse_treaty
from world import World, treaty_text


@dataclass(frozen=True)
class Made:
    """One file: `vectors/<noun>/<name>.json`. `output` is left out where nothing comes out."""

    noun: str
    name: str
    about: str
    spec: str
    input: Mapping[str, Any]
    expect: str = "ok"
    output: Mapping[str, Any] = field(default_factory=dict)


def treaty(**changes: str) -> Treaty:
    """The tests' treaty without its comments."""
    lines = (line.split(" # ")[0].rstrip() for line in treaty_text(**changes).split("\n"))
    return parse_treaty("".join(f"{line}\n" for line in lines if line and not line.startswith("#")).encode())


def world(**changes: str) -> World:
    """A log with its first stamp."""
    return World(treaty=treaty(**changes))


def bound(**changes: str) -> World:
    """A log in which everybody is bound."""
    made = world(**changes)
    made.bind()
    return made


def entry(data: bytes) -> str | dict[str, str]:
    """An entry as it stands in a vector: its text, or its bytes in hex."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return {"hex": data.hex()}
    return text if text.isprintable() or text.replace("\n", "").isprintable() else {"hex": data.hex()}


def plain(value: Any) -> Any:
    """JSON values: bytes in hex, and without the sentence of a refusal, which is for people."""
    if isinstance(value, Void):
        return {k: v for k, v in plain(msgspec.to_builtins(value, builtin_types=(bytes,))).items() if k != "text"}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, msgspec.Struct):
        return plain(msgspec.to_builtins(value, builtin_types=(bytes,)))
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def folded(of: Treaty, entries: Iterable[bytes]) -> tuple[dict[str, Any], list[tuple[Event, ...]]]:
    """The state's digest after every entry, and the events of each: as plain values, and as they are."""
    state, digests, events = begin(of), list[str](), list[tuple[Event, ...]]()
    for data in entries:
        state, new = apply(state, data)
        digests.append(digest(state))
        events.append(new)
    return {"digests": digests, "events": plain(events)}, events


def log_of(made: World) -> dict[str, Any]:
    """A world's log as the input of a vector."""
    return {"treaty": made.first.text.decode(), "entries": [entry(e) for e in made.entries]}
