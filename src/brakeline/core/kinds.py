"""The kinds of statements: body, who may say it, the lane whose numbers and budget it uses, and since which rules.

"Known" is decided by the rules that the treaty names, never by the build that reads the log: a kind of later rules
takes its number in the lane `rest` and has no effect, here as in a build that knows it. Treaty 1.4.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from brakeline.core.brake import Vote
from brakeline.core.duty import Incident, Notice, Report, Request
from brakeline.core.encoding import Wire
from brakeline.core.evidence import Evidence
from brakeline.core.finding import Answer, Audit, Retraction
from brakeline.core.lineage import Edge
from brakeline.core.pledge import Assent, Pledge, Withdrawal
from brakeline.core.reading import Reading
from brakeline.core.run import Declaration, Designation, Move
from brakeline.core.snapshot import Snapshot
from brakeline.core.succession import Amend, KeyChange, Revocation
from brakeline.core.transcript import Head
from brakeline.core.treaty import Lane, Role


@dataclass(frozen=True, slots=True)
class Kind:
    """`role` is None where any party may say it; `since` is the first version of the rules that knows it."""

    name: str
    body: type[Wire]
    role: Role | None
    lane: Lane
    since: int = 1


KINDS: Final = (
    Kind("assent", Assent, None, "brake"),
    Kind("pledge", Pledge, None, "brake"),
    Kind("withdrawal", Withdrawal, None, "brake"),
    Kind("vote", Vote, None, "brake"),
    Kind("evidence", Evidence, None, "brake"),
    Kind("declaration", Declaration, "lab", "runs"),
    Kind("edge", Edge, "lab", "runs"),
    Kind("head", Head, "lab", "runs"),
    Kind("moved", Move, "lab", "runs", since=2),
    Kind("answer", Answer, "lab", "audits"),
    Kind("audit", Audit, "inspector", "audits"),
    Kind("retraction", Retraction, "inspector", "audits"),
    Kind("snapshot", Snapshot, "permit-signer", "audits"),
    Kind("key", KeyChange, None, "brake", since=2),
    Kind("revoke", Revocation, None, "brake", since=2),
    Kind("amend", Amend, None, "rest", since=2),
    Kind("reading", Reading, None, "rest"),
    Kind("designation", Designation, None, "rest"),
    Kind("incident", Incident, None, "rest"),
    Kind("notice", Notice, None, "rest"),
    Kind("request", Request, None, "rest"),
    Kind("report", Report, None, "rest"),
)


@cache
def known(rules: int) -> Mapping[str, Kind]:
    """The kinds that a version of the rules knows, by name."""
    return {k.name: k for k in KINDS if k.since <= rules}


def lane_of(kind: str, rules: int) -> Lane:
    """The lane of a kind, known or not."""
    found = known(rules).get(kind)
    return found.lane if found else "rest"
