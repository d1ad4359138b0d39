"""Verdicts: what the log, the lab's openings and an inspector's replays give, by the judge."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from brakeline.core.encoding import sha256
from brakeline.core.finding import Fault, Finding, verdict
from brakeline.core.gate import NO_PERMIT
from brakeline.core.judge import Openings, judge
from brakeline.core.state import events as e
from brakeline.core.transcript import Leaf, Likeness, SegmentReplay
from scenes.made import Made, bound, log_of, plain, world
from scenes.shown import OTHER, small
from world import STEP_FLOP, Live, World

Part = tuple[int, int]
Replays = dict[Part, SegmentReplay | Finding]


def replayed(replay: SegmentReplay | Finding) -> dict[str, Any]:
    """One replay as plain values: a finding why there is none, or what came of it."""
    if isinstance(replay, Finding):
        return {"finding": plain(replay)}
    return {
        "start": replay.start,
        "end": replay.end,
        "start_state": replay.start_state.hex(),
        "leaves_hex": [leaf.encode().hex() for leaf in replay.leaves],
        "environment": replay.environment,
        "likeness": None if replay.likeness is None else replay.likeness.kind,
    }


def found(findings: Sequence[Finding]) -> dict[str, Any]:
    """The output of a vector of the noun `verdict`: without the sentences, which are for people."""
    said = [{"fault": str(f.fault), "severity": f.severity, "segment": list(f.segment)} for f in findings]
    return {"findings": said, "verdict": verdict(tuple(findings))}


def case(
    name: str,
    spec: str,
    about: str,
    wants: str,
    w: World,
    run: Live,
    *,
    environment: str = "",
    replays: Replays | None = None,
    without: Part | None = None,
    **shown: Any,
) -> Made:
    """A vector: `wants` is what the judge must find, as `fault severity segment` each, joined by commas."""
    openings: Openings = w.openings(run, **shown)
    parts = w.required("delta", run)
    here = environment or run.declaration.environment
    made: Replays = {part: w.replay(run, part) for part in parts} | (replays or {})
    made = {part: r for part, r in made.items() if part != without}
    heads = [x for x in w.of(e.Committed) if x.head.run == run.id]
    findings = judge(w.state, run.now, heads, openings, parts, made, environment=here)
    output = found(findings)
    came = ", ".join(f"{f.fault} {f.severity} {f.segment[0]}-{f.segment[1]}" for f in findings)
    assert came == wants, f"verdict/{name}: {came or 'nothing'}, not {wants or 'nothing'}"
    fields = {
        **log_of(w),
        "run": run.id,
        "leaves_hex": [leaf.encode().hex() for leaf in openings.leaves],
        "permits": [p.decode() for p in openings.permits],
        "recipe": openings.recipe,
        "dataset": openings.dataset,
        "environment": here,
        "required": [list(part) for part in parts],
        "replays": [{"segment": list(part), **replayed(r)} for part, r in sorted(made.items())],
    }
    return Made("verdict", name, about, spec, fields, "ok", output)


def made() -> Iterator[Made]:
    yield from _openings()
    yield from _permits()
    yield from _replays()
    yield from _elsewhere()


def _openings() -> Iterator[Made]:
    w, run = small()
    leaves = tuple(w.leaves[run.id])
    bent = (*leaves[:3], replace(leaves[3], loss=9.0), *leaves[4:])
    skipped = (*leaves[:3], replace(leaves[3], step=4), *leaves[4:])
    dear = (*leaves[:3], replace(leaves[3], flop=1), *leaves[4:])
    yield case("clean", "Treaty 7.5", "An honest run.", "", w, run)
    at_all = "opening-missing violation 0-0"
    yield case("leaf-missing", "Treaty 7.2", "A leaf too few.", at_all, w, run, leaves=leaves[:-1])
    yield case("leaf-more", "Treaty 7.2", "A leaf too many.", at_all, w, run, leaves=(*leaves, leaves[-1]))
    yield case("leaf-bent", "Treaty 7.2", "One loss is another than the one committed to.", at_all, w, run, leaves=bent)
    order = at_all  # nobody committed to it
    yield case("step-skipped", "Treaty 7.2", "A step that does not count up by one.", order, w, run, leaves=skipped)
    yield case(
        "compute-wrong", "Treaty 5.4", "Compute that is not the steps times the declared.", order, w, run, leaves=dear
    )
    yield case("other-recipe", "Treaty 7.5", "Code that was not declared.", at_all, w, run, recipe=OTHER)
    other = "recipe-mismatch gap 0-0"
    yield case(
        "other-data",
        "Treaty 7.5",
        "The inspector's data are others: that accuses nobody.",
        other,
        w,
        run,
        dataset=OTHER,
    )
    for name, about, at, changes, wants in (
        ("committed-skip", "A step that does not count up by one, and that the lab committed to.", 3, {"step": 4},
         "step-order violation 3-3"),
        ("committed-compute", "Compute that is not the steps times the declared, committed to.", 3, {"flop": 1},
         "step-order violation 3-3"),
    ):  # fmt: skip
        w, run = _committed(at, changes)
        yield case(name, "Treaty 7.2", about, wants, w, run)
    w, run = _committed(0, {}, state=sha256(b"another"))
    named = "transcript-mismatch violation 0-0"
    yield case("head-of-another-state", "Treaty 7.2", "A head that names another state than its leaves.", named, w, run)
    w, run = small(steps=18)
    late = "head-missing violation 0-0"
    yield case("head-missing", "Treaty 7.2", "More steps without a head than the treaty allows.", late, w, run)
    w, run = small(steps=15)
    yield case("head-at-its-cadence", "Treaty 7.2", "As many steps without a head as the treaty allows.", "", w, run)
    w, run = _killed()
    yield case("opened-again", "Treaty 7.4", "A run that was killed and went on.", "", w, run)


def _committed(at: int, changes: dict[str, Any], **said: Any) -> tuple[World, Live]:
    """A run whose lab committed to a leaf that is wrong, or to a head that says something else."""
    w = world()
    run = w.opened("alpha")
    w.train(run, 6)
    w.leaves[run.id][at] = replace(w.leaves[run.id][at], **changes)
    w.head(run, "stopped", **{name: value.hex() for name, value in said.items()})
    w.stamp()
    return w, run


def _killed() -> tuple[World, Live]:
    w = world()
    run = w.opened("alpha")
    w.train(run, 5)
    w.head(run, "running")
    w.head(run, "opened")
    w.train(run, 9)
    w.head(run, "stopped")
    w.stamp()
    return w, run


def _trained(permit: bytes | None = None, steps: int = 6, **changes: str) -> tuple[World, Live]:
    """A run of a bound lab that took its steps under `permit`, by default under one that it was granted."""
    w = bound(**changes)
    run = w.opened("alpha")
    w.train(run, steps, w.permit(run) if permit is None else permit)
    w.head(run, "stopped")
    w.stamp()
    return w, run


def _permits() -> Iterator[Made]:
    w, run = _trained()
    yield case("under-permit", "Treaty 5.1", "Every step names a permit that covers it.", "", w, run)
    unshown = "opening-missing violation 0-0"
    yield case(
        "permit-not-shown", "Treaty 5.1", "The permit that the steps name is not shown.", unshown, w, run, permits=()
    )
    two = w.sealed(w.request(run, flop_limit=str(6 * STEP_FLOP)), "alpha", "beta")
    yield case("permit-of-two", "Treaty 5.2", "A permit of two signers is none.", unshown, w, run, permits=(two,))
    w, run = _trained(NO_PERMIT)
    without = "no-permit violation 0-6"
    yield case("no-permit", "Treaty 5.1", "A covered run of a bound lab, without a permit.", without, w, run)
    w, run = _trained(steps=8)
    beyond = "over-allowance violation 6-8"
    yield case("over-allowance", "Treaty 5.4", "Two steps more than the permit allows.", beyond, w, run)
    w = world()
    run = w.opened("alpha")
    w.train(run, 3)
    w.head(run, "running")
    w.bind()
    w.head(run, "running")
    w.train(run, 6, w.permit(run))
    w.head(run, "stopped")
    w.stamp()
    yield case("before-the-duty", "Treaty 2.2", "Steps before its lab was bound need no permit.", "", w, run)
    w = bound(lift_delay='"0 s"', audit_p_catch='"10 %"')
    run = w.opened("alpha")
    old = w.permit(run)
    w.train(run, 3, old)
    w.trip()
    w.head(run, "stopped")
    w.stamp()
    for inspector in ("beta", "gamma"):
        w.audit(inspector, run)
    w.vote("lift", "alpha", "beta", "gamma")
    w.head(run, "opened")
    w.train(run, 6, old)
    w.head(run, "stopped")
    w.stamp()
    ended = "no-permit violation 3-6"
    yield case("permit-of-an-old-epoch", "Treaty 5.5", "A permit of before the brake, used after it.", ended, w, run)


def _bent(replay: SegmentReplay, at: int, **changes: Any) -> SegmentReplay:
    leaves = list(replay.leaves)
    leaves[at] = replace(leaves[at], **changes)
    return replace(replay, leaves=tuple(leaves))


def _replays() -> Iterator[Made]:
    w, run = small()
    first, second = w.required("delta", run)
    honest = w.replay(run, second)
    for what, changes in (
        ("state", {"state": sha256(b"x")}),
        ("batch", {"batch": sha256(b"x")}),
        ("loss", {"loss": 0.25}),
    ):
        bad = {second: _bent(honest, 1, **changes)}
        about = f"Run again, step 5 gives another {what}."
        yield case(f"other-{what}", "Treaty 7.5", about, "replay-mismatch violation 3-6", w, run, replays=bad)
    bad = {first: replace(w.replay(run, first), start_state=sha256(b"x"))}
    start = "initial-state violation 0-3"
    yield case("other-start", "Treaty 7.1", "Not the weights that the seed gives.", start, w, run, replays=bad)
    bad = {second: replace(honest, start_state=sha256(b"x"))}
    shown = "opening-missing violation 3-6"
    yield case(
        "other-checkpoint", "Treaty 7.2", "The checkpoint shown is not the recorded state.", shown, w, run, replays=bad
    )
    missing = "not-replayed gap 3-6"
    yield case(
        "not-replayed", "Treaty 7.4", "A segment of the sample was not replayed.", missing, w, run, without=second
    )
    part = {second: replace(honest, leaves=honest.leaves[:-1])}
    yield case(
        "replayed-in-part", "Treaty 7.4", "A replay that ends before the segment.", missing, w, run, replays=part
    )
    reason = {second: Finding(fault=Fault.NOT_REPLAYED, severity="gap", segment=second, detail="no time")}
    yield case("why-not", "Treaty 7.4", "The inspector says why there is no replay.", missing, w, run, replays=reason)
    twice = {second: Finding(fault=Fault.NOT_REPRODUCIBLE, severity="gap", segment=second, detail="two replays differ")}
    other = "not-reproducible gap 3-6"
    about = "A recipe that does not agree with itself accuses nobody."
    yield case("not-reproducible", "Treaty 7.6", about, other, w, run, replays=twice)
    w, run = _nan()
    yield case("not-a-number", "formats.md §Transcript", "A loss that is no number equals itself.", "", w, run)


def _nan() -> tuple[World, Live]:
    w = world()
    run = w.opened("alpha")
    w.train(run, 5)
    last = w.leaves[run.id][-1]
    w.leaves[run.id].append(Leaf(6, sha256(b"6"), last.batch, NO_PERMIT, float("nan"), 6 * STEP_FLOP))
    w.head(run, "stopped")
    w.stamp()
    return w, run


def _elsewhere() -> Iterator[Made]:
    w, run = small()
    first, second = w.required("delta", run)

    def there(likeness: Likeness | None) -> Replays:
        near = Likeness("agrees", "")
        both: Replays = {p: replace(w.replay(run, p), environment=OTHER, likeness=near) for p in (first, second)}
        moved = _bent(replace(w.replay(run, second), environment=OTHER), 2, state=sha256(b"rounded"), loss=0.3)
        both[second] = replace(moved, likeness=likeness)
        return both

    ok = "environment-mismatch notice 0-3"
    near = f"{ok}, environment-mismatch notice 3-6"
    cases: tuple[tuple[Any, str, str], ...] = (
        ("agrees", "Another environment, and states as near as replays there are.", near),
        ("contested", "A state beside every replay accuses nobody there.", f"{ok}, contested gap 3-6"),
        ("undecided", "What smaller steps may settle.", f"{ok}, contested gap 3-6"),
        ("not-verified", "Replays there lie too far apart to tell.", f"{ok}, not-verified gap 3-6"),
        ("", "States that were not compared.", f"{ok}, not-verified gap 3-6"),
    )
    for kind, about, wants in cases:
        replays = there(Likeness(kind, about) if kind else None)
        name = f"elsewhere-{kind or 'unmeasured'}"
        yield case(name, "Treaty 7.5, 7.6", about, wants, w, run, environment=OTHER, replays=replays)
    replays = there(Likeness("agrees", ""))
    replays[first] = replace(replays[first], start_state=sha256(b"x"))  # type: ignore[type-var]
    yield case(
        "elsewhere-other-start",
        "Treaty 7.5",
        "Another machine may draw other weights.",
        near,
        w,
        run,
        environment=OTHER,
        replays=replays,
    )
    claimed = {second: _bent(w.replay(run, second), 1, state=sha256(b"x"))}
    lies = "not-verified gap 0-3, not-verified gap 3-6"
    yield case(
        "elsewhere-and-not-said",
        "Treaty 7.5",
        "A replay that names the declared environment, on a machine that is another.",
        lies,
        w,
        run,
        environment=OTHER,
        replays=claimed,
    )
