"""A party at the log: it can read everything, and it can say something."""

import threading
import time
from collections.abc import Callable

import httpx

from brakeline.core.brake import Phase
from brakeline.core.errors import BrakelineError, Reason, Refused, Unavailable
from brakeline.core.fold import Fold, RunRecord
from brakeline.core.run import Declaration
from brakeline.core.transcript import Head
from brakeline.node.client import Follower, LogClient, add_verified
from brakeline.node.home import Home
from brakeline.node.outbox import Outbox, Sent

_PAUSE = 0.25  # s between looks at the log while waiting


class Desk:
    """Opens a home, its treaty, its outbox, and a follower of the treaty's log. `say` tells a person what goes on."""

    def __init__(self, home: Home, *, say: Callable[[str], None] = lambda _: None) -> None:
        self.home = home
        self.treaty = home.treaty
        self.me = home.me(self.treaty)
        self.say = say
        url = self.treaty.with_role("log")[0].log_url
        self._client = LogClient(url)
        self.follower = Follower(LogClient(url), self.treaty, home.path / "seen")
        self.outbox = Outbox(home.path, self.treaty.digest, self.me.name, home.key("statement"), time.time)

    @property
    def fold(self) -> Fold:
        return self.follower.fold

    def add(self, entry: bytes) -> int:
        """Bring an entry to the log and verify the proof that it is there."""
        return add_verified(self._client, self.treaty.policy, entry)

    def log(self, kind: str, body: object) -> Sent:
        """Sign a statement and bring it to the log."""
        return self.outbox.send(self.add, kind, body)

    def enter(self, kind: str, body: object) -> Sent:
        """Log a statement and read the log up to it.

        Raises:
            Refused: it is in the log and has no effect, for the reason that the fold gives.
        """
        sent = self.log(kind, body)
        self.catch_up()
        outcome = self.fold.outcomes[sent.index]
        if outcome.reason:
            raise Refused(outcome.reason, f"entry {sent.index} has no effect: {outcome.text}")
        return sent

    def show_signers(self, envelope: bytes) -> int:
        """Show a vote to trip to every permit signer, so that nobody who keeps the log can hide it. Treaty 4.7.

        Returns how many hold it now.
        """
        held = 0
        for party in self.treaty.with_role("permit-signer"):
            try:
                held += httpx.post(f"{party.signer_url.rstrip('/')}/vote", content=envelope, timeout=3.0).is_success
            except httpx.HTTPError as e:
                self.say(f"{party.name}'s permit signer is out of reach: {e}")
        return held

    def catch_up(self) -> None:
        """Send what is pending, then read what is new."""
        self.outbox.flush(self.add)
        self.follower.update()


class Lab(Desk):
    """A lab's side of a run: declare, wait, commit. It outlives the log's absence; nothing it said is lost."""

    def __init__(self, home: Home, *, say: Callable[[str], None] = lambda _: None) -> None:
        super().__init__(home, say=say)
        self._pause = threading.Event()
        self._due = threading.Event()
        self._sender = threading.Thread(target=self._send, daemon=True, name="brakeline-heads")

    def declared(self, name: str, recipe: str, declaration: Callable[[], Declaration]) -> str:
        """The id of this lab's run `name`, with its seed known; declares it if it is not yet.

        Raises:
            Refused: TAMPERED, it was declared with another recipe; UNDECLARED, the log's rules give the declaration
                no effect.
        """
        self._until_there(self.catch_up)
        runs = self.fold.runs.values()
        run = next((r.id for r in runs if r.owner == self.me.name and r.declaration.name == name), None)
        if run is None:
            d = declaration()
            sent = self.log("declaration", d)
            run = sent.digest
            self.say(f"declared {name}: {d.total_flop:.2e} FLOP, entry {sent.index}")
            self._until_there(self.follower.update)
            if run not in self.fold.runs:
                why = self.fold.outcomes[sent.index].text
                raise Refused(Reason.UNDECLARED, f"the declaration has no effect: {why}")
        elif self.fold.run(run).declaration.recipe != recipe:
            raise Refused(
                Reason.TAMPERED,
                f"the recipe of {name} is not the one that was declared",
                hint="a changed recipe is a new run: give it another name, and this one as its parent",
            )
        while self.fold.run(run).seed is None:
            self._until_there(lambda: self.follower.update(wait=5))
        return run

    def clear(self, run: str) -> RunRecord:
        """Wait until the log is there and the brake is off for `run`. Opening a run during a pause would un-stop it.

        Raises:
            Refused(BARRED): a finding against the run was upheld.
        """
        said = ""
        while True:
            try:
                self.catch_up()
                record = self.fold.run(run)
                if record.barred:
                    name = record.declaration.name
                    raise Refused(Reason.BARRED, f"{name} is barred: {record.barred} (Treaty 5.6)")
                brake = self.fold.brake
                if brake.phase is Phase.CLEAR or not self.fold.concerned(record):
                    return record
                text = f"waiting: the brake is {brake.phase} ({brake.cause})"
            except Unavailable as e:
                text = f"waiting: {e}"
            if text != said:
                self.say(text)
                said = text
            self._pause.wait(_PAUSE)

    def commit(self, head: Head) -> None:
        """Write a head down; a thread brings it to the log. While the log is away or hangs, heads wait, and training
        goes on until its permit lapses: it never waits for a network.
        """
        self.outbox.write("head", head)
        self._due.set()
        if not self._sender.is_alive():
            self._sender.start()

    def _send(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            try:
                self.outbox.flush(self.add)
            except Unavailable as e:
                self.say(f"heads wait for the log: {e}")
                self._pause.wait(1.0)
                self._due.set()
            except BrakelineError as e:
                self.say(f"the log refused a head: {e}")

    def _until_there(self, act: Callable[[], object]) -> None:
        """Do it until the log is there; anything but absence is raised."""
        while True:
            try:
                act()
                return
            except Unavailable as e:
                self.say(f"waiting: {e}")
                self._pause.wait(1.0)

