"""How the ranks of a run end, each in its way, with real processes: rank 0 says so, and nothing stays behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

START = """
import os, signal, sys, time
from pathlib import Path
from brakeline.core.errors import Malformed
from brakeline.training import launch, ranks
from brakeline.training.recipe import RECIPE, Recipe

launch._LONG = 1.0
here = Path(sys.argv[0]).parent
with launch.placed(3, 3) as rank:
    Path(here, f"pid-{rank}").write_text(str(os.getpid()))
    ranks.meet(b"here")
"""
FAILS = """
def dataset_root(config):
    return ""


def flop_per_step(config):
    return 1


def train(config, gate, recorder):
    import torch.distributed as dist

    if dist.get_rank() == 1:
        HOW
    dist.barrier()
"""
ATTEND = """
    if rank:
        try:
            launch.attend(here / "evidence", Path("/lab/loop.py"))
        except Malformed as e:
            print(f"error: {e}", file=sys.stderr)
            sys.exit(3)
    else:
        Recipe("run", here / "loop.py", 4, {}, ranks=3).deposit(here / "evidence" / RECIPE)
        ranks.tell(launch.Stretch(bytes(32), 2, 1, 1, None))
        ranks.meet(b"done")
"""


def started(folder: Path, body: str) -> "subprocess.Popen[str]":
    (folder / "tmp").mkdir()
    (folder / "start.py").write_text(START + body)
    return subprocess.Popen(
        [sys.executable, str(folder / "start.py")],
        env={**os.environ, "TMPDIR": str(folder / "tmp")},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,  # which a shell's `&` ignores
    )


def ended(process: "subprocess.Popen[str]", folder: Path) -> tuple[int, str]:
    said = process.communicate(timeout=60)[1]
    deadline = time.monotonic() + 20
    pids = [int(path.read_text()) for path in folder.glob("pid-*")]
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(pids) == 3
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not list((folder / "tmp").glob("brakeline-*"))
    return process.returncode, said


def test_all_end_with_the_first(tmp_path: Path) -> None:
    assert ended(started(tmp_path, "    time.sleep(rank)"), tmp_path) == (0, "")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("os._exit(0)", "rank 2 ended with status 0"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "rank 2 ended with status -9"),
    ],
)
def test_a_rank_that_ends_before_is_named(how: str, words: str, tmp_path: Path) -> None:
    status, said = ended(started(tmp_path, f"    if rank == 2: {how}\n    ranks.meet(b'on')"), tmp_path)
    assert status == 5
    assert words in said
    assert "hint: the same command goes on from the last checkpoint" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise ValueError('a bad day')", "/lab/loop.py, line 14: ValueError: a bad day"),
        ("raise SystemExit(0)", "/lab/loop.py, line 14: it ends its process: sys.exit(0)"),
    ],
)
def test_what_the_code_of_a_rank_raises_is_said_with_its_place(how: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "loop.py").write_text(FAILS.replace("HOW", how))
    status, said = ended(started(tmp_path, ATTEND), tmp_path)
    assert status == 3
    assert f"error: {words}" in said
    assert "error: rank 1 ended with status 3" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("stopped", ["os.kill(os.getpid(), signal.SIGSTOP)", "time.sleep(600)"])
def test_an_operator_who_has_waited_enough_may_leave(stopped: str, tmp_path: Path) -> None:
    process = started(tmp_path, f"    if rank == 1: {stopped}\n    Path(here, 'waits').touch()\n    ranks.meet(b'on')")
    while not (tmp_path / "waits").exists():
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    status, said = ended(process, tmp_path)
    assert status == 130
    assert said == "interrupted, while a rank did not answer\n"
