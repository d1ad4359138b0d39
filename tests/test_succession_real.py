"""Texts that follow one another and keys that change, with real processes, while a run trains and while it stands."""

import re
from collections.abc import Iterator

import pytest

from brakeline.cli.demo.stage import free_ports
from brakeline.core.brake import Phase
from brakeline.core.bundle import verify_bundle
from brakeline.core.errors import Reason, Refused
from brakeline.core.treaty import parse_treaty
from test_circle_real import Circle, until
from world import edited

pytestmark = pytest.mark.real

NOTICE = 2  # s


class Succession(Circle):
    """A circle whose texts may follow one another within seconds."""

    def enrolled(self) -> None:
        path = self.stage.folder / "demo.toml"
        path.write_text(edited(path.read_text(), "clocks.amendment", f'"{NOTICE} s"'))
        super().enrolled()

    @property
    def version(self) -> int:
        return self.state().treaty.version

    def next_text(self, number: int, *, drop: str = "", join: str = "", **changes: str) -> str:
        """A file with the next text; the joiner's home and keys are made, and it has signed."""
        stage = self.stage
        text = edited(self.state().treaty.text.decode(), "treaty.version", str(number))
        for path, value in changes.items():
            text = edited(text, path, value)
        name = f"v{number}.toml"
        if drop:
            text = re.sub(rf"(?ms)^\[party\.{drop}\]\n.*?(?=^\[party\.|\Z)", "", text)
        if join:
            text += f'\n[party.{join}]\nroles = ["lab", "witness", "permit-signer", "inspector"]\n'
        (stage.folder / name).write_text(text)
        if join:
            witness, signer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
            stage.call(
                "keygen", join, "--home", join, "--enroll", name, "--witness-url", witness, "--signer-url", signer
            )
            stage.call("treaty", "join", name, "--home", join, "--first", "demo.toml", "--out", f"{join}.joins")
        return name

    def serve_party(self, name: str) -> None:
        for kind in ("witness", "signer"):
            self.stage.serve(f"{kind}-{name}", kind, "--home", name)
        self.stage.await_listening([f"witness-{name}", f"signer-{name}"])


@pytest.fixture(scope="module")
def circle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Succession]:
    made = Succession(tmp_path_factory.mktemp("succession") / "stage")
    yield made
    made.stage.close()


def test_a_text_turns_while_a_run_trains(circle: Succession) -> None:
    """One of four witnesses and signers changes, and a trained run neither stops nor loses a step. Treaty 11.2-11.5."""
    stage = circle.stage
    process = circle.train("alpha", "through", 1500, pace=0.01)
    until(lambda: circle.steps("alpha", "through") > 20)
    name = circle.next_text(2, drop="gamma", join="epsilon", **{"permit.lifetime": '"5 s"'})
    shown = stage.call("treaty", "compare", "demo.toml", name)
    assert "5.3" in shown
    assert "gamma" in shown
    assert "epsilon" in shown
    circle.serve_party("epsilon")
    said = stage.call("treaty", "amend", name, "--home", "alpha", "--joining", "epsilon.joins")
    assert "is before the parties" in said
    assert "beta" in said, "who must still assent"
    stage.call("treaty", "assent", name, "--home", "beta")
    stage.call("treaty", "assent", name, "--home", "delta")
    before = circle.steps("alpha", "through")
    until(lambda: circle.version == 2)
    until(lambda: not circle.state().chain.open)
    at_turn = circle.steps("alpha", "through")
    stage.kill("witness-gamma")
    stage.kill("signer-gamma")
    stage.call("pledge", "--if-at-least", "2", "--home", "epsilon")
    until(lambda: circle.steps("alpha", "through") > at_turn + 300)
    assert at_turn > before
    assert not circle.stops("alpha", "through")
    assert "v2" in stage.call("status", "--home", "beta")
    until(lambda: stage.processes[process].poll() is not None)
    assert stage.processes[process].returncode == 0
    assert circle.status("alpha", "through") == "ended"
    assert not circle.stops("alpha", "through")


def test_keys_change_while_a_run_trains(circle: Succession) -> None:
    """Of the lab that trains, and of a signer whose permits it needs. Treaty 12.1"""
    stage = circle.stage
    process = circle.train("beta", "rekeyed", 900, pace=0.01)
    until(lambda: circle.steps("beta", "rekeyed") > 20)
    out = stage.call("key", "rotate", "--home", "beta")
    assert "uses its next statement key" in out
    for party in ("alpha", "delta", "epsilon"):  # all three whose permits count, but for the lab's own
        stage.call("key", "rotate", "--purpose", "signer", "--home", party)
    until(lambda: stage.processes[process].poll() is not None, 240)
    assert stage.processes[process].returncode == 0
    assert circle.status("beta", "rekeyed") == "ended"
    assert not circle.stops("beta", "rekeyed")
    assert circle.state().members.equivocators == frozenset()


def test_a_text_turns_while_the_brake_is_on(circle: Succession) -> None:
    """Nothing is lifted by it; votes to lift are cast anew. A stolen key falls meanwhile. Treaty 11.4, 12.2"""
    stage = circle.stage
    circle.train("alpha", "braked", 100_000, pace=0.02)
    until(lambda: circle.steps("alpha", "braked") > 20)
    for party in ("beta", "delta"):
        stage.call("vote", "trip", "--reason", "a test", "--home", party)
    until(lambda: circle.phase() is Phase.PAUSED)
    for party in ("alpha", "beta"):
        stage.call("vote", "lift", "--reason", "one too few", "--home", party)
    name = circle.next_text(3, **{"lift.conditions": "[]"})
    stage.call("treaty", "amend", name, "--home", "alpha")
    for party in ("beta", "delta", "epsilon"):
        stage.call("treaty", "assent", name, "--home", party)
    until(lambda: circle.version == 3)
    assert circle.phase() is Phase.PAUSED
    assert circle.state().ballot.lift == {}
    since = str(circle.state().size)
    for party in ("alpha", "beta", "delta"):
        out = stage.call("key", "revoke", "epsilon", "--since", since, "--reason", "stolen", "--home", party)
    assert "counts no more" in out
    refused = stage.result("vote", "lift", "--reason", "x", "--home", "epsilon")
    assert refused.returncode == 4
    assert "counts no more" in refused.stderr
    assert "its key was revoked" in stage.call("status", "--home", "alpha")
    for party in ("alpha", "beta", "delta"):
        stage.call("vote", "lift", "--reason", "it is over", "--home", party)
    until(lambda: circle.phase() is Phase.CLEAR)
    at = circle.steps("alpha", "braked")
    until(lambda: circle.steps("alpha", "braked") > at + 20)
    stage.call("key", "rotate", "--home", "epsilon")
    assert circle.state().keyring.of["epsilon"].statement.key
    stage.kill("train-alpha-braked")


def test_a_bundle_spans_the_texts(circle: Succession) -> None:
    # S-27
    stage = circle.stage
    stage.call("bundle", "all.bundle", "--home", "beta")
    data = (stage.folder / "all.bundle").read_bytes()
    first = parse_treaty((stage.folder / "demo.toml").read_bytes()).digest
    proven = verify_bundle(data, treaty_digest=first)
    assert proven.treaty.version == 3
    state = circle.state()
    anchor = f"{proven.state.size}:{proven.state.root().hex()}"
    out = stage.call("verify", "all.bundle", "--treaty", "demo.toml", "--anchor", anchor)
    assert "v3 from entry" in out
    assert "the anchor is in this log" in out
    assert "ever stolen" in stage.call("verify", "all.bundle", "--treaty", "demo.toml")
    assert stage.result("verify", "all.bundle", "--anchor", f"{proven.state.size}:{'ab' * 32}").returncode == 4
    with pytest.raises(Refused) as caught:
        verify_bundle(data, anchor=(5, b"x" * 32))
    assert caught.value.reason is Reason.FOREIGN
    assert state.size >= proven.state.size
