"""The state of a treaty's log: a value, made by `apply` of one entry after another, with the events that each caused.

`state` is the value and `fold` makes it; each part stands beside the rules that it follows: `clock`, `members`, `runs`,
`audits`, `ballot`, `readings`, `dues`. `codec` writes the state down. Sentences about it are in `brakeline.core.views`.
"""

from brakeline.core.state.fold import apply, replay
from brakeline.core.state.state import State, begin

__all__ = ["State", "apply", "begin", "replay"]
