"""The brake pedal for AI training: a coordinated pause that stops real jobs and that anyone can verify.

What a library user needs of it: read a treaty, verify a bundle, fold a log into a state, and look at what happened.

    proven = brakeline.verify(data, treaty_digest=known)   # a bundle, offline
    state, happened = brakeline.replay(treaty, entries)    # a log, entry by entry
"""

from brakeline.core.bundle import Bundle, Proven
from brakeline.core.bundle import verify_bundle as verify
from brakeline.core.errors import BrakelineError, Malformed, Misuse, Reason, Refused, Unavailable
from brakeline.core.state import State, apply, begin, events, replay
from brakeline.core.state.codec import decode, digest, encode
from brakeline.core.treaty import Treaty, parse_treaty, render
from brakeline.core.views import waiting

__version__ = "0.2.0"

__all__ = [
    "BrakelineError",
    "Bundle",
    "Malformed",
    "Misuse",
    "Proven",
    "Reason",
    "Refused",
    "State",
    "Treaty",
    "Unavailable",
    "apply",
    "begin",
    "decode",
    "digest",
    "encode",
    "events",
    "parse_treaty",
    "render",
    "replay",
    "verify",
    "waiting",
]
