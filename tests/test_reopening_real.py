"""A log whose keeper is gone goes on under another, with real processes, while a run trains. Rules 11.8 to 11.10."""

import shutil
import time
from collections.abc import Iterator

import pytest

from brakeline.cli.demo.stage import PARTIES, free_ports
from brakeline.core.brake import Phase
from brakeline.core.bundle import verify_bundle
from brakeline.core.state.events import Reported
from brakeline.core.treaty import parse_treaty
from brakeline.node.client import Follower, LogClient
from test_circle_real import Circle, until

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def circle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Circle]:
    made = Circle(tmp_path_factory.mktemp("reopening") / "stage")
    yield made
    made.stage.close()


def mirror(circle: Circle, party: str) -> str:
    """Start one; returns its address, once it has all."""
    (port,) = free_ports(1)
    url, size = f"http://127.0.0.1:{port}", circle.state().size
    circle.stage.serve(f"mirror-{party}", "mirror", "--home", party, "--url", url)
    circle.stage.await_listening([f"mirror-{party}"])
    client = LogClient(url)

    def there() -> bool:
        try:
            return int(client.checkpoint().split(b"\n")[1]) >= size
        except Exception:
            return False

    until(there)
    return url


def close(circle: Circle, *parties: str, also: str = "") -> list[str]:
    """The closings of these parties, as options for a draft; `also` of a log that was never published."""
    given: list[str] = []
    for party in parties:
        for origin in ["", *([also] if also else [])]:
            file = f"{party}{origin.replace('/', '-')}.closing"
            named = ("--origin", origin) if origin else ()
            out = circle.stage.call("keeper", "close", "--home", party, *named, "--out", file)
            assert f"{party} has closed" in out
            given += ["--closing", file]
    return given


def draft(circle: Circle, keeper: str, source: str, *options: str) -> str:
    """A new keeper's draft; returns the address that it names."""
    (port,) = free_ports(1)
    url, why = f"http://127.0.0.1:{port}", ("--reason", "the keeper is gone", "--out", "reopening.json")
    circle.stage.call("keeper", "reopen", "--home", keeper, "--from", source, "--url", url, *why, *options)
    return url


def go_on(circle: Circle, keeper: str, *signers: str) -> None:
    """Sign and move, and start the log."""
    stage = circle.stage
    for party in (keeper, *signers):
        out = stage.call("keeper", "sign", "reopening.json", "--home", party, "--out", f"{party}.signed")
        assert f"kept by {keeper}" in out
    files = ["reopening.json", *(f"{party}.signed" for party in (keeper, *signers))]
    for party in PARTIES:
        stage.call("keeper", "move", *files, "--home", party)
    name = f"log-{keeper}-{len(stage.processes)}"
    stage.serve(name, "log", "--home", keeper)
    stage.await_listening([name])


def test_a_dead_keeper_is_replaced_while_a_run_trains(circle: Circle) -> None:
    """The keeper and its disk are gone. The run stops, goes on after the lift, and loses nothing. S-24"""
    stage = circle.stage
    source = mirror(circle, "gamma")
    process = circle.train("alpha", "through", 800, pace=0.01)
    until(lambda: circle.steps("alpha", "through") > 100)
    stage.kill("log")
    shutil.rmtree(stage.home("delta") / "log")
    waits = stage.result("duty", "notice", "--text", "said while no log was there", "--home", "beta")
    assert waits.returncode == 5
    url = draft(circle, "gamma", source, *close(circle, "alpha", "beta", "gamma"))
    early = stage.result("keeper", "move", "reopening.json", "--home", "alpha")
    assert early.returncode == 3
    assert "nobody has signed" in early.stderr
    go_on(circle, "gamma", "alpha", "beta")
    follower = Follower(LogClient(stage.log_url), parse_treaty((stage.folder / "demo.toml").read_bytes()))
    until(lambda: moved(follower))
    assert follower.client.url == url
    state = follower.state
    assert state.chain.log.keeper == "gamma"
    assert state.epoch == 1
    circle.follower = follower
    until(lambda: circle.phase() is Phase.PAUSED)
    assert circle.stops("alpha", "through")
    for party in ("alpha", "beta", "delta"):
        stage.call("vote", "lift", "--reason", "the log is back", "--home", party)
    until(lambda: circle.phase() is Phase.CLEAR)
    until(lambda: stage.processes[process].poll() is not None, 120)
    assert stage.processes[process].returncode == 0
    until(lambda: circle.status("alpha", "through") == "ended")
    assert circle.shadow("alpha", "through"), "not a bit is lost"
    stage.call("duty", "notice", "--text", "and after it", "--home", "beta")
    circle.state()
    said = [e.text for e in circle.follower.recent if isinstance(e, Reported)]
    assert said == ["said while no log was there", "and after it"]
    assert circle.state().members.equivocators == frozenset()
    assert "kept by gamma" in stage.call("status", "--home", "beta")


def moved(follower: Follower) -> bool:
    try:
        follower.update()
    except Exception:
        time.sleep(0.2)
    return bool(follower.state.chain.reopened)


def test_a_bundle_over_a_reopening_verifies(circle: Circle) -> None:
    stage = circle.stage
    stage.call("bundle", "all.bundle", "--home", "beta")
    data = (stage.folder / "all.bundle").read_bytes()
    proven = verify_bundle(data, treaty_digest=parse_treaty((stage.folder / "demo.toml").read_bytes()).digest)
    assert proven.state.chain.log.keeper == "gamma"
    out = stage.call("verify", "all.bundle", "--treaty", "demo.toml")
    assert "gamma/log" in out


def test_a_key_is_lost_and_the_first_attempt_led_nowhere(circle: Circle) -> None:
    """The old log is alive meanwhile, and cannot go on. A reopening that was signed and never published is replaced."""
    stage = circle.stage
    source = mirror(circle, "delta")
    given = close(circle, "alpha", "beta", "delta")
    size = circle.state().size
    frozen = stage.result("vote", "trip", "--reason", "the old log takes nothing more", "--home", "gamma")
    assert frozen.returncode == 5, frozen.stderr
    draft(circle, "beta", source, *given)
    for party in ("alpha", "delta"):
        stage.call("keeper", "sign", "reopening.json", "--home", party)
    draft(circle, "gamma", source, *given)
    refused = stage.result("keeper", "sign", "reopening.json", "--home", "alpha")
    assert refused.returncode == 4
    assert "has signed another reopening, by which beta goes on as beta/log" in refused.stderr
    given = close(circle, "alpha", "beta", "delta", also="beta/log")
    draft(circle, "gamma", source, *given)
    go_on(circle, "gamma", "alpha", "delta")
    until(lambda: moved(circle.follower) and circle.follower.state.chain.log.key.name == "gamma/log-2")
    state = circle.state()
    assert state.epoch == 2
    assert size <= state.size
    stage.call("vote", "lift", "--reason", "is heard again", "--home", "gamma")
    assert "gamma" in circle.state().ballot.lift
