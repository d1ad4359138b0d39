"""A log whose keeper is gone goes on under another, with real processes, while a run trains. Rules 11.8 to 11.10."""

import shutil
import time
from collections.abc import Iterator

import pytest

from brakeline.cli.demo.stage import PARTIES, free_ports
from brakeline.core.brake import Phase
from brakeline.core.bundle import verify_bundle
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
    circle.stage.serve(f"mirror-{party}", "mirror", "--home", party, "--port", str(port))
    circle.stage.await_listening([f"mirror-{party}"])
    url, size = f"http://127.0.0.1:{port}", circle.state().size
    client = LogClient(url)

    def there() -> bool:
        try:
            return int(client.checkpoint().split(b"\n")[1]) >= size
        except Exception:
            return False

    until(there)
    return url


def reopen(circle: Circle, keeper: str, source: str, closers: tuple[str, ...], signers: tuple[str, ...]) -> str:
    """Close, draft, sign and move: what people do by hand. Returns the new log's address."""
    stage = circle.stage
    for party in closers:
        out = stage.call("keeper", "close", "--home", party, "--out", f"{party}.closing")
        assert f"{party} has closed" in out
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    given = [x for party in closers for x in ("--closing", f"{party}.closing")]
    stage.call(
        "keeper", "reopen", "--home", keeper, "--from", source, *given, "--url", url, "--reason", "the keeper is gone",
        "--out", "reopening.json",
    )  # fmt: skip
    for party in signers:
        out = stage.call("keeper", "sign", "reopening.json", "--home", party, "--out", f"{party}.signed")
        assert f"kept by {keeper}" in out
    files = ["reopening.json", *(f"{party}.signed" for party in signers)]
    for party in PARTIES:
        stage.call("keeper", "move", *files, "--home", party)
    stage.serve(f"log-{keeper}", "log", "--home", keeper)
    stage.await_listening([f"log-{keeper}"])
    return url


def test_a_dead_keeper_is_replaced_while_a_run_trains(circle: Circle) -> None:
    """The keeper and its disk are gone. The run stops, goes on after the lift, and loses nothing. S-24"""
    stage = circle.stage
    source = mirror(circle, "gamma")
    process = circle.train("alpha", "through", 800, pace=0.01)
    until(lambda: circle.steps("alpha", "through") > 100)
    stage.kill("log")
    shutil.rmtree(stage.home("delta") / "log")
    reading = stage.result("duty", "report", "--about", "0", "--home", "beta")
    assert reading.returncode != 0
    url = reopen(circle, "gamma", source, ("alpha", "beta", "gamma"), ("alpha", "beta"))
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
