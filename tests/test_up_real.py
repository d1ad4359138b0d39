"""A circle of parties that each run all their roles in one process, and what the doctor says of them."""

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from brakeline.cli.demo.stage import PARTIES, Stage, examples, free_ports
from brakeline.cli.main import cli
from brakeline.core.treaty import parse_treaty
from brakeline.node.client import Follower
from brakeline.node.logclient import LogClient
from test_circle_real import until

pytestmark = pytest.mark.real
DEPLOY = Path(__file__).parents[1] / "deploy"


class Up:
    """Four homes, and `brakeline up` in each."""

    def __init__(self, folder: Path) -> None:
        self.stage = stage = Stage(folder)
        shutil.copy(examples() / "treaties" / "demo.toml", folder / "demo.toml")
        for p in PARTIES:
            url = ("--log-url", stage.log_url) if p == "delta" else ()
            addresses = ("--witness-url", stage.witness_url[p], "--signer-url", stage.signer_url[p])
            stage.call("keygen", p, "--home", p, "--enroll", "demo.toml", *url, *addresses)
        stage.call_all([("treaty", "sign", "demo.toml", "--home", p) for p in PARTIES])

    def start(self, party: str) -> None:
        self.stage.serve(f"up-{party}", "up", "--home", party)

    def said(self, party: str) -> str:
        return (self.stage.folder / f"up-{party}.log").read_text()

    def listening(self, party: str, servers: int) -> None:
        until(lambda: self.said(party).count("listening on") >= servers)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    made = Up(tmp_path_factory.mktemp("up") / "stage")
    yield made
    made.stage.close()


def test_parties_run_all_their_roles(up: Up) -> None:
    for party in PARTIES:
        up.start(party)
    for party in PARTIES:
        up.listening(party, 3 if party == "delta" else 2)
    assert "delta: log, witness, signer" in up.said("delta")
    up.stage.call_all([("pledge", "--if-at-least", "2", "--home", p) for p in PARTIES])
    until(lambda: "CLEAR" in up.stage.call("status", "--home", "alpha").splitlines()[0])


def test_the_doctor_finds_all_well_and_then_who_is_away(up: Up) -> None:
    until(lambda: up.stage.result("doctor", "--home", "beta").returncode == 0)
    said = up.stage.call("doctor", "--home", "beta")
    assert said.endswith("all is well")
    assert len(re.findall("^ok ", said, re.MULTILINE)) == 5 + 2 + 2 * len(PARTIES)
    up.stage.kill("up-gamma")
    done = up.stage.result("doctor", "--home", "beta")
    assert done.returncode == 1
    assert re.search(r"^BAD  gamma's permit signer: http\S+ is out of reach", done.stdout, re.MULTILINE)
    assert "hint: is it running?" in done.stdout
    up.start("gamma")
    up.listening("gamma", 4)


def test_it_ends_at_a_signal_and_goes_on_where_it_was(up: Up) -> None:
    follower = Follower(LogClient(up.stage.log_url), parse_treaty((up.stage.folder / "demo.toml").read_bytes()))
    follower.update()
    size = follower.state.size
    process = up.stage.processes["up-delta"]
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(30) == 0
    up.start("delta")
    up.listening("delta", 6)

    def grown() -> bool:
        follower.update()
        return follower.state.size > size

    until(grown)


def test_what_it_cannot_run_is_one_line(up: Up) -> None:
    folder = up.stage.folder
    taken = up.stage.result("up", "--home", "alpha")
    assert (taken.returncode, "error: cannot listen on" in taken.stderr) == (5, True)
    (folder / "bad.toml").write_text('home = "alpha"\nlisten = "x"\n')
    bad = up.stage.result("up", "bad.toml")
    assert (bad.returncode, "unknown field `listen`" in bad.stderr) == (3, True)
    (folder / "more.toml").write_text('home = "alpha"\n[log]\nlisten = "127.0.0.1:1"\n')
    more = up.stage.result("up", "more.toml")
    assert (more.returncode, "does not give alpha what [log] asks for" in more.stderr) == (2, True)
    assert up.stage.result("up", "--home", "nowhere").returncode == 5


def test_a_file_says_where_servers_listen(up: Up) -> None:
    up.stage.kill("up-beta")
    first, second = free_ports(2)
    text = f'home = "beta"\n[witness]\nlisten = "127.0.0.1:{first}"\n[signer]\nlisten = "127.0.0.1:{second}"\n'
    (up.stage.folder / "beta-up.toml").write_text(text)
    up.stage.serve("up-beta-elsewhere", "up", "beta-up.toml")
    said = up.stage.folder / "up-beta-elsewhere.log"
    until(lambda: said.read_text().count("listening on") == 2)
    assert f"listening on http://127.0.0.1:{second}" in said.read_text()


def test_the_doctor_finds_damage(up: Up) -> None:
    ill = up.stage.folder / "ill"
    shutil.copytree(up.stage.home("gamma"), ill)
    for path in ill.glob("outbox.sqlite-*"):
        path.unlink()
    (ill / "outbox.sqlite").write_bytes(b"junk" * 2000)
    (ill / "keys" / "witness.pem").chmod(0o644)
    done = up.stage.result("doctor", "--home", "ill")
    assert done.returncode == 1
    assert "BAD  keys: ill/keys/witness.pem can be read by others" in done.stdout
    assert "hint: chmod 600 ill/keys/witness.pem" in done.stdout
    assert "BAD  outbox.sqlite: the database is damaged" in done.stdout


# ---- what is shipped to run it ----


def command_of(line: str) -> list[str]:
    """The command of a line that starts brakeline, after checking that there is such a one."""
    words = [w for w in shlex.split(line) if w != "/usr/bin/env"]
    assert words[0] == "brakeline"
    assert words[1] in cli.list_commands(None)  # type: ignore[arg-type]
    return words


def test_the_unit_starts_what_there_is() -> None:
    unit = (DEPLOY / "brakeline@.service").read_text()
    (start,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    assert command_of(start)[1] == "up"
    assert re.findall(r"^\[(\w+)\]$", unit, re.MULTILINE) == ["Unit", "Service", "Install"]
    assert "RestartPreventExitStatus=2 3 4" in unit
    if tool := shutil.which("systemd-analyze"):
        done = subprocess.run([tool, "verify", DEPLOY / "brakeline@.service"], capture_output=True, text=True)
        assert "brakeline@.service" not in done.stderr or "Unknown" not in done.stderr, done.stderr


def test_the_image_is_made_of_what_there_is() -> None:
    root = DEPLOY.parent
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    words = [line.split() for line in lines]
    assert words[0][0] == "FROM"
    for line in words:
        if line[0] == "COPY":
            assert all((root / source).exists() for source in line[1:-1]), line
    (entry,) = [line.partition(" ")[2] for line in lines if line.startswith("ENTRYPOINT")]
    assert command_of(" ".join(re.findall(r'"([^"]+)"', entry)))[1] == "up"
    copied = {source for line in words if line[0] == "COPY" for source in line[1:-1]}
    needed = set(re.findall(r'^"?(examples)"? = ', (root / "pyproject.toml").read_text(), re.MULTILINE))
    assert needed | {"pyproject.toml", "src", "README.md", "LICENSE"} <= copied, "what the build reads is copied"
