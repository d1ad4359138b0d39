"""What is kept from one start to the next, beside databases and the state itself."""

from pathlib import Path
from typing import Final, NamedTuple

from brakeline.core.encoding import decimal, unhex32
from brakeline.core.errors import Malformed
from brakeline.core.state import State
from brakeline.core.tlog.checkpoint import Checkpoint
from brakeline.core.tlog.merkle import EMPTY_ROOT

STAMPED: Final = "stamped"  # the highest stamp that it has seen
REOPENED: Final = "reopening"  # by which it moved last
RESTORED: Final = "restored"  # in a folder: what lies here is a copy, and is to be compared before anything is signed
CONTESTED: Final = "contested"  # in a home: another one speaks for the party, too


class Seen(NamedTuple):
    """A checkpoint that was verified when it was kept here, and its note."""

    checkpoint: Checkpoint
    note: bytes


def era(state: State) -> tuple[int, ...]:
    """What changes with every epoch, text, key and keeper: how a home speaks, and whom it believes."""
    chain = state.chain
    return state.epoch, len(chain.texts), chain.now.closed, len(chain.reopened), len(state.keyring.past)


def stamped_in(memory: Path) -> tuple[int, bytes]:
    """Size and root of the highest stamp that a follower with this memory has seen; 0 before the first.

    Raises:
        Malformed: the file is damaged.
    """
    try:
        size, root = (memory / STAMPED).read_text("ascii").split()
    except FileNotFoundError:
        return 0, EMPTY_ROOT
    except (OSError, ValueError) as e:
        raise Malformed(f"{memory / STAMPED} is damaged: {e}", hint="put it back from a copy, or remove it") from e
    return decimal(size.encode()), unhex32(root)
