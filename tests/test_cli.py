"""The command line: help without heavy imports, exit codes as documented, no traceback for a user's mistake."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from brakeline.cli.common import EXIT, EXIT_INTERRUPTED, EXIT_STOPPED, EXIT_VERDICT
from brakeline.cli.main import COMMANDS, main
from brakeline.cli.pledge import at_least
from brakeline.core.pledge import Pledge
from world import EXAMPLE, PARTIES, World, treaty_text

ROOT = Path(__file__).parents[1]


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as e:
        main(list(args))
    captured = capsys.readouterr()
    return int(e.value.code or 0), captured.out, captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert out.startswith("Usage: ")


def test_the_group_imports_no_command() -> None:
    """`brakeline --help` stays quick: torch, matplotlib and web servers load when a command needs them."""
    script = (
        "import sys\nfrom brakeline.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'matplotlib', 'starlette', 'uvicorn', 'httpx', 'sqlite3'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_exit_codes_are_those_of_the_readme() -> None:
    table = dict(re.findall(r"^\| (\d+) \| ([^|]+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE))
    codes = {0, *EXIT.values(), EXIT_VERDICT, EXIT_STOPPED, EXIT_INTERRUPTED}
    assert {int(code) for code in table} == codes


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "completion", shell)
    assert code == 0
    assert "_BRAKELINE_COMPLETE" in out


def test_from_draft_to_signature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draft = tmp_path / "t.toml"
    draft.write_bytes(EXAMPLE.read_bytes())
    code, _, err = run(capsys, "treaty", "check", str(draft))
    assert (code, "no keys yet of alpha, beta, gamma, delta" in err) == (3, True)
    for p in PARTIES:
        url = ["--log-url", "http://127.0.0.1:1"] if p == "delta" else []
        code, _, err = run(capsys, "keygen", p, "--home", str(tmp_path / p), "--enroll", str(draft), *url)
        assert code == 0, err
    before = draft.read_bytes()
    code, _, err = run(capsys, "keygen", "alpha", "--home", str(tmp_path / "again"), "--enroll", str(draft))
    assert (code, "entered its keys already" in err) == (3, True)
    assert draft.read_bytes() == before
    assert not (tmp_path / "again").exists()
    assert run(capsys, "treaty", "check", str(draft))[0] == 0
    assert run(capsys, "treaty", "policy", str(draft))[1].startswith("log delta/log+")
    code, out, _ = run(capsys, "treaty", "sign", str(draft), "--home", str(tmp_path / "alpha"))
    assert (code, "alpha signed demo v1" in out) == (0, True)
    other = tmp_path / "other.toml"
    other.write_bytes(before.replace(b"version = 1", b"version = 2"))
    code, _, err = run(capsys, "treaty", "sign", str(other), "--home", str(tmp_path / "alpha"))
    assert (code, "signed another treaty" in err) == (2, True)


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (("frobnicate",), 2, "No such command"),
        (("vote", "maybe"), 2, "maybe"),
        (("treaty", "check", "no-such-file"), 5, "cannot read"),
        (("status", "--home", "no-such-home"), 5, "not a party's home"),
        (("witness", "--home", "no-such-home"), 5, "hint: make one with"),
        (("verify", "README.md"), 3, "not a brakeline bundle"),
        (("train", "no-such-recipe.toml", "--home", "no-such-home"), 5, "not a party's home"),
        (("run", "--name", "x", "--time", "12 hours", "--flop-per-second", "1 GFLOP", "--home", "no", "--", "true"), 5,
         "not a party's home"),
    ],
)  # fmt: skip
def test_mistakes(args: tuple[str, ...], code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    got, _, err = run(capsys, *args)
    assert got == code
    assert text in err
    assert "Traceback" not in err


def test_verify_tells_what_a_bundle_proves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World()
    world.bind()
    world.finished("alpha")
    world.trip()
    world.stamp()
    path = tmp_path / "b.bundle"
    path.write_bytes(world.bundle().encode())
    code, out, _ = run(capsys, "verify", str(path))
    assert code == 0
    assert "compare this digest" in out
    assert "tripped" in out
    (tmp_path / "t.toml").write_text(treaty_text())
    assert run(capsys, "verify", str(path), "--treaty", str(tmp_path / "t.toml"))[0] == 0
    assert run(capsys, "verify", str(path), "--json")[1].startswith("{")
    code, _, err = run(capsys, "verify", str(path), "--sha256", "0" * 64)
    assert (code, "not 000000" in err) == (4, True)


@pytest.mark.parametrize("k", [0, 1, 3])
def test_pledge_conditions(k: int) -> None:
    others = ("beta", "gamma", "delta")
    group = Pledge(condition=at_least(k, others)).group(frozenset(PARTIES))
    assert (group is None) == (k == 0)
    if group is not None:
        assert group.holds(frozenset(others[:k]))
        assert not group.holds(frozenset(others[: k - 1]))
