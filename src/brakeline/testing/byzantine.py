"""The one party of a world that keeps to nothing: its log, witness and permit signer lie, and it says what it likes.

What it cannot do is sign for others.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from random import Random
from typing import Any, Final

from brakeline.core.brake import Vote
from brakeline.core.encoding import b64encode, canonical, parse
from brakeline.core.errors import BrakelineError, Malformed, Reason, Refused
from brakeline.core.finding import Audit, Fault, Finding
from brakeline.core.grant import request
from brakeline.core.kinds import lane_of
from brakeline.core.permit import KIND, Permit
from brakeline.core.sampling import ticket_message
from brakeline.core.state import State
from brakeline.core.state.members import Member
from brakeline.core.statement import GENESIS, Statement, open_envelope, sign
from brakeline.core.tlog.checkpoint import Checkpoint, checkpoint_in, cosign
from brakeline.core.tlog.merkle import leaf_hash, root
from brakeline.core.tlog.note import parse_note, sign_note
from brakeline.core.tlog.tile import decode_bundle, encode_bundle
from brakeline.node import ports
from brakeline.node.client import Follower
from brakeline.node.http import error_response
from brakeline.node.logstore import entries_in
from brakeline.node.peers import ask, http_client
from brakeline.testing import faults
from brakeline.testing.loop import block, fiber
from brakeline.testing.process import Host, Process
from brakeline.testing.treaty import KEEPER, LOG_KEY, key, log_client, treaty, witness_key
from brakeline.testing.wire import Answer, Request

_HOUR: Final = 3600
_PAUSE: Final = 0.5  # s between what a traitor says


class Liar:
    """`party` lies as the faults say that have begun. `count` counts its lies."""

    def __init__(
        self, party: str, hosts: Mapping[str, Host], now: Callable[[], float], rng: Random, count: Callable[[str], None]
    ) -> None:
        self.party, self.honest = party, False
        self._hosts, self._now, self._rng, self._count = hosts, now, rng, count
        self._shown: list[Answer] = []  # checkpoints that the log has shown
        self._until: dict[tuple[str, str], float] = {}  # kind and host → until when it is lied to
        self._how: dict[str, int] = {}  # kind → which of its lies

    def begin(self, fault: faults.Fault) -> None:
        """Lie until the fault is over: to its target, where it is about somebody else; to all, where not."""
        to = fault.target if fault.kind in faults.SHOWN else ""
        self._until[fault.kind, to] = self._now() + fault.length
        self._how[fault.kind] = int(fault.amount)

    def tamper(self, request: Request, answer: Answer) -> Answer:
        """What it answers instead."""
        kind, _, host = request.service.partition(".")
        if host != self.party or self.honest:
            return answer
        match kind, request.path:
            case "log", _:
                return self._log(request, answer)
            case "witness", "/add-checkpoint" if self._lies("cosign"):
                return self._witness(request, answer)
            case "signer", "/permit" if self._lies("sign"):
                return self._signer(request, answer)
            case "signer", "/vote" if self._lies("sign"):
                return Answer(204, b"")  # and holds it, or not
        return answer

    def _lies(self, kind: str, to: str = "") -> bool:
        lies = self._until.get((kind, to), 0.0) > self._now()
        if lies:
            self._count(f"lies: {kind}")
        return lies

    # The log

    def _log(self, request: Request, answer: Answer) -> Answer:
        read = request.path == "/checkpoint" or request.path.startswith("/tile/")
        asker = request.source.host_name
        if read and answer.status_code == 200 and self._lies("fork", asker):
            return answer._replace(content=self._forked(request.path, answer.content))
        if request.path == "/checkpoint" and answer.status_code == 200:
            self._shown.append(answer)
            if self._lies("stale", asker):
                return self._rng.choice(self._shown)
        if request.path == "/add" and _is_vote(request.body) and self._lies("hide"):
            if not self._how["hide"]:
                return Answer(503, b"")
            response = error_response(Refused(Reason.UNKNOWN_ISSUER, "no party says this"))
            return Answer(response.status_code, bytes(response.body))
        return answer

    def _forked(self, path: str, content: bytes) -> bytes:
        """A history of the same size whose last entry is the first one again: the checkpoint is signed by all that the
        keeper holds the keys of, and the entries fit.
        """
        if path != "/checkpoint":
            parts = path.split("/")
            if parts[2] != "entries" or parts[3] != "000.p":
                return content
            entries = decode_bundle(content, int(parts[4]))
            return encode_bundle((*entries[:-1], entries[0]))
        size = checkpoint_in(content).size
        with closing(sqlite3.connect(self._hosts[KEEPER].home / "log" / "log.db")) as db:
            leaves = [leaf_hash(entry) for entry in entries_in(db, 0, size)]
        tree = root([*leaves[:-1], leaves[0]])
        forged = sign_note(Checkpoint(LOG_KEY.name, size, tree).text, LOG_KEY.name, key(KEEPER, "log"))
        now = int(self._hosts[KEEPER].wall())
        return forged.with_lines(cosign(forged.text, witness_key(KEEPER).name, key(KEEPER, "witness"), now)).encode()

    # Its witness and its permit signer

    def _witness(self, request: Request, answer: Answer) -> Answer:
        """It cosigns whatever it is shown, with a time of its own; knows of trees that nobody has seen; or babbles."""
        now = int(self._hosts[self.party].wall())
        match self._how["cosign"]:
            case 0 | 1 as far:
                text = parse_note(request.body.partition(b"\n\n")[2]).text
                time = now + far * self._rng.randint(-_HOUR, _HOUR)
                line = cosign(text, witness_key(self.party).name, key(self.party, "witness"), time)
                return Answer(200, line.encode())
            case 2:
                return Answer(409, b"%d\n" % self._rng.randrange(2**20))
        return Answer(200, self._rng.randbytes(64))

    def _signer(self, request: Request, answer: Answer) -> Answer:
        """It signs whatever it is asked for, signs with another key, or says nothing that anybody can read."""
        try:
            permit = parse(request.body, Permit)
        except Malformed:
            return answer
        match self._how["sign"]:
            case 0:
                return Answer(200, sign(KIND, permit, key(self.party, "signer")))
            case 1:
                return Answer(200, sign(KIND, permit, key(self.party, "statement")))
        return Answer(200, self._rng.randbytes(64))


class Traitor:
    """The main of a process that speaks for its party as no honest one would, as long as `may` says so."""

    def __init__(self, speak: Callable[[str, Follower, int], None], may: Callable[[], bool]) -> None:
        self._speak, self._may = speak, may

    async def __call__(self, process: Process) -> None:
        await fiber(self._run, process)

    def _run(self, process: Process) -> None:
        follower, turn = Follower(log_client(), treaty()), 0
        while self._may():
            with suppress(BrakelineError, OSError):
                follower.update()
                self._speak(process.host.name, follower, turn)
            turn += 1
            block(asyncio.sleep(_PAUSE))
        block(asyncio.get_running_loop().create_future())


def steal(party: str, follower: Follower, turn: int) -> None:
    """Ask for a permit whatever the log says, in the hope that some signer errs."""
    state, run = follower.state, next(iter(follower.state.runs.by_id.values()), None)
    if run is not None and follower.cosigned is not None:
        permit = request(state, run, time=follower.time, nonce=ports.dice(16).hex())
        for each in state.treaty.with_role("permit-signer"):
            _bring(f"{each.signer_url}/permit", canonical(permit))


def equivocate(party: str, follower: Follower, turn: int) -> None:
    """Votes that it takes back, and two of one number: for the log, for the permit signers, or both for the log."""
    state = follower.state
    number = _next(state, party, "vote")
    trip, lift = (
        _said(party, number, "vote", Vote(motion=motion, epoch=state.epoch, reason=f"{turn}"))
        for motion in ("trip", "lift")
    )
    logged = ((trip,), (lift,), (lift, trip))[min(turn // 3, 2)]
    if logged[0] is lift:
        for each in state.treaty.with_role("permit-signer"):
            _bring(f"{each.signer_url}/vote", trip)
    for data in logged:
        _bring(f"{state.chain.log.url}/add", data)


def accuse(party: str, follower: Follower, turn: int) -> None:
    """An audit by the book, but for its finding: a violation that nobody else can find."""
    state = follower.state
    run = next(iter(state.runs.by_id.values()), None)
    head = next((h for h in run.kept if h.beacon), None) if run else None
    if run is None or head is None:
        return
    ticket = key(party, "statement").sign(ticket_message(head.leaf, head.beacon))
    finding = Finding(fault=Fault.TRANSCRIPT_MISMATCH, severity="violation", segment=(0, 0), detail="invented")
    body = Audit(
        run=run.id,
        head=head.index,
        beacon=head.stamp,
        ticket=b64encode(ticket),
        segments=(),
        environment="00" * 32,
        flop="0",
        findings=(finding,),
        verdict="fail",
    )
    _bring(f"{state.chain.log.url}/add", _said(party, _next(state, party, "audit"), "audit", body))


def _next(state: State, party: str, kind: str) -> int:
    return state.members.by_name.get(party, Member()).of(lane_of(kind, state.treaty.rules)).seq + 1


def _said(party: str, number: int, kind: str, body: Any) -> bytes:
    now = int(ports.clock().wall())
    statement = Statement(
        treaty=treaty().digest,
        issuer=party,
        seq=number,
        prev=GENESIS,
        not_before=now,
        expires=now + _HOUR,
        body={name: getattr(body, name) for name in body.__struct_fields__},
    )
    return sign(kind, statement, key(party, "statement"))


def _bring(url: str, data: bytes) -> None:
    with suppress(BrakelineError, OSError):
        ask(http_client(), "POST", url, 65536, seconds=2.0, content=data)


def _is_vote(entry: bytes) -> bool:
    try:
        return open_envelope(entry).kind == "vote"
    except Malformed:
        return False
