"""What happened: one value for every effect of an entry. Sentences are made of them in `views`, and nowhere read back.

Every event names the log entry that caused it. Times are POSIX seconds by the log's own clock.
"""

from typing import Literal

import msgspec

from brakeline.core.errors import Reason
from brakeline.core.finding import Audit, Finding
from brakeline.core.lineage import Edge
from brakeline.core.reading import Reading
from brakeline.core.transcript import Head


class Event(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """Base of all events. `entry` is the log index."""

    entry: int


class Entered(Event, frozen=True, gc=False):
    """The statement took effect."""

    kind: str
    issuer: str
    digest: str


class Void(Event, frozen=True, gc=False):
    """The entry has no effect, for this reason. Its number is spent all the same, where its signature holds.

    `unjudged`: for its number, its date or its budget alone, which whoever keeps the log can bring about by the order
    in which it logs. What it says may count when it is signed anew.
    """

    kind: str
    issuer: str
    reason: Reason
    text: str
    unjudged: bool = False


class Stamped(Event, frozen=True, gc=False):
    """The log recorded its checkpoint of `size` entries, cosigned at `time`."""

    size: int
    root: bytes
    time: int


class Forked(Event, frozen=True, gc=False):
    """A quorum cosigned another history than this one; `note` is the proof."""

    note: bytes


class Equivocated(Event, frozen=True, gc=False):
    """Two statements of one number, each as kind and payload digest, or two states of one size: proof to anybody."""

    issuer: str
    first: str
    second: str


class NearBudget(Event, frozen=True, gc=False):
    """The party has spent four fifths of what it may log in a day, in this lane or in bytes."""

    issuer: str
    lane: str
    day: int


class Bound(Event, frozen=True, gc=False):
    """The set of parties in force has changed to these."""

    parties: tuple[str, ...]


class Declared(Event, frozen=True, gc=False):
    """A run, and the tiers it is in."""

    run: str
    owner: str
    name: str
    tiers: tuple[str, ...]


class Designated(Event, frozen=True, gc=False):
    """A quorum put the run in a tier. Treaty 3.7."""

    run: str
    tier: str


class Told(Event, frozen=True, gc=False):
    """How the model `child` came to be, says `issuer`."""

    child: str
    run: str
    issuer: str
    edge: Edge


class Committed(Event, frozen=True, gc=False):
    """A head that counts. `concerned`: by the treaty the run needed a permit for its steps at that time. Treaty 5.1"""

    head: Head
    leaf: bytes
    time: int
    epoch: int
    concerned: bool


class Shifted(Event, frozen=True, gc=False):
    """Beyond `steps` the run is trained in another environment. Treaty 7.5"""

    run: str
    steps: int
    environment: str


class Audited(Event, frozen=True, gc=False):
    """An audit that counts."""

    inspector: str
    audit: Audit


class Alleged(Event, frozen=True, gc=False):
    """A violation that waits for another inspector."""

    run: str
    inspector: str
    finding: Finding


class Retracted(Event, frozen=True, gc=False):
    """An inspector took its allegation back. Treaty 7.9."""

    run: str
    inspector: str
    fault: str
    segment: tuple[int, int]


class Answered(Event, frozen=True, gc=False):
    """The lab's answer to an allegation is on the record. Treaty 7.9."""

    run: str
    fault: str
    segment: tuple[int, int]
    text: str


class Fell(Event, frozen=True, gc=False):
    """An allegation fell. Treaty 7.7."""

    run: str
    fault: str
    segment: tuple[int, int]


class Barred(Event, frozen=True, gc=False):
    """A violation was upheld: the run gets no permit. Treaty 5.6, 7.7."""

    run: str
    fault: str
    segment: tuple[int, int]


class Settled(Event, frozen=True, gc=False):
    """Enough inspectors passed the run up to its last head, and no allegation is open."""

    run: str


class Read(Event, frozen=True, gc=False):
    """A reading that is in force."""

    party: str
    reading: Reading


class Disagreed(Event, frozen=True, gc=False):
    """Two parties read the same inputs, and one of the two is wrong: party and entry of each."""

    gauge: str
    subject: str
    first: tuple[str, int]
    second: tuple[str, int]


class Due(Event, frozen=True, gc=False):
    """`party` owes `what` since `since`, by `by`: because of the entry `about`. Treaty 10.4."""

    party: str
    what: Literal["notice", "report"]
    about: int
    since: int
    by: int


class Met(Event, frozen=True, gc=False):
    """What was due since the entry `about` was done in time."""

    party: str
    about: int


class Lapsed(Event, frozen=True, gc=False):
    """What was due was not done in time, or done late: a finding against the party. Treaty 10.4."""

    party: str
    what: str
    about: int
    by: int


class ByVotes(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Enough parties voted. Treaty 4.1."""

    parties: tuple[str, ...]


class ByReadings(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Readings reached their thresholds. Treaty 4.2, 4.3."""

    gauges: tuple[str, ...]


class ByFinding(msgspec.Struct, frozen=True, tag=True, gc=False):
    """A violation was upheld. Treaty 4.4."""

    run: str
    fault: str
    segment: tuple[int, int]


class ByReopening(msgspec.Struct, frozen=True, tag=True, gc=False):
    """The log goes on under another keeper or key. Treaty 11.9."""

    origin: str


Cause = ByVotes | ByReadings | ByFinding | ByReopening


class Tripped(Event, frozen=True, gc=False):
    cause: Cause
    epoch: int
    time: int


class Paused(Event, frozen=True, gc=False):
    """All have stopped, or every permit has lapsed."""

    time: int


class Lifting(Event, frozen=True, gc=False):
    """Quorum and conditions are met; the delay runs."""

    time: int
    parties: tuple[str, ...]


class Withheld(Event, frozen=True, gc=False):
    """A condition failed again during the delay."""

    time: int


class Cleared(Event, frozen=True, gc=False):
    """The brake is off; the runs named are held back alone until they are settled. Treaty 5.7, 8.4."""

    time: int
    held: tuple[str, ...]


class Stated(Event, frozen=True, gc=False):
    """A permit signer states the digest of the state after `size` entries. Treaty 6.6."""

    signer: str
    size: int
    root: str
    state: str


class Reported(Event, frozen=True, gc=False):
    """An incident, a notice, a report, or a request for one, as a party put it on the record. Article 10.

    `incident` is its class in the treaty, or "".
    """

    party: str
    kind: str
    text: str
    incident: str = ""


class Proposed(Event, frozen=True, gc=False):
    """A next text is before the parties. Treaty 11.1."""

    text: str
    by: str


class Adopted(Event, frozen=True, gc=False):
    """Enough have assented. It turns no sooner than `due`, and lapses at `lapses`. Treaty 11.1, 11.2."""

    text: str
    due: int
    lapses: int


class Unadopted(Event, frozen=True, gc=False):
    """What was adopted has lapsed: the witnesses of the next text were not there in time. Treaty 11.2."""

    text: str


class Turned(Event, frozen=True, gc=False):
    """The next text is in force. Treaty 11.2, 11.4."""

    text: str
    version: int
    time: int


class Closed(Event, frozen=True, gc=False):
    """The witnesses of the old text are needed no more. Treaty 11.3."""

    text: str


class Reopened(Event, frozen=True, gc=False):
    """The log goes on behind this entry under another origin, kept by `keeper`. Treaty 11.8."""

    origin: str
    keeper: str
    over: tuple[str, ...]


class Rekeyed(Event, frozen=True, gc=False):
    """The party speaks, or signs permits, with its next key. Treaty 12.1."""

    party: str
    purpose: str


class Revoked(Event, frozen=True, gc=False):
    """The key counts no more, and what it said since an entry has fallen. Treaty 12.2."""

    party: str
    purpose: str
    since: int


class Asked(Event, frozen=True, gc=False):
    """A member asks for a revocation; it waits for a quorum that says the same. Treaty 12.2."""

    party: str
    purpose: str
    since: int
    by: str
