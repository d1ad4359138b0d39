"""Conditional pledges: "I am bound when enough others are bound". Who is bound is the greatest fixpoint.

Conditions are monotone threshold groups over party names (the `group` grammar of C2SP tlog-policy, no negation), so the
sets that keep all their own promises are closed under union and have one largest member. Starting from everybody and
deleting whoever is not satisfied finds it; starting from nobody would leave circular pledges waiting for ever.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from brakeline.core.encoding import Wire
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.tlog.policy import Group, parse_group_lines


class Assent(Wire, frozen=True):
    """Body of an `assent`: the issuer signs the treaty `text` and the `articles` rendered from it (hex SHA-256).

    Both, so that what a party signed is what the code applies. Treaty 2.1.
    """

    text: str
    articles: str


class Pledge(Wire, frozen=True):
    """Body of a `pledge`: the issuer is bound while `condition` holds. A newer pledge replaces an older one."""

    condition: str

    def group(self, parties: frozenset[str]) -> Group | None:
        """The condition, or None for an unconditional pledge (`quorum none`).

        Raises:
            Malformed: not `group`/`quorum` lines over the treaty's party names.
        """
        try:
            return parse_group_lines(self.condition.encode(), parties)
        except UnicodeEncodeError as e:
            raise Malformed("a pledge's condition must be plain text") from e


class Withdrawal(Wire, frozen=True):
    """Body of a `withdrawal`: the issuer's pledge ends when the treaty's notice has passed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Activation:
    """Who is bound, with a certificate for each party either way.

    `satisfied` maps each bound party to members of `active` that satisfy its condition. `deleted` lists the others in
    an order in which each one's condition fails among those that were left: replaying it proves every exclusion.
    """

    active: frozenset[str]
    satisfied: Mapping[str, frozenset[str]]
    deleted: tuple[str, ...]


def activate(conditions: Mapping[str, Group | None]) -> Activation:
    """The greatest fixpoint of F(S) = {i ∈ S : condition_i(S)}. A condition never counts its own party.

    Deletion runs in rounds, alphabetically within a round, so that everybody publishes the same certificate.
    """
    active = frozenset(conditions)
    deleted: list[str] = []
    while failing := sorted(i for i in active if not _holds(conditions[i], active - {i})):
        deleted += failing
        active -= frozenset(failing)
    satisfied = {
        i: group.satisfying(active - {i}) if (group := conditions[i]) else frozenset() for i in sorted(active)
    }
    return Activation(active, satisfied, tuple(deleted))


def check_activation(conditions: Mapping[str, Group | None], claimed: Activation) -> None:
    """Verify both certificates without computing the fixpoint.

    Raises:
        Refused(TAMPERED): a party is claimed in without satisfied members, or out while its condition held.
    """
    if claimed.active | set(claimed.deleted) != set(conditions) or len(claimed.active) + len(claimed.deleted) != len(
        conditions
    ):
        raise Refused(Reason.TAMPERED, "the activation does not divide the pledging parties into in and out")
    for i in claimed.active:
        used = claimed.satisfied.get(i, frozenset())
        if not used <= claimed.active - {i} or not _holds(conditions[i], used):
            raise Refused(Reason.TAMPERED, f"{i} is claimed bound, but the members named do not satisfy its pledge")
    left = frozenset(conditions)
    for i in claimed.deleted:
        if _holds(conditions[i], left - {i}):
            raise Refused(Reason.TAMPERED, f"{i} is claimed not bound, but its condition held when it was left out")
        left -= {i}


def _holds(condition: Group | None, present: frozenset[str]) -> bool:
    return condition is None or condition.holds(present)
