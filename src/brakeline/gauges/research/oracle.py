"""The oracle: what researchers may learn of hidden labels, and how little that is.

Ladder mechanism (Blum & Hardt 2015, *The Ladder*, §3): a team hears a score only when it beats the team's best by more
than a step, rounded to the step; otherwise it hears the old best. Every team may ask a fixed number of times. So one
flipped prediction moves nothing, and all answers together carry few bits.
"""

from math import comb, log2
from typing import Final

from brakeline.core.errors import Misuse, Reason, Refused

STEP: Final = 0.02  # of the gap, η in the paper


class Oracle:
    """One team's answers. `budget`: how often it may ask; `step`: the smallest difference it can hear, above 0."""

    def __init__(self, budget: int, step: float = STEP) -> None:
        if budget < 0 or not step > 0:
            raise Misuse("an oracle needs a budget of 0 or more and a step above 0")
        self.left, self.step, self.best = budget, step, 0.0

    def ask(self, score: float) -> float | None:
        """The rounded score, if it beats the best so far by more than a step (0, the weak supervisor's own, at
        first); else None.

        Raises:
            Refused: the budget is spent.
        """
        if self.left <= 0:
            raise Refused(Reason.ALLOWANCE, "the team's budget of oracle questions is spent")
        self.left -= 1
        if not score > self.best + self.step:
            return None
        self.best = round(round(score / self.step) * self.step, 6)
        return self.best


def leak_bits(budget: int, step: float = STEP) -> float:
    """The most bits that one team's answers can carry, whatever it asks: log2 of the number of possible transcripts.

    A transcript is a rising chain of rounded scores in (0, 1] at some of the `budget` places:
    Σ C(budget, i)·C(levels, i) over i.
    """
    levels = int(1 / step + 1e-9)
    return log2(sum(comb(budget, i) * comb(levels, i) for i in range(min(budget, levels) + 1)))
