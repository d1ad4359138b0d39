"""A bundle: one file that proves what happened to somebody who was not there, offline.

It carries the treaty, the whole log up to a cosigned checkpoint, and the opened transcripts. Nothing in it is believed:
the entries must hash to the cosigned root, the transcripts to the logged heads, and every claim is computed again from
them. There is no field that is not covered, so no byte can change unnoticed; the digest at the end only makes damage
quick to tell from fraud.

    brakeline/bundle/v1\\n
    u32 count ‖ count × (u32 length ‖ bytes)     treaty, checkpoint note, then one block of entries, then transcripts
    32 bytes SHA-256 of all before it
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from brakeline.core.encoding import sha256
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.state import State, replay
from brakeline.core.state.codec import digest
from brakeline.core.state.events import Event
from brakeline.core.tlog.checkpoint import checkpoint_in
from brakeline.core.tlog.merkle import Frontier, leaf_hash
from brakeline.core.tlog.policy import Cosigned, verify_all
from brakeline.core.transcript import LEAF_BYTES, Leaf, decode_leaf
from brakeline.core.treaty import Treaty, parse_treaty

MAGIC: Final = b"brakeline/bundle/v1\n"
_LIMIT: Final = 2**31


@dataclass(frozen=True, slots=True)
class Bundle:
    """`entries` are the whole log; `transcripts` maps run id (hex) to its leaves, as bytes, in step order."""

    treaty: bytes
    checkpoint: bytes
    entries: tuple[bytes, ...]
    transcripts: dict[str, bytes]

    def encode(self) -> bytes:
        body = MAGIC + _blocks(
            [
                self.treaty,
                self.checkpoint,
                _blocks(self.entries),
                _blocks([part for run in sorted(self.transcripts) for part in (run.encode(), self.transcripts[run])]),
            ]
        )
        return body + sha256(body)


def _blocks(parts: Sequence[bytes]) -> bytes:
    return len(parts).to_bytes(4, "big") + b"".join(len(p).to_bytes(4, "big") + p for p in parts)


def _unblocks(data: bytes) -> list[bytes]:
    if len(data) < 4:
        raise Malformed("bundle: block list cut short")
    count, at = int.from_bytes(data[:4], "big"), 4
    parts = []
    for _ in range(count):
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 4 + length > len(data):
            raise Malformed("bundle: block cut short")
        parts.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    if at != len(data):
        raise Malformed("bundle: bytes after the last block")
    return parts


def parse_bundle(data: bytes) -> Bundle:
    """Parse: raises, or `parse_bundle(data).encode() == data`.

    Raises:
        Malformed: not a bundle, or cut short. Refused(TAMPERED): the digest at its end does not match.
    """
    if not data.startswith(MAGIC) or len(data) < len(MAGIC) + 32:
        raise Malformed("not a brakeline bundle (v1), or cut short")
    if len(data) > _LIMIT:
        raise Malformed("bundle larger than 2 GiB")
    body, digest = data[:-32], data[-32:]
    if not hmac.compare_digest(sha256(body), digest):
        raise Refused(Reason.TAMPERED, "the bundle is damaged: its digest does not match its content")
    top = _unblocks(body[len(MAGIC) :])
    if len(top) != 4:
        raise Malformed(f"bundle: {len(top)} blocks instead of 4")
    flat = _unblocks(top[3])
    names = [run.decode("ascii", "replace") for run in flat[::2]]
    if len(flat) % 2 or names != sorted(set(names)):
        raise Malformed("bundle: transcripts unsorted or repeated")
    bundle = Bundle(top[0], top[1], tuple(_unblocks(top[2])), dict(zip(names, flat[1::2], strict=True)))
    if bundle.encode() != data:
        raise Malformed("bundle: not canonical")
    return bundle


@dataclass(frozen=True, slots=True)
class Proven:
    """What a bundle proves: the state at its checkpoint and all that happened.

    `leaves` maps run id to its opened transcript, checked against the logged heads.
    """

    cosigned: Cosigned
    state: State
    events: tuple[Event, ...]
    leaves: dict[str, tuple[Leaf, ...]]

    @property
    def treaty(self) -> Treaty:
        return self.state.treaty

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the state: what another build by the same rules must find."""
        return digest(self.state)


def verify_bundle(
    data: bytes, *, treaty_digest: str | None = None, anchor: tuple[int, bytes] | None = None
) -> Proven:
    """Verify everything a bundle carries.

    0. The bytes parse, canonically, and the digest at the end matches.
    1. The treaty passes its checks; with `treaty_digest` (hex) it is the treaty the caller trusts.
    2. The entries hash to the checkpoint's root: none added, dropped, altered or reordered.
    3. The state is folded anew from the entries, and no stamp among them shows another history.
    4. The checkpoint is signed by the log and cosigned by the witness quorum of the text in force there, or by those of
       two texts while one follows the other (Treaty 6.1, 11.3).
    5. Every opened transcript is of a run in the log and hashes to the last head logged for it.

    The caller MUST compare the treaty's digest with one it knows, or pass it here: anybody can write a treaty and sign
    a log under it. The treaty is the log's first text; those that followed it are in the log.

    Where texts have followed one another, the first digest proves this history only if at most f witness keys of each
    text were ever stolen, retired ones included. An `anchor`, size and root (bytes) of this log from somebody whom the
    caller trusts, not older than the notice of the last amendment, makes old keys worthless.

    Raises:
        Malformed, Refused: with what does not hold.
    """
    bundle = parse_bundle(data)
    treaty = parse_treaty(bundle.treaty)  # 1
    if treaty_digest is not None and treaty.digest != treaty_digest:
        raise Refused(Reason.FOREIGN, f"the bundle is about treaty {treaty.digest}, not {treaty_digest}")
    checkpoint = checkpoint_in(bundle.checkpoint)
    leaves_ = [leaf_hash(entry) for entry in bundle.entries]
    tree = Frontier(0, ()).extend(leaves_)  # 2
    if (tree.size, tree.root()) != (checkpoint.size, checkpoint.root):
        raise Refused(Reason.TAMPERED, "the entries are not those the checkpoint commits to")
    state, events = replay(treaty, bundle.entries)  # 3
    if state.clock.forks:
        raise Refused(Reason.EQUIVOCATION, "the log showed two histories; the bundle holds the proof")
    cosigned = verify_all(bundle.checkpoint, state.chain.need)  # 4
    if len(cosigned.note.lines) != 1 + len(cosigned.witnesses):
        # C2SP signed-note ignores unknown lines; here an ignored line would be a byte that may change unnoticed.
        raise Refused(Reason.TAMPERED, "the checkpoint carries a signature line that the treaty does not know")
    if anchor is not None:
        _check_anchor(leaves_, *anchor)
    leaves = {run: _transcript(state, run, x) for run, x in bundle.transcripts.items()}
    return Proven(cosigned, state, tuple(events), leaves)


def _check_anchor(leaves: Sequence[bytes], size: int, root: bytes) -> None:
    if size > len(leaves):
        raise Refused(Reason.ROLLBACK, f"the bundle ends at {len(leaves)} entries, before the anchor of {size}")
    if Frontier(0, ()).extend(leaves[:size]).root() != root:
        raise Refused(Reason.FOREIGN, f"at {size} entries the bundle's log is another one than the anchor's")


def _transcript(state: State, run: str, data: bytes) -> tuple[Leaf, ...]:  # 5
    record = state.run(run)
    if record.head is None or len(data) != (record.head.steps + 1) * LEAF_BYTES:
        raise Refused(Reason.TAMPERED, f"the transcript of {record.name} has another length than its head")
    leaves, frontier = [], Frontier(0, ())
    for at in range(0, len(data), LEAF_BYTES):
        chunk = data[at : at + LEAF_BYTES]
        leaves.append(decode_leaf(chunk))
        frontier = frontier.append(leaf_hash(chunk))
    if frontier.root().hex() != record.head.root:
        raise Refused(Reason.TAMPERED, f"the transcript of {record.name} is not the one it logged")
    return tuple(leaves)
