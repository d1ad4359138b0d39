"""A bundle: whoever changes one byte of it is found out, with the digest at its end mended or not."""

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brakeline.core.brake import Phase
from brakeline.core.bundle import MAGIC, Bundle, parse_bundle, verify_bundle
from brakeline.core.encoding import sha256
from brakeline.core.errors import BrakelineError, Malformed, Reason
from brakeline.core.state.codec import encode
from brakeline.core.state.events import ByVotes, Void
from brakeline.core.transcript import LEAF_BYTES
from brakeline.core.views import phases
from vector import refused
from world import LABS, World, treaty, treaty_text


@cache
def story() -> tuple[World, Bundle]:
    """A run, a trip, a stop: and the bundle that proves them."""
    world = World()
    world.bind()
    run = world.opened("alpha")
    world.train(run, 3, world.permit(run))
    world.trip()
    world.head(run, "stopped")
    world.stamp()
    world.check()
    return world, world.bundle(run)


def mended(data: bytes) -> bytes:
    """`data` with the digest at its end computed anew, as a forger would."""
    return data[:-32] + sha256(data[:-32])


def digest() -> str:
    return treaty().digest


def test_a_bundle_proves_what_happened() -> None:
    world, bundle = story()
    data = bundle.encode()
    assert parse_bundle(data) == bundle
    proven = verify_bundle(data, treaty_digest=digest())
    assert encode(proven.state) == encode(world.state)
    assert proven.digest == sha256(encode(world.state)).hex()
    assert proven.events == tuple(world.events)
    assert proven.treaty.digest == digest()
    assert proven.cosigned.checkpoint.size == len(world.entries)
    (run,) = proven.state.runs.by_id.values()
    assert list(proven.leaves[run.id]) == world.leaves[run.id]
    assert [phase for phase, _ in phases(proven.events)] == [Phase.TRIPPED, Phase.PAUSED]
    assert proven.state.ballot.cause == ByVotes(("alpha", "beta"))


def test_a_bundle_need_not_open_every_run() -> None:
    _, bundle = story()
    assert verify_bundle(replace(bundle, transcripts={}).encode()).leaves == {}


def test_every_flipped_byte_is_damage() -> None:
    _, bundle = story()
    data = bundle.encode()
    for at in range(len(data)):
        bent = data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
        with pytest.raises(BrakelineError):
            parse_bundle(bent)


def test_every_flipped_byte_is_found_out_when_the_digest_is_mended() -> None:
    # The digest is no protection: what protects is that every byte is hashed, signed or told beforehand.
    _, bundle = story()
    data = bundle.encode()
    positions = [len(data) * i // 400 for i in range(400)]
    step = 0
    for at in positions:
        if at >= len(data) - 32:
            continue
        step += 1
        bent = mended(data[:at] + bytes([data[at] ^ 1 << step % 8]) + data[at + 1 :])
        with pytest.raises(BrakelineError):
            verify_bundle(bent, treaty_digest=digest())
    assert step > 300


def test_every_byte_outside_treaty_and_entries_is_found_out() -> None:
    # Frame and checkpoint in full, transcripts in part; of treaty and entries one hash covers every byte alike.
    _, bundle = story()
    data = bundle.encode()
    note = data.index(bundle.checkpoint)
    leaves = data.index(next(iter(bundle.transcripts.values())))
    places = [*range(len(MAGIC) + 8), *range(note - 4, note + len(bundle.checkpoint) + 8)]
    places += [*range(leaves - 80, leaves, 2), *range(leaves, len(data) - 32, 37)]
    for at in places:
        bent = mended(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(BrakelineError):
            verify_bundle(bent, treaty_digest=digest())


def test_truncated_or_extended() -> None:
    _, bundle = story()
    body = bundle.encode()[:-32]
    for size in [*range(80), len(body) // 2, len(body) - 40, len(body) - 32, len(body) - 1]:
        for cut in (body[:size], mended(body[:size] + bytes(32))):
            with pytest.raises(BrakelineError):
                parse_bundle(cut)
    with refused(Reason.TAMPERED):
        parse_bundle(body)
    for more in (b"\0", b"\0" * 4, sha256(b"")):
        for long in (bundle.encode() + more, mended(body + more + bytes(32))):
            with pytest.raises(BrakelineError):
                parse_bundle(long)


def test_blocks_in_another_order() -> None:
    world, bundle = story()
    one, two = (bundle.transcripts | {"ff" * 32: b""}).items()
    for wrong in (
        replace(bundle, treaty=bundle.checkpoint, checkpoint=bundle.treaty),
        replace(bundle, entries=(bundle.treaty,)),
        replace(bundle, transcripts=dict([two])),
        replace(bundle, transcripts={"zz" * 32: one[1]}),
        replace(bundle, transcripts={one[0].upper(): one[1]}),
    ):
        with pytest.raises(BrakelineError):
            verify_bundle(wrong.encode(), treaty_digest=digest())
    assert world.entries


def blocks(*parts: bytes) -> bytes:
    return len(parts).to_bytes(4, "big") + b"".join(len(p).to_bytes(4, "big") + p for p in parts)


def framed(*parts: bytes, magic: bytes = MAGIC) -> bytes:
    return mended(magic + blocks(*parts) + bytes(32))


def test_a_frame_has_one_form() -> None:
    top = (b"treaty", b"checkpoint", blocks(b"entry"), blocks(b"a", b"1", b"b", b"2"))
    assert parse_bundle(framed(*top)) == Bundle(b"treaty", b"checkpoint", (b"entry",), {"a": b"1", "b": b"2"})
    head = top[:3]
    for what, wrong in {
        "not a brakeline bundle": framed(*top, magic=b"brakeline/bundle/v2\n"),
        "3 blocks instead of 4": framed(*head),
        "5 blocks instead of 4": framed(*top, b""),
        "unsorted or repeated": framed(*head, blocks(b"b", b"2", b"a", b"1")),
        "repeated": framed(*head, blocks(b"a", b"1", b"a", b"2")),
        "unsorted": framed(*head, blocks(b"a", b"1", b"b")),
        "not canonical": framed(*head, blocks(b"\xff", b"1")),
        "cut short": framed(*head, b"\0\0\0"),
        "block cut short": framed(*head, b"\0\0\0\x01\0\0\0\x02a"),
        "after the last block": framed(*head, blocks() + b"x"),
    }.items():
        with pytest.raises(Malformed, match=what):
            parse_bundle(wrong)
    with pytest.raises(Malformed, match="cut short"):
        parse_bundle(MAGIC + bytes(31))


def test_entries_are_those_the_witnesses_saw() -> None:
    world, bundle = story()
    entries = bundle.entries
    for other in (
        entries[:-1],
        (*entries, entries[-1]),
        entries[1:],
        (*entries[:3], *entries[4:]),
        (*entries[:5], entries[6], entries[5], *entries[7:]),
        (),
    ):
        with refused(Reason.TAMPERED):
            verify_bundle(replace(bundle, entries=other).encode())
    # A log may prove its past, up to a checkpoint that was cosigned then.
    early = world.bundle(entries=entries[:6], checkpoint=world.checkpoint(6))
    assert verify_bundle(early.encode()).state.size == 6


def test_the_checkpoint_is_the_logs_and_the_witnesses() -> None:
    # Treaty 6.1
    world, bundle = story()
    for checkpoint, reason in (
        (world.checkpoint(by=LABS[:2]), Reason.NO_QUORUM),
        (world.checkpoint(root=bytes(32)), Reason.TAMPERED),
        (world.checkpoint(5), Reason.TAMPERED),
    ):
        with refused(reason):
            verify_bundle(replace(bundle, checkpoint=checkpoint).encode())
    note = world.checkpoint()
    stranger = "— stranger AAAAAAAA\n".encode()
    with refused(Reason.TAMPERED):  # C2SP ignores a line of an unknown key; here nothing may stand that nobody covers
        verify_bundle(replace(bundle, checkpoint=note + stranger).encode())
    with pytest.raises(BrakelineError):
        verify_bundle(replace(bundle, checkpoint=note.replace(b"alpha.example", b"gamma.example")).encode())


def test_the_treaty_is_the_one_the_reader_knows() -> None:
    _, bundle = story()
    other = treaty_text(lift_delay='"3 s"').encode()
    with refused(Reason.FOREIGN):
        verify_bundle(replace(bundle, treaty=other).encode(), treaty_digest=digest())
    with refused(Reason.FOREIGN):
        verify_bundle(bundle.encode(), treaty_digest="ab" * 32)
    # Without the digest another treaty over the same keys passes, and proves nothing about anybody: that is why the
    # caller must compare. A transcript cannot pass with it, since under another treaty no run is declared.
    with refused(Reason.UNDECLARED):
        verify_bundle(replace(bundle, treaty=other).encode())
    empty = verify_bundle(replace(bundle, treaty=other, transcripts={}).encode())
    assert empty.treaty.digest != digest()
    void = [x for x in empty.events if isinstance(x, Void)]
    assert {x.reason for x in void} == {Reason.FOREIGN}
    assert len(void) == sum(entry.startswith(b"{") for entry in bundle.entries)
    with pytest.raises(Malformed):
        verify_bundle(replace(bundle, treaty=bundle.treaty.replace(b"trip = 2", b"trip = 1")).encode())


def test_a_transcript_is_the_one_last_logged() -> None:
    _, bundle = story()
    ((run, leaves),) = bundle.transcripts.items()
    assert len(leaves) == 4 * LEAF_BYTES
    for other in (
        leaves[:-LEAF_BYTES],  # what an earlier head committed to
        leaves[:LEAF_BYTES],
        b"",
        leaves + leaves[-LEAF_BYTES:],
        leaves[:-1],
        leaves[:-1] + bytes([leaves[-1] ^ 1]),
        leaves[LEAF_BYTES:] + leaves[:LEAF_BYTES],
    ):
        with pytest.raises(BrakelineError):
            verify_bundle(replace(bundle, transcripts={run: other}).encode())


def test_a_run_without_a_head_has_no_transcript() -> None:
    world = World()
    world.bind()
    run = world.declare("alpha")
    with refused(Reason.TAMPERED):
        verify_bundle(replace(world.bundle(), transcripts={run.id: world.leaves[run.id][0].encode()}).encode())
    with refused(Reason.UNDECLARED):
        verify_bundle(replace(world.bundle(), transcripts={"ab" * 32: b""}).encode())


def test_two_histories_are_not_a_proof_of_one() -> None:
    world = World()
    world.bind()
    world.append(world.checkpoint(3, root=sha256(b"another history")))
    with refused(Reason.EQUIVOCATION):
        verify_bundle(world.bundle().encode())


@given(st.binary(max_size=60))
def test_rubbish_is_malformed(data: bytes) -> None:
    for bad in (data, MAGIC + data, mended(MAGIC + data + bytes(32))):
        with pytest.raises(BrakelineError):
            parse_bundle(bad)


@given(st.lists(st.binary(max_size=9), max_size=4), st.dictionaries(st.text("0123456789abcdef"), st.binary(max_size=9)))
def test_every_bundle_is_read_back(entries: list[bytes], transcripts: dict[str, bytes]) -> None:
    bundle = Bundle(b"treaty", b"checkpoint", tuple(entries), transcripts)
    assert parse_bundle(bundle.encode()) == bundle
    assert parse_bundle(bundle.encode()).encode() == bundle.encode()
