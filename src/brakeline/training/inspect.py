"""An inspector at work: draw the sample, open the evidence, replay, judge, and log what was found."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from brakeline.core.encoding import Wire, b64encode, canonical, parse, unhex32
from brakeline.core.errors import BrakelineError, Malformed, Misuse, Reason, Refused, Unavailable
from brakeline.core.finding import Audit, Fault, Finding, verdict
from brakeline.core.fold import Fold, LoggedHead, RunRecord
from brakeline.core.judge import Openings, judge
from brakeline.core.keys import PrivateKey
from brakeline.core.sampling import ticket_message
from brakeline.core.transcript import Leaf, SegmentReplay, decode_leaf
from brakeline.node.disk import write_atomic
from brakeline.training.environment import digest, profile
from brakeline.training.recipe import Code, Recipe, deposited
from brakeline.training.recorder import read_leaves
from brakeline.training.replay import replay
from brakeline.training.session import RECIPE, evidence_permits

Part = tuple[int, int]
Progress = Callable[[int, int], None]  # segments done, segments in all
_NO_DIGEST: Final = "0" * 64


class _Kept(Wire, frozen=True):
    """A replay on the inspector's disk, so that an interrupted audit goes on where it was."""

    start: int
    end: int
    start_state: str
    leaves: tuple[str, ...]
    environment: str
    update_error: str | None  # as `float.hex` writes it: JSON has no infinity, which weights that never moved give
    rho: str | None


def inspect(
    fold: Fold,
    run: RunRecord,
    logged: LoggedHead,
    evidence: Path,
    inspector: str,
    key: PrivateKey,
    *,
    memory: Path,
    accused: Sequence[Part] = (),
    progress: Progress = lambda done, total: None,
) -> Audit:
    """Examine `run` up to the head `logged`, on the evidence its lab shows; returns the body of an audit statement.

    With `accused`, only those segments are replayed, to confirm or reject another inspector's finding. `memory` keeps
    finished replays.

    Raises:
        Refused(MISSING): no checkpoint has been cosigned after the head yet, so there is no sample to draw.
        Misuse: the inspector audits its own run. Unavailable: there is no evidence folder at all: the inspector looks
            in the wrong place, which is no fault of the lab's.
    """
    if run.owner == inspector:
        raise Misuse("a lab does not inspect itself (Treaty 7.7)")
    if not evidence.is_dir():
        raise Unavailable(f"no evidence folder at {evidence}", hint="ask the lab where it shows the run's evidence")
    beacon = fold.beacon_for(logged.index)
    if beacon is None:
        raise Refused(Reason.MISSING, "no checkpoint has been cosigned after this head: wait for the next stamp")
    ticket = key.sign(ticket_message(logged.leaf, beacon.root))
    required = tuple(accused) or fold.required_sample(run, logged, inspector, ticket)
    environment = digest(profile())
    openings, recipe, code, problem = _open(run, logged, evidence)
    replays: dict[Part, SegmentReplay | Finding] = {}
    if code is not None and recipe is not None and run.seed is not None:
        config = recipe.full_config(run.seed)
        for done, part in enumerate(required):
            progress(done, len(required))
            replays[part] = _replay(code, config, evidence, part, memory, environment)
        progress(len(required), len(required))
    if problem is None:
        findings = judge(fold, run, logged, openings, required, replays, environment=environment)
    else:
        findings = (problem,)
    replayed = tuple(sorted(p for p, r in replays.items() if isinstance(r, SegmentReplay)))
    return Audit(
        run=run.id,
        head=logged.index,
        beacon=beacon.index,
        ticket=b64encode(ticket),
        segments=replayed,
        environment=environment,
        flop=str(sum(end - start for start, end in replayed) * run.declaration.step_flop),
        findings=findings,
        verdict="partial" if accused else verdict(findings),
    )


def _open(
    run: RunRecord, logged: LoggedHead, evidence: Path
) -> tuple[Openings, Recipe | None, Code | None, Finding | None]:
    """What the lab shows. Code is run only when its digest is the one declared."""
    nothing = Openings((), (), _NO_DIGEST, _NO_DIGEST)
    try:
        recipe = deposited(evidence / RECIPE)
        shown = recipe.digest
        leaves = read_leaves(evidence)[: logged.head.steps + 1]
        if shown != run.declaration.recipe:
            return Openings(leaves, (), shown, run.declaration.dataset), None, None, None
        permits, code = evidence_permits(evidence), recipe.load()
    except (BrakelineError, OSError, TypeError, ValueError, SystemExit) as e:
        # What was asked for and not shown counts against the one who was asked.
        return nothing, None, None, _finding(Fault.OPENING_MISSING, (0, 0), str(e))
    try:
        dataset = str(code.dataset_root(recipe.full_config(bytes(32))))
    except (Exception, SystemExit) as e:
        detail = f"dataset_root() failed: {type(e).__name__}"
        return nothing, None, None, _finding(Fault.NOT_REPLAYED, (0, 0), detail)
    return Openings(leaves, permits, shown, dataset), recipe, code, None


def _replay(
    code: Code, config: dict[str, Any], evidence: Path, part: Part, memory: Path, environment: str
) -> SegmentReplay | Finding:
    kept = memory / f"replay-{part[0]:08d}-{part[1]:08d}-{environment[:16]}.json"
    if kept.exists():
        return _restore(parse(kept.read_bytes(), _Kept))
    try:
        result = replay(code.train, config, evidence, *part)
    except Unavailable as e:
        return _finding(Fault.OPENING_MISSING, part, str(e))
    except (Malformed, Refused) as e:
        return _finding(Fault.OPENING_MISMATCH, part, str(e))
    except Misuse as e:
        return _finding(Fault.NOT_REPLAYED, part, str(e))
    except (Exception, SystemExit) as e:  # the lab's code must not end the audit of it
        return _finding(Fault.NOT_REPLAYED, part, f"train() failed in replay: {type(e).__name__}")
    write_atomic(kept, canonical(_keep(result)))
    return result


def _finding(fault: Fault, part: Part, detail: str) -> Finding:
    severity: Literal["violation", "gap"] = "gap" if fault is Fault.NOT_REPLAYED else "violation"
    # The lab's code chooses the words of its errors; a lone surrogate among them could not be signed.
    text = detail[:300].encode("utf-8", "backslashreplace").decode()
    return Finding(fault=fault, severity=severity, segment=part, detail=text)


def _keep(r: SegmentReplay) -> _Kept:
    return _Kept(
        start=r.start,
        end=r.end,
        start_state=r.start_state.hex(),
        leaves=tuple(leaf.encode().hex() for leaf in r.leaves),
        environment=r.environment,
        update_error=None if r.update_error is None else r.update_error.hex(),
        rho=None if r.rho is None else r.rho.hex(),
    )


def _restore(k: _Kept) -> SegmentReplay:
    leaves = tuple(decode_leaf(bytes.fromhex(x)) for x in k.leaves)
    error, rho = (None if text is None else float.fromhex(text) for text in (k.update_error, k.rho))
    return SegmentReplay(k.start, k.end, unhex32(k.start_state), leaves, k.environment, error, rho)


def transcript_bytes(leaves: Sequence[Leaf]) -> bytes:
    """Leaves as a bundle carries them: 128 bytes each, in step order."""
    return b"".join(leaf.encode() for leaf in leaves)
