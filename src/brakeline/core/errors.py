"""Errors, cut by who must act. What a judge finds out about a run is not an error: it is a `Finding`."""

import re
from enum import StrEnum


class BrakelineError(Exception):
    """Base of all errors; never raised itself.

    `hint` says what the reader can do about it; it may be empty.
    """

    def __init__(self, what: str, *, hint: str = "") -> None:
        if type(self) is BrakelineError:
            raise TypeError("raise a subclass of BrakelineError")
        super().__init__(what)
        self.hint = hint

    @property
    def gist(self) -> str:
        """The text without its numbers: what is told once, though times and sizes in it go on."""
        return re.sub(r"[0-9]+", "#", str(self))


class Malformed(BrakelineError):
    """Bytes from elsewhere do not parse, or parse in more than one way."""


class Reason(StrEnum):
    """Why something well-formed is not accepted. One code for each reason, stable across versions."""

    FORGED = "forged"  # a signature does not verify
    FOREIGN = "foreign"  # another treaty, log or run
    UNKNOWN_ISSUER = "unknown-issuer"
    WRONG_ROLE = "wrong-role"
    NOT_YET_VALID = "not-yet-valid"
    EXPIRED = "expired"
    REPLAYED = "replayed"  # an old permit, epoch or statement shown again
    DUPLICATE = "duplicate"
    EQUIVOCATION = "equivocation"  # two statements or two histories under one name
    NO_QUORUM = "no-quorum"
    PAUSED = "paused"  # the brake is on
    UNDECLARED = "undeclared"  # no such run in the log
    BARRED = "barred"  # an adjudicated finding stands against the run
    PROHIBITED = "prohibited"  # beyond what the treaty permits
    ALLOWANCE = "allowance"  # asks for more compute than the treaty allows at once
    STALE = "stale"  # the log's newest checkpoint is too old to decide on
    ROLLBACK = "rollback"  # a smaller or older tree than one already seen
    WEAK_KEY = "weak-key"
    TAMPERED = "tampered"  # a digest does not match
    MISSING = "missing"  # something that must be there is not
    BUDGET = "budget"  # more than the treaty lets a party log in a day
    MALFORMED = "malformed"  # signed by a party, and not what its kind says
    SUPERSEDED = "superseded"  # it names a text that is not in force: sign it anew
    RETIRED_KEY = "retired-key"  # the key was changed or revoked
    REUSED_KEY = "reused-key"  # a key that the log has known for something else
    PENDING = "pending"  # another succession is under way
    LEFT = "left"  # said by a party that has no seat under the text in force
    UNKNOWN_KIND = "unknown-kind"  # of a kind that the treaty's rules do not know


class Refused(BrakelineError):
    """Well-formed, but a rule says no. `reason` is the code, the text says what was refused and by which rule.

    `later` says that the same bytes may be taken at another time: whoever sent them keeps them.
    """

    def __init__(self, reason: Reason, what: str, *, hint: str = "", later: bool = False) -> None:
        super().__init__(what, hint=hint)
        self.reason = reason
        self.later = later


class Misuse(BrakelineError):
    """The caller asked for something that cannot be done, or in the wrong order."""


class Unavailable(BrakelineError):
    """A disk, a peer or a package is not there. Trying again later may help."""
