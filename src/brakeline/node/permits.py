"""The live gate: keeps a permit in force while the log allows it, and shuts when it does not.

`may_step` is on the training loop's path: it reads a clock and compares three numbers, with no lock and no network.
Two threads work beside it. One follows the log and shuts the gate the moment the brake is on. The other renews the
permit well before it lapses. When both are cut off, nothing happens, and that is the point: the permit lapses.
"""

from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

import httpx

from brakeline.core import words
from brakeline.core.encoding import canonical
from brakeline.core.errors import BrakelineError, Reason, Refused, Unavailable
from brakeline.core.gate import Decision, GateState, Status, admit, decide, halt, is_due, is_worth, stand_open, status
from brakeline.core.grant import request, stance
from brakeline.core.permit import KIND, Permit
from brakeline.core.statement import MAX_BYTES, open_envelope, seal
from brakeline.core.treaty import Treaty
from brakeline.node import ports
from brakeline.node.client import Follower
from brakeline.node.http import raise_for
from brakeline.node.peers import ask, http_client
from brakeline.node.trouble import PASSING

_RETRY: Final = 0.25  # s
_ANSWER: Final = 5.0  # s for a permit signer's whole answer
_PATIENCE: Final = 2.0  # s of waiting before somebody is told why


def ask_signers(payload: Permit, urls: dict[str, str], enough: int, client: Any) -> bytes:
    """Collect signatures over `payload` from signers (party → URL) until `enough` have signed; returns the permit.

    Raises:
        Refused: so many refuse that the quorum is out of reach; the reason is the one most of them give.
        Unavailable: too few answer.
    """
    data = canonical(payload)

    def signed(url: str) -> tuple[str, bytes]:
        try:
            response = ask(client, "POST", f"{url.rstrip('/')}/permit", MAX_BYTES, seconds=_ANSWER, content=data)
        except (httpx.HTTPError, OSError) as e:
            raise Unavailable(f"{url}: {e}") from e
        raise_for(response)
        envelope = open_envelope(response.content)
        if envelope.kind != KIND or envelope.payload != data or len(envelope.signatures) != 1:
            raise Refused(Reason.FORGED, f"{url} signed something else")
        return envelope.signatures[0]

    def one(url: str) -> tuple[str, bytes] | BrakelineError:
        try:
            return signed(url)
        except BrakelineError as e:
            return e

    signatures: list[tuple[str, bytes]] = []
    refusals: list[BrakelineError] = []
    with closing(ports.clock().at_once(one, urls.values(), _ANSWER + 1)) as answers:
        for answer in answers:
            if isinstance(answer, BrakelineError):
                refusals.append(answer)
            else:
                signatures.append(answer)
            if len(signatures) >= enough:
                return seal(KIND, data, signatures)
    refused = [e for e in refusals if isinstance(e, Refused)]
    if refused:
        reasons = [e.reason for e in refused]
        raise max(refused, key=lambda e: reasons.count(e.reason))
    raise Unavailable(f"{len(signatures)} of {enough} permit signers answered", hint="are they running?")


class LiveGate:
    """The gate of one run. A run that the treaty concerns needs permits; for any other the gate stands open."""

    def __init__(
        self,
        follower: Follower,
        run: str,
        *,
        steps: Callable[[], int],
        clock: Callable[[], int] | None = None,
        on_permit: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        """`steps` tells how many steps are done; `clock` is monotonic, in ns. `on_permit` keeps each permit, as
        evidence, before the gate opens on it.
        """
        self._follower = follower
        self._run = run
        self._step_flop = follower.state.run(run).declaration.step_flop
        self._clock = clock or ports.clock().boot_ns
        self._on_permit = on_permit
        self._state = GateState(run)
        self._steps = steps
        self._braked = False
        self._stop = ports.clock().event()
        self._changed = ports.clock().condition()  # its lock may be taken again by its holder
        self._http = http_client()
        self.trouble = ""
        self.halted_at = 0.0  # wall clock at which the brake reached this gate; for reports only

    # The training loop's side

    def may_step(self) -> bool:
        """Whether the next optimizer step may be taken."""
        return bool(self.decision)

    @property
    def decision(self) -> Decision:
        """What `may_step` says, with the reason."""
        return decide(self._state, now=self._clock(), flop=(self._steps() + 1) * self._step_flop)

    @property
    def permit(self) -> bytes:
        """SHA-256 of the permit in force: what a transcript's leaf names."""
        return self._state.permit

    def status(self) -> Status:
        """What this gate knows, by the newest cosigned checkpoint it has seen."""
        state = self._follower.state
        declaration = state.run(self._run).declaration
        return status(self._state, declaration, state.phase, now=self._clock(), steps=self._steps())

    def wait_open(self, say: Callable[[str], None]) -> bool:
        """Block until a step may be taken, saying what is waited for; False when the brake is on or the run barred."""
        said = ""
        with self._changed:
            while not (self.decision or self._braked or self._stop.is_set()):
                self._changed.wait(_PATIENCE)
                if self.trouble and self.trouble != said:
                    said = self.trouble
                    say(f"waiting for a permit: {said}")
        return bool(self.decision)

    # The threads' side

    def __enter__(self) -> "LiveGate":
        # Whoever of this process learns of a trip: it must not wait for the watch, which may be waiting for the log.
        self._follower.heed.append(self._look)
        self._look()
        ports.clock().start("brakeline-watch", self._watch)
        ports.clock().start("brakeline-renew", self._renew)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._follower.heed.remove(self._look)
        with self._changed:
            self._changed.notify_all()
        self._http.close()

    @property
    def _treaty(self) -> Treaty:
        """The text in force: it may turn while a run trains."""
        return self._follower.state.treaty

    def _set(self, state: GateState) -> None:
        with self._changed:
            self._state = state
            self._changed.notify_all()

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                self._follower.update(wait=5)
            except PASSING as e:
                self.trouble = str(e)
                self._stop.wait(_RETRY)

    def _look(self) -> None:
        """Shut the gate when the brake is on at the newest cosigned checkpoint. Treaty 4.5, 4.6."""
        state = self._follower.state
        shut = stance(state, state.run(self._run)) == "shut"
        with self._changed:
            self._braked = shut
            if shut and self._state.epoch < state.epoch:
                self.halted_at = ports.clock().wall()
                why = f"brake {state.phase}: {words.cause(state.ballot.cause)}"
                self._set(halt(self._state, epoch=state.epoch, reason=why))
            self._changed.notify_all()

    def _renew(self) -> None:
        while not self._stop.is_set():
            done = self._steps() * self._step_flop
            if is_due(self._state, self._treaty, now=self._clock(), flop=done):
                try:
                    self._ask()
                    self.trouble = ""
                except PASSING as e:
                    self.trouble = str(e)
                except (httpx.HTTPError, RuntimeError):
                    if self._stop.is_set():  # closed under our feet
                        return
                    raise
            self._stop.wait(_RETRY)

    def _ask(self) -> None:
        with self._follower.lock:
            state, cosigned = self._follower.state, self._follower.cosigned
        if cosigned is None:
            return
        run = state.run(self._run)
        match stance(state, run):
            case "open":  # Treaty 2.2
                self._set(stand_open(self._state, until=self._clock() + state.treaty.permit_lifetime * 10**9))
                return
            case "shut":
                return
        permit = request(state, run, time=cosigned.time, nonce=ports.dice(16).hex())
        if not is_worth(self._state, state.treaty, now=self._clock(), limit=permit.limit):
            return
        asked_at = self._clock()
        signers = state.treaty.with_role("permit-signer")
        urls = {p.name: p.signer_url for p in signers if p.signer_url}
        data = ask_signers(permit, urls, state.treaty.permit, self._http)
        with self._changed:
            # Under one lock with `halt`: a trip folded meanwhile has raised the epoch, and this permit is refused.
            after = admit(self._state, data, state.treaty, state.signers, nonce=permit.nonce, asked_at=asked_at)
            self._on_permit(data)
            self._set(after)
