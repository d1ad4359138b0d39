"""Reads `vectors/<noun>/<name>.json`: one success or one failure each, for any implementation in any language.

`expect` is `ok`, `malformed`, or the reason of a refusal. A field `x_hex` in `input` stands for the bytes `x`, which
are no UTF-8 text or not meant as text; an entry of a log is its text, or `{"hex": …}`.
"""

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from brakeline.core.errors import Malformed, Reason, Refused

settings.register_profile("steady", derandomize=True, database=None, deadline=None)
settings.load_profile("steady")

FOLDER = Path(__file__).parents[1] / "vectors"


@dataclass(frozen=True)
class Vector:
    noun: str
    name: str
    expect: str
    input: dict[str, Any]
    output: dict[str, Any]

    def bytes(self, field: str) -> bytes:
        if f"{field}_hex" in self.input:
            return bytes.fromhex(self.input[f"{field}_hex"])
        return self.input[field].encode()

    def hexes(self, field: str) -> list[bytes]:
        return [bytes.fromhex(x) for x in self.input[field]]

    def entries(self) -> list[bytes]:
        """The log in `entries`."""
        return [e.encode() if isinstance(e, str) else bytes.fromhex(e["hex"]) for e in self.input["entries"]]

    def expected(self) -> AbstractContextManager[Any]:
        """The context in which the vector must do what it says."""
        if self.expect == "ok":
            return nullcontext()
        if self.expect == "malformed":
            return pytest.raises(Malformed)
        return pytest.raises(Refused, check=lambda e: e.reason is Reason(self.expect))


def load(noun: str, floor: int, prefix: str = "") -> Any:
    """Parametrize a test with the vectors of a noun; fewer than `floor` is an error, so that none gets lost."""
    vectors = [
        Vector(noun, path.stem, v["expect"], v["input"], v.get("output", {}))
        for path in sorted((FOLDER / noun).glob(f"{prefix}*.json"))
        for v in [json.loads(path.read_bytes())]
    ]
    assert len(vectors) >= floor, f"{len(vectors)} vectors in vectors/{noun}/{prefix}*, not {floor}"
    return pytest.mark.parametrize("v", [pytest.param(v, id=v.name) for v in vectors])


def refused(reason: Reason) -> AbstractContextManager[Any]:
    return pytest.raises(Refused, check=lambda e: e.reason is reason)
