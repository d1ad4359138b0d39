"""Bundles: one that proves what happened, and each way in which one does not."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from brakeline.core import views
from brakeline.core.bundle import Proven, verify_bundle
from brakeline.core.encoding import sha256
from brakeline.core.errors import BrakelineError, Malformed, Refused
from brakeline.core.state.events import Void
from scenes.made import Made, bound, plain, treaty, world
from scenes.shown import OTHER
from world import LABS, Live, World


def proved(proven: Proven) -> dict[str, Any]:
    """The output of a vector of the noun `bundle`."""
    state = proven.state
    return {
        "state": proven.digest,
        "size": proven.cosigned.checkpoint.size,
        "time": proven.cosigned.time,
        "witnesses": sorted(proven.cosigned.witnesses),
        "phase": str(state.phase),
        "epoch": state.epoch,
        "since": state.ballot.brake.since,
        "cause": plain(state.ballot.cause),
        "bound": sorted(state.active),
        "equivocators": sorted(state.members.equivocators),
        "moves": [[move.entry, str(phase), move.time] for phase, move in views.phases(proven.events)],
        "refused": [[x.entry, str(x.reason)] for x in proven.events if isinstance(x, Void)],
        "runs": {
            r.id: {
                "seed": r.seed.hex(),
                "lineage": r.lineage,
                "tiers": list(r.tiers),
                "steps": r.steps,
                "stopped": r.stopped,
                "shown": r.id in proven.leaves,
            }
            for r in views.by_declaration(state)
        },
    }


def story() -> tuple[World, Live]:
    """A run, a trip by two votes, its stop, and a vote that shows equivocation."""
    w = bound()
    run = w.opened("alpha")
    w.train(run, 3, w.permit(run))
    w.trip()
    w.head(run, "stopped")
    seq = len(w.said["beta", "brake"]) - 1
    w.append(w.statement("beta", "vote", {"motion": "lift", "epoch": 1, "reason": "after all"}, seq=seq))
    w.stamp()
    return w, run


def mended(data: bytes) -> bytes:
    """`data` with the digest at its end computed anew, as a forger would."""
    return data[:-32] + sha256(data[:-32])


def made() -> Iterator[Made]:
    w, run = story()
    good = w.bundle(run)
    ((id_, leaves),) = good.transcripts.items()
    bent = leaves[:130] + bytes([leaves[130] ^ 1]) + leaves[131:]
    forked = world()
    forked.append(forked.checkpoint(1, root=sha256(b"another history")))
    note = w.checkpoint()
    frame, where = "formats.md §Bundle", "Treaty 6.1"
    other = treaty(lift_delay='"3 s"').text

    def but(**changes: Any) -> bytes:
        return replace(good, **changes).encode()

    data = good.encode()
    unknown = note + "— stranger AAAAAAAA\n".encode()
    fits = "; the digest at the end fits."
    cases: tuple[tuple[str, str, str, str, bytes], ...] = (
        ("trip-and-stop", "A run, a trip by two votes, its stop, and a vote that equivocates.", frame, "ok", data),
        ("nothing-shown", "A bundle need not open a transcript.", frame, "ok", but(transcripts={})),
        ("another-treaty", "The same keys under another text.", frame, "foreign", but(treaty=other)),
        ("bent-transcript", f"One bit of a leaf{fits}", frame, "tampered", but(transcripts={id_: bent})),
        ("transcript-too-short", "A leaf too few.", frame, "tampered", but(transcripts={id_: leaves[:-128]})),
        ("transcript-of-no-run", "Of a run that is not there.", frame, "undeclared", but(transcripts={OTHER: leaves})),
        ("cut-short", "The last byte is missing.", frame, "tampered", data[:-1]),
        ("another-version", f"Another version{fits}", frame, "malformed", mended(data.replace(b"/v1", b"/v2", 1))),
        ("one-byte-more", f"A byte after the last block{fits}", frame, "malformed", mended(data[:-32] + bytes(33))),
        (
            "entry-dropped",
            f"An entry is missing{fits}",
            where,
            "tampered",
            but(entries=good.entries[:3] + good.entries[4:]),
        ),
        (
            "two-witnesses",
            "A checkpoint without a quorum.",
            where,
            "no-quorum",
            but(checkpoint=w.checkpoint(by=LABS[:2])),
        ),
        ("unknown-line", "A signature line of nobody.", frame, "tampered", but(checkpoint=unknown)),
        ("two-histories", "The log holds a stamp of another history.", where, "equivocation", forked.bundle().encode()),
    )
    for name, about, spec, expect, data in cases:
        digest = (forked if name == "two-histories" else w).treaty.digest
        came, output = _verified(data, digest)
        assert came == expect, f"bundle/{name}: {came}, not {expect}"
        yield Made("bundle", name, about, spec, {"bundle_hex": data.hex(), "treaty": digest}, expect, output)


def _verified(data: bytes, digest: str) -> tuple[str, dict[str, Any]]:
    try:
        return "ok", proved(verify_bundle(data, treaty_digest=digest))
    except Refused as e:
        return str(e.reason), {}
    except Malformed:
        return "malformed", {}
    except BrakelineError as e:
        raise AssertionError("neither refused nor malformed") from e
