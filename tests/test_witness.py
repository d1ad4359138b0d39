"""The witness: every row of the tlog-witness table, in its order, and what its memory is for."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brakeline.core.encoding import b64encode, sha256
from brakeline.core.errors import Malformed, Misuse
from brakeline.core.keys import PrivateKey
from brakeline.core.tlog import merkle
from brakeline.core.tlog.checkpoint import Checkpoint, cosign, verify_cosignature
from brakeline.core.tlog.note import COSIGNATURE, ED25519, Note, SignatureLine, VerifierKey, parse_note, sign_note
from brakeline.node import witness as module
from brakeline.node.witness import Answer, Seen, Witness, add_checkpoint, parse_request
from disks import FullDisk

ORIGIN = "log.example/pause"
LOG = PrivateKey(bytes(range(32)))
LOG_KEY = VerifierKey(ORIGIN, ED25519, LOG.public)
OTHER = PrivateKey(b"o" * 32)
NAME = "witness.example/w1"
KEY = PrivateKey(b"w" * 32)
VKEY = VerifierKey(NAME, COSIGNATURE, KEY.public)

LEAVES = [merkle.leaf_hash(b"{%d" % i) for i in range(64)]
FORK = [*LEAVES[:5], *(merkle.leaf_hash(b"{fork %d" % i) for i in range(59))]


def checkpoint(size: int, leaves: list[bytes] = LEAVES, origin: str = ORIGIN) -> Checkpoint:
    return Checkpoint(origin, size, merkle.root(leaves[:size]))


def note(size: int, leaves: list[bytes] = LEAVES, *, origin: str = ORIGIN, key: PrivateKey = LOG) -> Note:
    return sign_note(checkpoint(size, leaves, origin).text, origin, key)


def body(old: int, signed: Note | bytes, proof: tuple[bytes, ...] = ()) -> bytes:
    lines = "".join(b64encode(h) + "\n" for h in proof).encode()
    return b"old %d\n%s\n%s" % (old, lines, signed if isinstance(signed, bytes) else signed.encode())


def request(old: int, size: int, leaves: list[bytes] = LEAVES) -> bytes:
    proof = merkle.consistency_proof(old, size, merkle.reader(leaves)) if old <= size else ()
    return body(old, note(size, leaves), proof)


def seen(size: int, time: int = 1000) -> Seen:
    return Seen(size, checkpoint(size).root, time, b"")


def decide(data: bytes, last: Seen | None, now: int = 2000) -> Answer:
    return add_checkpoint(data, logs={ORIGIN: LOG_KEY}, last=lambda _: last, name=NAME, key=KEY, now=now)


def cosignature(answer: bytes, signed: Note) -> int:
    (line,) = parse_note(signed.text + b"\n" + answer).lines
    return verify_cosignature(signed.text, line, VKEY)


def call(server: Witness, method: str, path: str, content: bytes = b"") -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(server.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://witness") as client:
            return await client.request(method, path, content=content)

    return asyncio.run(send())


# The decision


@pytest.mark.parametrize(("old", "size"), [(0, 0), (0, 1), (0, 64), (1, 2), (7, 64), (32, 64), (64, 64), (63, 64)])
def test_growth_is_cosigned(old: int, size: int) -> None:
    answer = decide(request(old, size), seen(old) if old else None)
    assert (answer.status, answer.origin) == (200, ORIGIN)
    assert cosignature(answer.body, note(size)) == 2000
    assert answer.seen is not None
    assert (answer.seen.size, answer.seen.root, answer.seen.time) == (size, checkpoint(size).root, 2000)
    kept = parse_note(answer.seen.note)
    assert [line.name for line in kept.lines] == [ORIGIN, NAME]


def test_all_pairs_of_sizes() -> None:
    for new in range(33):
        for old in range(new + 1):
            assert decide(request(old, new), seen(old)).status == 200


BAD_LINE = SignatureLine(ORIGIN, LOG_KEY.id, bytes(64))
STRANGER = sign_note(b"x\n", "stranger", OTHER).lines[0]
EMPTY_LIE = sign_note(Checkpoint(ORIGIN, 0, bytes(32)).text, ORIGIN, LOG)
PROOF = merkle.consistency_proof(5, 9, merkle.reader(LEAVES))
HASH = b64encode(bytes(32)).encode()

# One row of the table each. The state is a tree of size 5.
REFUSALS: dict[str, tuple[bytes, int]] = {
    "no blank line": (b"old 5\n" + note(9).text, 400),
    "no old line": (b"\n" + note(9).encode(), 400),
    "old with a sign": (b"old +5\n\n" + note(9).encode(), 400),
    "old with a leading zero": (b"old 05\n\n" + note(9).encode(), 400),
    "old with two spaces": (b"old  5\n\n" + note(9).encode(), 400),
    "old with CR": (b"old 5\r\n\n" + note(9).encode(), 400),
    "old beyond 63 bits": (b"old 9223372036854775808\n\n" + note(9).encode(), 400),
    "64 hashes": (b"old 5\n" + (HASH + b"\n") * 64 + b"\n" + note(9).encode(), 400),
    "a hash of 31 bytes": (body(5, note(9), (bytes(31),)), 400),
    "a hash in loose base64": (b"old 5\n" + HASH[:-2] + b"B=\n\n" + note(9).encode(), 400),
    "not a note": (body(5, b"junk"), 400),
    "an extension line": (body(5, sign_note(checkpoint(9).text + b"more\n", ORIGIN, LOG)), 400),
    "size with a leading zero": (body(5, sign_note(checkpoint(9).text.replace(b"\n9\n", b"\n09\n"), ORIGIN, LOG)), 400),
    "unknown origin": (body(5, note(9, origin="other.example"), PROOF), 404),
    "unknown origin, and old too large": (body(99, note(9, origin="other.example")), 404),
    "no line of the log": (body(5, Note(checkpoint(9).text, (STRANGER,)), PROOF), 403),
    "signed by another key under the log's name": (body(5, note(9, key=OTHER), PROOF), 403),
    "a bad line under the log's key": (body(5, Note(checkpoint(9).text, (BAD_LINE,)), PROOF), 403),
    "a good line and a bad one": (body(5, note(9).with_lines(BAD_LINE), PROOF), 403),
    "unsigned, and old too large": (body(99, Note(checkpoint(9).text, (STRANGER,))), 403),
    "old larger than the checkpoint": (body(10, note(9)), 400),
    "old smaller than what was seen": (request(4, 9), 409),
    "old larger than what was seen": (request(6, 9), 409),
    "old 0": (body(0, note(9)), 409),
    "a smaller tree": (request(3, 4), 409),
    "another old, and a bad proof": (body(4, note(9), (bytes(32),)), 409),
    "no proof": (body(5, note(9)), 422),
    "a proof too long": (body(5, note(9), (*PROOF, bytes(32))), 422),
    "a proof too short": (body(5, note(9), PROOF[:-1]), 422),
    "a proof in another order": (body(5, note(9), PROOF[::-1]), 422),
    "another root at the same size": (body(5, note(5, FORK[1:])), 422),
    "a proof at the same size": (body(5, note(5), (bytes(32),)), 422),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    data, status = REFUSALS[name]
    answer = decide(data, seen(5))
    assert (answer.status, answer.seen) == (status, None)
    if status == 409:
        assert (answer.body, answer.content_type) == (b"5\n", "text/x.tlog.size")


def test_refusals_of_the_first_request() -> None:
    assert decide(body(0, EMPTY_LIE), None).status == 422
    assert decide(body(0, note(9), (bytes(32),)), None).status == 422
    assert decide(body(0, note(0), (bytes(32),)), None).status == 422
    unknown = decide(request(5, 9), None)
    assert (unknown.status, unknown.body) == (409, b"0\n")


def test_every_changed_bit_of_a_request_is_refused_or_changes_nothing() -> None:
    """A flip may fall on a line the witness ignores; it never yields another tree than the log signed."""
    good = request(5, 9)
    for at in range(8 * len(good)):
        data = bytearray(good)
        data[at // 8] ^= 1 << at % 8
        answer = decide(bytes(data), seen(5))
        assert answer.status in (400, 403, 404, 409, 422), (at, answer)


def test_a_second_history_is_refused_at_every_size() -> None:
    for size in range(6, 64):
        for old in range(size + 1):
            answer = decide(request(old, size, FORK), seen(20))
            assert answer.status in (409, 422)
            if old == 20:
                assert answer.status == 422


def test_lines_of_strangers_are_ignored_and_not_kept() -> None:
    answer = decide(body(5, note(9).with_lines(STRANGER), PROOF), seen(5))
    assert answer.status == 200
    assert answer.seen is not None
    assert STRANGER not in parse_note(answer.seen.note).lines


def test_time_never_runs_backwards() -> None:
    assert cosignature(decide(request(5, 9), seen(5, time=5000), now=10).body, note(9)) == 5000
    assert cosignature(decide(request(0, 9), None, now=0).body, note(9)) == 1, "a cosignature's time is not 0"


@given(st.binary(max_size=300))
def test_junk_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_request(data)
    assert decide(data, None).status == 400


# The memory


@pytest.fixture
def clock() -> list[float]:
    return [1_700_000_000.5]


@pytest.fixture
def server(tmp_path: Path, clock: list[float]) -> Iterator[Witness]:
    server = Witness(tmp_path, NAME, KEY, [LOG_KEY], lambda: clock[0])
    yield server
    server.close()


def test_state_survives(tmp_path: Path, server: Witness, clock: list[float]) -> None:
    assert server.add_checkpoint(request(0, 5)).status == 200
    server.close()
    clock[0] = 5.0  # and the machine has lost its clock
    again = Witness(tmp_path, NAME, KEY, [LOG_KEY], lambda: clock[0])
    assert again.add_checkpoint(request(0, 5)).body == b"5\n"
    answer = again.add_checkpoint(request(5, 9))
    assert cosignature(answer.body, note(9)) == 1_700_000_000
    again.close()


def test_two_processes_on_one_database_share_one_state(tmp_path: Path, server: Witness) -> None:
    twin = Witness(tmp_path, NAME, KEY, [LOG_KEY], lambda: 1.0)
    assert server.add_checkpoint(request(0, 5)).status == 200
    assert twin.add_checkpoint(body(0, note(7, FORK))).status == 409
    assert twin.add_checkpoint(request(5, 9)).status == 200
    assert server.add_checkpoint(request(5, 12)).status == 409
    twin.close()


def test_nothing_leaves_unless_it_is_on_disk(server: Witness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit fails: the caller gets no cosignature, and the state is the old one."""

    assert server.add_checkpoint(request(0, 5)).status == 200
    with monkeypatch.context() as context:
        context.setattr(server, "_db", FullDisk(server._db))
        response = call(server, "POST", "/add-checkpoint", request(5, 9))
        assert (response.status_code, response.json()["reason"]) == (503, "unavailable")
    assert server.add_checkpoint(request(0, 9)).body == b"5\n"
    assert server.add_checkpoint(request(5, 12)).status == 200


@settings(max_examples=30, deadline=None)
@given(data=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.booleans(), st.integers(0, 50)), max_size=20))
def test_what_was_cosigned_is_one_history_in_order(
    tmp_path_factory: pytest.TempPathFactory, data: list[tuple[int, int, bool, int]]
) -> None:
    """Whatever a log that shows two histories asks for, in any order and with any clock."""
    clock = [0.0]
    server = Witness(tmp_path_factory.mktemp("w"), NAME, KEY, [LOG_KEY], lambda: clock[0])
    cosigned: list[tuple[int, bytes, int]] = []
    for old, size, fork, now in data:
        clock[0] = float(now)
        leaves = FORK if fork else LEAVES
        answer = server.add_checkpoint(request(old, size, leaves))
        if answer.status == 200:
            cosigned.append((size, checkpoint(size, leaves).root, cosignature(answer.body, note(size, leaves))))
    server.close()
    assert cosigned == sorted(cosigned, key=lambda c: (c[0], c[2]))
    for history in (LEAVES, FORK):
        if all(root == merkle.root(history[:size]) for size, root, _ in cosigned):
            break
    else:
        pytest.fail("cosigned both histories")


def test_configuration_is_checked(tmp_path: Path) -> None:
    with pytest.raises(Misuse):
        Witness(tmp_path, NAME, KEY, [LOG_KEY, VerifierKey(ORIGIN, ED25519, OTHER.public)], lambda: 1.0)
    with pytest.raises(Misuse):
        Witness(tmp_path, NAME, LOG, [LOG_KEY], lambda: 1.0)


def test_over_http(server: Witness) -> None:
    log_id = sha256(ORIGIN.encode()).hex()
    assert call(server, "GET", f"/{log_id}/checkpoint").status_code == 404
    assert call(server, "GET", "/nonsense/checkpoint").status_code == 404
    response = call(server, "POST", "/add-checkpoint", request(0, 5))
    assert response.status_code == 200
    assert cosignature(response.content, note(5)) == 1_700_000_000
    kept = call(server, "GET", f"/{log_id}/checkpoint")
    assert kept.content == note(5).with_lines(cosign(note(5).text, NAME, KEY, 1_700_000_000)).encode()
    conflict = call(server, "POST", "/add-checkpoint", request(0, 9))
    assert (conflict.status_code, conflict.content) == (409, b"5\n")
    assert conflict.headers["content-type"] == "text/x.tlog.size"
    assert call(server, "POST", "/add-checkpoint", request(5, 6, FORK)[:-9]).status_code == 400
    too_long = call(server, "POST", "/add-checkpoint", b"x" * (module.MAX_BODY + 1))
    assert (too_long.status_code, too_long.json()["reason"]) == (400, "malformed")
    assert call(server, "GET", "/add-checkpoint").status_code == 405
