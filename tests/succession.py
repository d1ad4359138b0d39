"""Next texts for a world, and how it gets there: drafted, brought, assented to, turned, closed."""

import re
from typing import Any

from brakeline.core.encoding import canonical
from brakeline.core.keys import PrivateKey
from brakeline.core.pledge import Assent
from brakeline.core.reopening import Closed, Closing, Reopening, close, joined, ordered
from brakeline.core.statement import GENESIS, Statement, open_envelope, pae, sign
from brakeline.core.succession import Amend, KeyChange, Revocation
from brakeline.core.treaty import Treaty, articles_digest, parse_treaty
from world import DAY, Outcome, World, edited, enrolled, key, log_key, next_digest, plain

NOTICE = 3  # s, of an amendment in these worlds
SHORT = {"clocks.amendment": f'"{NOTICE} s"', "clocks.withdrawal": '"180 s"'}


def succeeding(**changes: str) -> World:
    """A world in which everybody is bound, and an amendment takes seconds."""
    world = World(**SHORT, **changes)
    world.bind()
    world.stamp()
    return world


def next_text(
    text: Treaty, *, drop: str = "", join: str = "", roles: str = "", generation: int = 0, **changes: str
) -> Treaty:
    """The next version, without a party, with another in its place (with its roles), or with other values.

    `generation` is added to the joiner's keys: a party that comes back has new ones.
    """
    lines = text.text.decode()
    lines = edited(lines, "treaty.version", str(text.version + 1))
    for path, value in changes.items():
        lines = edited(lines, path, value)
    if drop:
        lines, block = _without(lines, drop)
        roles = roles or re.findall(r'roles = (\[.*?\])', block)[0]
    if join:
        block = f"\n[party.{join}]\nroles = {roles}\n"
        made = enrolled(block)
        if generation:
            for purpose in ("statement", "signer"):
                number = 10 * generation
                made = made.replace(key(join, purpose).public.text, fresh_key(join, purpose, number).public.text)
                made = made.replace(next_digest(join, purpose), next_digest(join, purpose, number + 1))
        lines += made
    return parse_treaty(lines.encode())


def fresh_key(name: str, purpose: str, number: int) -> PrivateKey:
    return key(name, f"{purpose} {number}")


def _without(text: str, name: str) -> tuple[str, str]:
    block = re.search(rf"(?ms)^\[party\.{name}\]\n.*?(?=^\[party\.|\Z)", text)
    assert block
    return text.replace(block[0], ""), block[0]


def joining(world: World, next_: Treaty, name: str, *, by: PrivateKey | None = None, **changes: Any) -> str:
    """What a party that joins signs."""
    fields: dict[str, Any] = {
        "treaty": world.treaty.digest,
        "issuer": name,
        "seq": 0,
        "prev": GENESIS,
        "not_before": world.now,
        "expires": world.now + DAY,
        "body": plain(Assent(text=next_.digest, articles=articles_digest(next_))),
        **changes,
    }
    mine = next((k for k in (key(name), fresh_key(name, "statement", 10)) if k.public == next_.parties[name].key), None)
    return sign("assent", Statement(**fields), by or mine or key(name)).decode()


def propose(world: World, next_: Treaty, by: str = "alpha", **changes: Any) -> Outcome:
    """Bring a next text; whoever joins has assented."""
    void = world.state.members.equivocators
    fresh = [n for n in next_.parties if n not in world.treaty.parties or n in void]
    body = Amend(
        amends=world.treaty.digest,
        text=next_.text.decode(),
        joining=tuple(joining(world, next_, name) for name in fresh),
    )
    for name in fresh:
        world.said[(name, "brake")] = [joining(world, next_, name).encode()]
    return world.log(by, "amend", {**plain(body), **changes})


def assent(world: World, next_: Treaty, *parties: str, **changes: Any) -> tuple[Outcome, ...]:
    body = Assent(text=next_.digest, articles=articles_digest(next_))
    return tuple(world.log(p, "assent", body, **changes) for p in parties)


def adopted(world: World, next_: Treaty, by: str = "alpha") -> None:
    """Bring it, and have all that keep a seat assent."""
    assert propose(world, next_, by).reason is None
    for party in sorted(world.treaty.parties.keys() & next_.parties.keys() - world.state.members.equivocators):
        if world.state.chain.coming is None:
            assert assent(world, next_, party)[0].reason is None
    assert world.state.chain.coming is not None


def turned(world: World, next_: Treaty, by: str = "alpha") -> None:
    """Adopted, turned and closed."""
    adopted(world, next_, by)
    world.stamp(NOTICE)
    assert world.treaty == next_
    assert world.state.chain.open
    world.stamp()
    assert not world.state.chain.open


def rotate(world: World, party: str, **changes: Any) -> Outcome:
    """Go on to the next key for statements."""
    number = world.generation.get(party, 0) + 1
    new = key(party, f"statement {number}")
    body = KeyChange(purpose="statement", key=new.public.text, next=next_digest(party, number=number + 1))
    before = {lane: said for (name, lane), said in world.said.items() if name == party}
    for lane in before:
        del world.said[(party, lane)]
    world.generation[party] = number
    outcome = world.log(party, "key", {**plain(body), **changes})
    if outcome.reason is not None:
        world.generation[party] = number - 1
        world.said |= {(party, lane): said for lane, said in before.items()}
    return outcome


def revoke(world: World, party: str, *by: str, since: int = 0, **changes: Any) -> tuple[Outcome, ...]:
    held = world.state.keyring.of[party].statement.key
    body = Revocation(party=party, purpose="statement", key=held, since=since, reason="stolen")
    return tuple(world.log(p, "revoke", {**plain(body), **changes}) for p in by)


def closing(world: World, party: str, role: str, *, by: PrivateKey | None = None, **changes: Any) -> Closing:
    """What a party's witness or permit signer signs when it closes the log."""
    own = by or key(party, "witness" if role == "witness" else "signer")
    fields: dict[str, Any] = {
        "treaty": world.first.digest,
        "origin": world.state.chain.log.key.name,
        "party": party,
        "role": role,
        "key": own.public.id,
        "size": world.state.size,
        "settled": world.state.clock.mark.size,
        "epoch": 0 if role == "witness" else min(world.state.epoch, world.state.size),
        "time": world.now,
    }
    return close(Closed(**{**fields, **changes}), own)


def closings(world: World, *parties: str, **changes: Any) -> tuple[Closing, ...]:
    """Both closings of every party that has the roles."""
    roles = ("witness", "permit-signer")
    text = world.treaty
    who = parties or tuple(p for p in text.parties if "witness" in text.parties[p].roles)[: text.permit]
    return ordered(closing(world, p, r, **changes) for p in who for r in roles)


def reopening(world: World, keeper: str = "alpha", *by: str, **changes: Any) -> bytes:
    """The envelope by which a world's log goes on under another origin, signed by a quorum of members or by `by`."""
    new = log_key(keeper, len(world.state.chain.reopened) + 1)
    fields: dict[str, Any] = {
        "treaty": world.first.digest,
        "over": (world.state.chain.log.key.name,),
        "keeper": keeper,
        "log_key": new.text,
        "url": "http://127.0.0.1:9",
        "stamp": world.checkpoint().decode(),
        "closings": closings(world),
        "reason": "the keeper is silent",
    }
    payload = canonical(Reopening(**{**fields, **changes}))
    who = by or tuple(world.treaty.parties)[: world.treaty.members]
    return joined(payload, [(world.key(p).public.id, world.key(p).sign(pae("reopen", payload))) for p in who], ())


def digest_of(data: bytes) -> str:
    return open_envelope(data).digest
