"""A finding: what an inspector found out about a run, with a code. An audit: what was looked at, and the findings."""

from enum import StrEnum
from typing import Final, Literal

from brakeline.core.encoding import Wire


class Fault(StrEnum):
    """What is wrong with a run."""

    TRANSCRIPT_MISMATCH = "transcript-mismatch"  # the opened steps are not those the logged heads commit to
    HEAD_MISSING = "head-missing"  # the run went on for longer than the treaty's cadence without committing
    STEP_ORDER = "step-order"  # step numbers or compute do not count up by one
    INITIAL_STATE = "initial-state"  # the run did not start from the seed it was given
    OPENING_MISSING = "opening-missing"  # a checkpoint the sample asked for was not shown
    OPENING_MISMATCH = "opening-mismatch"  # the shown checkpoint is not the recorded state
    REPLAY_MISMATCH = "replay-mismatch"  # re-executing the segment gives another result
    NO_PERMIT = "no-permit"  # steps without a valid permit
    OVER_ALLOWANCE = "over-allowance"  # more compute than the permit allowed
    RECIPE_MISMATCH = "recipe-mismatch"  # code or data shown are not those declared
    ENVIRONMENT_MISMATCH = "environment-mismatch"  # the inspector's machine computes differently: never called fraud
    NOT_REPLAYED = "not-replayed"  # the inspector could not finish what the sample demands
    NOT_REPRODUCIBLE = "not-reproducible"  # the recipe does not agree with itself: there is nothing to compare with
    CONTESTED = "contested"  # it comes out otherwise in another environment than where it was made
    NOT_VERIFIED = "not-verified"  # in this environment, what comes out cannot tell
    EXPOSED = "exposed"  # the lab's code was replayed where it could see or change what it should not


# Faults that only re-executing the segment shows. All others show in what the lab opens of the whole transcript.
REPLAYED: Final = frozenset(
    {
        Fault.INITIAL_STATE,
        Fault.OPENING_MISSING,
        Fault.OPENING_MISMATCH,
        Fault.REPLAY_MISMATCH,
        Fault.ENVIRONMENT_MISMATCH,
        Fault.NOT_REPLAYED,
        Fault.NOT_REPRODUCIBLE,
        Fault.CONTESTED,
        Fault.NOT_VERIFIED,
    }
)
# These accuse nobody, whoever says so. Treaty 7.6
BLAMELESS: Final = frozenset(
    {
        Fault.ENVIRONMENT_MISMATCH,
        Fault.NOT_REPLAYED,
        Fault.NOT_REPRODUCIBLE,
        Fault.CONTESTED,
        Fault.NOT_VERIFIED,
        Fault.EXPOSED,
    }
)
# Rules 1 do not know them: an audit that has one is malformed.
SINCE_RULES_2: Final = frozenset({Fault.NOT_REPRODUCIBLE, Fault.CONTESTED, Fault.NOT_VERIFIED, Fault.EXPOSED})


Key = str  # what two inspectors must agree on for a finding to be upheld: `fault@start-end`


def key_of(fault: str, segment: tuple[int, int]) -> Key:
    """The key of a fault at these steps."""
    return f"{fault}@{segment[0]}-{segment[1]}"


class Finding(Wire, frozen=True):
    """`segment` is the half-open step range it concerns; `(0, 0)` means the whole transcript."""

    fault: Fault
    severity: Literal["violation", "notice", "gap"]
    segment: tuple[int, int]
    detail: str

    @property
    def key(self) -> Key:
        """What it alleges; the wording may differ."""
        return key_of(self.fault, self.segment)


class Audit(Wire, frozen=True):
    """Body of an `audit`: one inspector's examination of one run up to one logged head.

    `head` and `beacon` are log indices: of the head audited and of the stamp that, with the head and the inspector's
    `ticket` (base64 signature), seeds the sample. `segments` are those replayed. `flop` is the compute spent on
    replays. The verdict `partial` answers another inspector's findings and covers only their segments.
    """

    run: str
    head: int
    beacon: int
    ticket: str
    segments: tuple[tuple[int, int], ...]
    environment: str
    flop: str
    findings: tuple[Finding, ...]
    verdict: Literal["pass", "fail", "inconclusive", "partial"]


class Retraction(Wire, frozen=True):
    """Body of a `retraction`: its issuer no longer alleges this. Treaty 7.9."""

    run: str
    fault: Fault
    segment: tuple[int, int]


class Answer(Wire, frozen=True):
    """Body of an `answer`: what the lab has to say to an allegation, for the record. Treaty 7.9."""

    run: str
    fault: Fault
    segment: tuple[int, int]
    text: str


def verdict(findings: tuple[Finding, ...]) -> Literal["pass", "fail", "inconclusive"]:
    """`fail` with any violation; `inconclusive` when a demanded check could not be made; else `pass`."""
    severities = {f.severity for f in findings}
    # Fail closed: a check that was not made never passes.
    return "fail" if "violation" in severities else "inconclusive" if "gap" in severities else "pass"
