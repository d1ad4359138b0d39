"""Pledges that activate, permits that are granted, samples that are drawn: values in, values out."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import msgspec

from brakeline.core.encoding import b64encode, sha256
from brakeline.core.errors import BrakelineError, Malformed, Refused
from brakeline.core.grant import limit_of
from brakeline.core.permit import open_permit
from brakeline.core.pledge import Pledge, activate
from brakeline.core.sampling import draw, draws_needed, ticket_message
from brakeline.core.state.audits import required_sample
from brakeline.core.state.runs import LoggedHead
from brakeline.core.tlog.merkle import leaf_hash
from brakeline.core.tlog.merkle import root as tree_root
from scenes.made import Made, bound, log_of, plain, world
from scenes.shown import OTHER, gap, small
from world import LABS, PARTIES, Live, World, key, model, violation


def made() -> Iterator[Made]:
    yield from _pledges()
    yield from _grants()
    yield from _sealed()
    yield from _draws()
    yield from _samples()


def outcome(act: Callable[[], Any]) -> tuple[str, Any]:
    """What came of it: `ok` and a value, or why not."""
    try:
        return "ok", act()
    except Refused as e:
        return str(e.reason), None
    except Malformed:
        return "malformed", None
    except BrakelineError as e:
        raise AssertionError("neither refused nor malformed") from e


def _made(
    noun: str, name: str, about: str, spec: str, input: dict[str, Any], expect: str, act: Callable[[], Any]
) -> Made:
    came, output = outcome(act)
    assert came == expect, f"{noun}/{name}: {came}, not {expect}"
    return Made(noun, name, about, spec, input, expect, plain(output) if output is not None else {})


# --- pledges: conditions in, who is bound out


def activated(pledges: dict[str, str], parties: frozenset[str]) -> dict[str, Any]:
    """The output of a vector of the noun `pledge`."""
    found = activate({p: Pledge(condition=text).group(parties) for p, text in pledges.items()})
    satisfied = {p: sorted(by) for p, by in sorted(found.satisfied.items())}
    return {"active": sorted(found.active), "satisfied": satisfied, "deleted": list(found.deleted)}


def _pledges() -> Iterator[Made]:
    none = "quorum none\n"
    two = {p: f"group o 2 {' '.join(x for x in PARTIES if x != p)}\nquorum o\n" for p in PARTIES}
    nested = "group a any beta gamma\ngroup b all a delta\nquorum b\n"
    good = {
        "nobody": ("No pledge at all.", {}),
        "unconditional": ("Pledges without condition bind.", dict.fromkeys(PARTIES, none)),
        "circle": ("Each waits for the next: the largest set that keeps its promises is all.", _circle()),
        "circle-broken": ("One of the circle has not pledged: all fall, in one order.", _circle(without="delta")),
        "two-of-three": ("Each wants two others.", two),
        "two-of-three-are-two": ("Each wants two others, and there is one.", {p: two[p] for p in LABS[:2]}),
        "two-of-three-are-three": ("Each wants two others, and there are two.", {p: two[p] for p in LABS}),
        "nested": ("A group within a group.", {"alpha": nested, "gamma": none, "delta": none}),
        "nested-not-held": (
            "A group within a group, of which one member is missing.",
            {"alpha": nested, "gamma": none},
        ),
        "itself": ("A condition never counts its own party.", {"alpha": "quorum alpha\n", "beta": none}),
        "any-with-itself": ("Its own party among any of two.", {"alpha": "group a any alpha beta\nquorum a\n"}),
        "rounds": (
            "Who falls in one round falls in the order of names, before the next round.",
            {"alpha": "quorum gamma\n", "beta": "quorum delta\n", "gamma": "quorum delta\n"},
        ),
    }
    bad = {
        "undefined-member": ("A member that is no party.", "group a any beta omega\nquorum a\n"),
        "undefined-quorum": ("A quorum that is no group.", "quorum others\n"),
        "no-quorum": ("Groups without a quorum.", "group a any beta gamma\n"),
        "two-quorums": ("Two quorum lines.", "quorum beta\nquorum gamma\n"),
        "empty": ("No line at all.", ""),
        "threshold-zero": ("A threshold of none.", "group a 0 beta gamma\nquorum a\n"),
        "threshold-too-large": ("A threshold above the members.", "group a 3 beta gamma\nquorum a\n"),
        "threshold-with-zero": ("A threshold with a leading zero.", "group a 02 beta gamma\nquorum a\n"),
        "member-twice": ("One member twice.", "group a 2 beta beta\nquorum a\n"),
        "no-newline": ("The last line has no end.", "quorum none"),
        "carriage-return": ("A carriage return.", "quorum none\r\n"),
        "not": ("There is no negation.", "group a not beta\nquorum a\n"),
    }
    parties = frozenset(PARTIES)
    for name, (about, pledges) in good.items():
        fields = {"parties": sorted(parties), "pledges": pledges}
        yield _made("pledge", name, about, "Treaty 2.2", fields, "ok", lambda p=pledges: activated(p, parties))
    for name, (about, text) in bad.items():
        one = {"alpha": text}
        fields = {"parties": sorted(parties), "pledges": one}
        spec = "C2SP tlog-policy §Defining the quorum"
        yield _made("pledge", name, about, spec, fields, "malformed", lambda p=one: activated(p, parties))


def _circle(without: str = "") -> dict[str, str]:
    after = (*PARTIES[1:], PARTIES[0])
    return {p: f"quorum {q}\n" for p, q in zip(PARTIES, after, strict=True) if p != without}


# --- permits: what a signer checks, and what a gate opens


def _grants() -> Iterator[Made]:
    def grant(name: str, spec: str, about: str, w: World, of: Live, expect: str = "ok", **changes: Any) -> Made:
        times = {k: changes.pop(k, w.now) for k in ("view_time", "now")}
        permit = msgspec.structs.replace(w.request(of), **changes)
        fields = {**log_of(w), "permit": plain(permit), **times}

        def act() -> dict[str, str]:
            w.grant(permit, **times)
            return {"largest": str(limit_of(w.state, of.now))}

        return _made("permit", f"grant-{name}", about, spec, fields, expect, act)

    w, run = _asked()
    now, life, stale = w.now, w.treaty.permit_lifetime, w.treaty.stale_after
    yield grant("largest", "Treaty 5.4", "The most that may be asked for.", w, run)
    yield grant("least", "Treaty 5.4", "One operation, for one second.", w, run, flop_limit="1", expires=now + 1)
    yield grant("nothing", "formats.md §Permit", "No compute at all.", w, run, "malformed", flop_limit="0")
    yield grant("of-another-treaty", "formats.md §Permit", "Another treaty.", w, run, "foreign", treaty=OTHER)
    yield grant(
        "too-long", "Treaty 5.3", "A second more than a permit lives.", w, run, "allowance", expires=now + life + 1
    )
    yield grant("of-no-time", "Treaty 5.3", "It ends when it begins.", w, run, "allowance", expires=now)
    limit = str(limit_of(w.state, run.now) + 1)
    yield grant(
        "too-much", "Treaty 5.4", "One operation more than the allowance.", w, run, "allowance", flop_limit=limit
    )
    yield grant(
        "on-an-old-view", "Treaty 6.4", "The signer's checkpoint is as old as it may be.", w, run, now=now + stale
    )
    view = {"now": now + stale + 1}
    yield grant(
        "on-a-stale-view", "Treaty 6.4", "The signer's checkpoint is a second too old.", w, run, "stale", **view
    )
    ahead = now + stale + w.treaty.heartbeat
    times = {"view_time": ahead, "now": ahead, "issued": ahead, "expires": ahead + 1}
    yield grant("as-late-as-a-stamp", "Treaty 6.3", "The log's last stamp is as old as it may be.", w, run, **times)
    times = {k: v + 1 for k, v in times.items()}
    yield grant("without-stamps", "Treaty 6.3", "The log has recorded no time for too long.", w, run, "stale", **times)
    yield grant(
        "of-a-larger-log",
        "Treaty 6.4",
        "More entries than the signer has seen.",
        w,
        run,
        "stale",
        size=w.state.size + 1,
    )
    yield grant(
        "of-a-smaller-log",
        "Treaty 6.4",
        "The size of the last stamp.",
        w,
        run,
        size=w.state.size - 1,
        root=_root(w, -1),
    )
    yield grant(
        "of-an-old-log", "Treaty 6.4", "A size that no root is kept of.", w, run, "stale", size=1, root=_root(w, 1)
    )
    yield grant("of-another-root", "Treaty 6.1", "A root that the signer does not see.", w, run, "tampered", root=OTHER)
    late = {"issued": now + 31, "expires": now + 32}
    yield grant("of-tomorrow", "Treaty 5.3", "Issued later than clocks may differ.", w, run, "not-yet-valid", **late)
    over = {"issued": now - life, "expires": now}
    yield grant("that-has-expired", "Treaty 5.3", "It is over when it is asked for.", w, run, "expired", **over)
    yield grant("of-another-epoch", "Treaty 5.5", "An epoch that is not now.", w, run, "replayed", epoch=1)
    yield grant("of-no-run", "Treaty 7.1", "A run that was not declared.", w, run, "undeclared", run=OTHER)
    for name, spec, about, made, expect in _STATES:
        w, run = made()
        yield grant(name, spec, about, w, run, expect)
    w, run = _asked(steps=2)
    limit = str(3 * 10**9)
    yield grant("beyond-its-steps", "Treaty 5.4", "More than the run declared.", w, run, "allowance", flop_limit=limit)


def _root(w: World, size: int) -> str:
    return tree_root([leaf_hash(e) for e in w.entries[:size]]).hex()


def _asked(**changes: Any) -> tuple[World, Live]:
    w = bound()
    run = w.opened("alpha", **changes)
    w.stamp()
    return w, run


def _paused() -> tuple[World, Live]:
    w, run = _asked()
    w.trip()
    return w, run


def _unopened() -> tuple[World, Live]:
    w = bound()
    return w, w.declare("alpha")


def _stopped() -> tuple[World, Live]:
    w, run = _asked()
    w.head(run, "stopped")
    return w, run


def _barred() -> tuple[World, Live]:
    w = bound(brake_findings_trip="false")
    run = w.finished("alpha", steps=6, status="running")
    for inspector in ("beta", "gamma"):
        w.audit(inspector, run, violation())
    return w, run


def _prohibited() -> tuple[World, Live]:
    return _asked(steps=2 * 10**9)


def _held() -> tuple[World, Live]:
    w = bound(lift_delay='"0 s"')
    run = w.finished("alpha", steps=6)
    w.trip()
    for inspector in ("beta", "gamma"):
        w.audit(inspector, run, gap())
    w.vote("lift", *LABS)
    w.head(run, "opened")
    w.stamp()
    return w, run


def _settled_after_all() -> tuple[World, Live]:
    w, run = _held()
    for inspector in ("beta", "gamma"):
        w.audit(inspector, run)
    return w, run


def _child() -> tuple[World, Live]:
    w = bound()
    parent = w.declare("alpha", name="parent")
    w.edge("alpha", "m", run=parent.id)
    return w, w.opened("beta", name="child", parents=(parent.id,))


def _child_that_is_read() -> tuple[World, Live]:
    w, run = _child()
    w.read("lineage", 0.125, "alpha", "delta", subject=model("m"))
    return w, run


_STATES = (
    ("while-paused", "Treaty 4.6", "The brake is on.", _paused, "paused"),
    ("before-it-opens", "Treaty 7.2", "The run has not logged where it stands.", _unopened, "missing"),
    ("after-it-stopped", "Treaty 7.2", "The run's last head says that it stopped.", _stopped, "missing"),
    ("of-a-barred-run", "Treaty 5.6", "A violation was upheld.", _barred, "barred"),
    ("of-a-prohibited-run", "Treaty 3.3", "A run in a tier that gets no permit.", _prohibited, "prohibited"),
    ("of-a-held-run", "Treaty 5.7", "The run was not settled before the lift.", _held, "missing"),
    ("of-a-run-settled-late", "Treaty 5.7", "Inspectors passed the run that was held back.", _settled_after_all, "ok"),
    ("of-a-child-unread", "Treaty 5.8", "No safety reading of what its parent made.", _child, "missing"),
    ("of-a-child-that-is-read", "Treaty 5.8", "Two parties read what its parent made.", _child_that_is_read, "ok"),
)


def _sealed() -> Iterator[Made]:
    w, run = _asked()
    permit = w.request(run)
    whole = w.sealed(permit, *LABS)
    stranger = b'{"keyid":"ffffffffffffffff","sig":"AAAA"}'
    first = whole[whole.index(b'{"keyid"') :].split(b"},")[0] + b"}"
    cases = {
        "three": ("Three permit signers of four.", whole, "ok"),
        "four": ("All four.", w.sealed(permit, *PARTIES), "ok"),
        "two": ("Two permit signers are no quorum.", w.sealed(permit, *LABS[:2]), "no-quorum"),
        "and-a-stranger": ("A line of an unknown key beside a quorum.", whole[:-2] + b"," + stranger + b"]}", "ok"),
        "one-bad-line": ("A line of a known key that does not verify.", _bent(whole, first), "forged"),
        "of-another-kind": (
            "The payload type is another.",
            whole.replace(b"brakeline.permit.", b"brakeline.vote."),
            "foreign",
        ),
        "unsorted": ("Signatures out of order.", _swapped(whole), "malformed"),
    }
    for name, (about, data, expect) in cases.items():
        fields = {"treaty": w.treaty.text.decode(), "permit": data.decode()}

        def act(data: bytes = data) -> dict[str, Any]:
            return {"permit": open_permit(data, w.treaty, w.treaty.signer_keys)[0]}

        yield _made("permit", f"sealed-{name}", about, "Treaty 5.2", fields, expect, act)


def _bent(data: bytes, line: bytes) -> bytes:
    bad = line[: line.index(b'"sig"')] + b'"sig":"' + b64encode(bytes(64)).encode() + b'"}'
    return data.replace(line, bad)


def _swapped(data: bytes) -> bytes:
    start = data.index(b'{"keyid"')
    lines = data[start:-2].split(b",{")
    return data[:start] + b",".join([b"{" + lines[1], lines[0], b"{" + lines[2]]) + b"]}"


# --- samples


def _draws() -> Iterator[Made]:
    seed = sha256(b"seed")
    for name, about, count, population in (
        ("none", "No draw of many.", 0, 100),
        ("one", "One of a hundred.", 1, 100),
        ("some", "Twelve of a hundred.", 12, 100),
        ("all", "All of twenty.", 20, 20),
        ("of-very-many", "Four of 2^50: nothing of that size is built.", 4, 2**50),
    ):
        fields = {"seed_hex": seed.hex(), "count": count, "population": population}
        output = {"drawn": list(draw(seed, count, population))}
        yield Made("sample", f"draw-{name}", about, "formats.md §Draws", fields, "ok", output)
    for name, about, n, catch, cheat in (
        ("published-95", "The published check value for 95 %.", 6000, "0.95", "0.01"),
        ("published-99", "The published check value for 99 %.", 6000, "0.99", "0.01"),
        ("few", "Ten segments, half of them bad.", 10, "0.95", "0.5"),
        ("one", "One segment.", 1, "0.95", "0.01"),
        ("every-one", "So sure that all but the bad ones are looked at.", 40, "0.999999", "0.05"),
        ("very-many", "As many segments as a run may have.", 2**50, "0.99", "0.01"),
        (
            "long-decimals",
            "Shares with more digits than a double has.",
            977,
            "0.98765432109876543210",
            "0.012345678901234567",
        ),
    ):
        fields = {"segments": n, "p_catch": catch, "f_cheat": cheat}
        output = {"draws": draws_needed(n, Decimal(catch), Decimal(cheat))}
        yield Made("sample", f"needed-{name}", about, "Treaty 7.4", fields, "ok", output)


def _samples() -> Iterator[Made]:
    for name, about, made in (
        ("short-run", "Two segments: all of them.", small),
        ("long-run", "Forty segments: the first, the last and a draw.", lambda: small(steps=120)),
        ("last-cut-short", "A head that cuts the last segment short.", lambda: small(steps=29)),
        ("with-a-seam", "A run that was opened again: both segments at the seam.", _seam),
    ):
        w, run = made()
        for inspector in ("beta", "delta"):
            yield _sample(f"{name}-{inspector}", about, w, run, inspector, key(inspector))
    w, run = small()
    yield _sample("anothers-ticket", "A ticket that another inspector signed.", w, run, "delta", key("beta"), "forged")
    w = world()
    run = w.opened("alpha")
    yield _sample("no-beacon", "No stamp follows the head yet.", w, run, "delta", key("delta"), "missing")


def _seam() -> tuple[World, Live]:
    w = world()
    run = w.opened("alpha", steps=400)
    w.train(run, 150)
    w.head(run, "running")
    w.head(run, "opened")
    w.train(run, 300)
    w.head(run, "running")
    w.stamp()
    return w, run


def _sample(name: str, about: str, w: World, run: Live, inspector: str, by: Any, expect: str = "ok") -> Made:
    logged: LoggedHead = run.heads[-1]
    ticket = by.sign(ticket_message(logged.leaf, logged.beacon))
    fields = {**log_of(w), "run": run.id, "head": logged.index, "inspector": inspector, "ticket_hex": ticket.hex()}

    def act() -> dict[str, Any]:
        return {"segments": required_sample(w.treaty, run.now, logged, inspector, ticket, w.state.key_of(inspector))}

    return _made("sample", f"log-{name}", about, "Treaty 7.3, 7.4", fields, expect, act)
