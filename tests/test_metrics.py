"""What servers say of themselves, and that the alert rules speak of what they say."""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.testclient import TestClient

from brakeline.core.tlog.checkpoint import Checkpoint
from brakeline.core.tlog.merkle import consistency_proof
from brakeline.core.tlog.note import sign_note
from brakeline.node.logstore import LogStore
from brakeline.node.metrics import Health, Measure, exposition, routes
from brakeline.node.witness import Witness
from brakeline.testing import World
from brakeline.testing.treaty import KEEPER, LOG_KEY, PARTIES, key
from brakeline.testing.wire import Network
from disks import FullDisk

ALERTS = Path(__file__).parents[1] / "deploy" / "alerts.yml"


def families(text: bytes) -> dict[str, dict[tuple[str, ...], float]]:
    """Samples by name and the values of their labels."""
    return {
        family.name: {tuple(s.labels.values()): s.value for s in family.samples}
        for family in text_string_to_metric_families(text.decode())
    }


def test_samples_of_one_name_are_told_apart() -> None:
    text = exposition(
        (
            Measure("a_seconds", "How old.", 1.5),
            Measure("b", "Which.", 1, {"x": "1"}),
            Measure("b", "Which.", 0, {"x": "2"}),
        )
    )
    assert families(text) == {"a_seconds": {(): 1.5}, "b": {("1",): 1.0, ("2",): 0.0}}
    assert b"# HELP a_seconds How old." in text


def test_trouble_is_503_and_an_age_without_end_is_no_number_of_json() -> None:
    found = [Health("", (Measure("a_seconds", "", 2.4),), {"more": "x"})]
    client = TestClient(Starlette(routes=routes(lambda: found[0])))
    assert client.get("/healthz").json() == {"a_seconds": 2, "more": "x", "trouble": ""}
    found[0] = Health("nobody cosigns", (Measure("a_seconds", "", float("inf")),))
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()) == (503, {"trouble": "nobody cosigns"})
    assert families(client.get("/metrics").content) == {"a_seconds": {(): float("inf")}}


def test_a_witness_says_how_long_ago_it_cosigned(tmp_path: Path) -> None:
    now = [1_000_000.0]
    witness = Witness(tmp_path / "w", "w.example", key("beta", "witness"), [LOG_KEY], lambda: now[0])
    client = TestClient(witness.app())
    assert client.get("/healthz").json() == {"logs": {}, "trouble": ""}
    with LogStore(tmp_path / "log", LOG_KEY.name) as store:
        store.append([b"{a", b"{b"])
        note = sign_note(Checkpoint(LOG_KEY.name, 2, store.root()).text, LOG_KEY.name, key(KEEPER, "log"))
        proof = consistency_proof(0, 2, store.read)
    assert proof == ()
    assert client.post("/add-checkpoint", content=b"old 0\n\n" + note.encode()).status_code == 200
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(witness, "_db", FullDisk(witness._db))
        assert client.post("/add-checkpoint", content=b"old 2\n\n" + note.encode()).status_code == 503
    assert "it could not cosign" in client.get("/healthz").json()["trouble"]
    assert client.post("/add-checkpoint", content=b"old 2\n\n" + note.encode()).status_code == 200
    assert client.get("/healthz").json()["trouble"] == ""
    now[0] += 60
    found = families(client.get("/metrics").content)
    assert found["brakeline_witness_entries"] == {(LOG_KEY.name,): 2.0}
    assert found["brakeline_witness_age_seconds"] == {(LOG_KEY.name,): 60.0}
    now[0] -= 1000
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()["trouble"]) == (503, "its clock is 940 s behind what it has signed")
    witness.close()


@pytest.fixture(scope="module")
def scraped() -> dict[str, dict[str, dict[tuple[str, ...], float]]]:
    """What each server of a simulated circle says at its end, by the kind of server."""
    seen: dict[str, dict[str, dict[tuple[str, ...], float]]] = {}
    exchange = Network.exchange

    async def scraping(self, source, method, url, body):  # type: ignore[no-untyped-def]
        answer = await exchange(self, source, method, url, body)
        kind = url.split("/")[2].split(".")[0]
        if not url.endswith("/metrics"):
            found = await exchange(self, source, "GET", "/".join(url.split("/")[:3]) + "/metrics", b"")
            seen[kind] = families(found.content)
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Network, "exchange", scraping)
        assert not World(0, faults=()).run().violations
    return seen


def test_a_circles_servers_say_how_they_are(scraped: dict[str, dict[str, dict[tuple[str, ...], float]]]) -> None:
    log, signer, witness = scraped["log"], scraped["signer"], scraped["witness"]
    assert log["brakeline_log_entries"][()] >= log["brakeline_log_published_entries"][()] > 10
    assert log["brakeline_log_checkpoint_age_seconds"][()] < 5
    assert log["brakeline_log_write_age_seconds"][()] < 5
    assert log["brakeline_log_failed"] == {(): 0.0}
    assert len(log["brakeline_log_witness_away"]) == len(PARTIES)
    assert signer["brakeline_signer_view_age_seconds"][()] < 8
    assert signer["brakeline_signer_permits"][()] > 0
    assert signer["brakeline_signer_epoch"][()] > 0
    assert set(witness["brakeline_witness_entries"]) == {(LOG_KEY.name,)}


def test_every_metric_of_the_alert_rules_exists(scraped: dict[str, dict[str, dict[tuple[str, ...], float]]]) -> None:
    named = set(re.findall(r"brakeline_\w+", ALERTS.read_text()))
    exposed = {name for kind in scraped.values() for name in kind}
    assert named <= exposed
    assert named
