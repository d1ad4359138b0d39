"""The benches still run, and the audit's quick form still meets its targets."""

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[1] / "bench"


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=BENCH, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_three_cheats_are_caught_and_six_honest_audits_accuse_nobody():
    printed = run("audit.py", "--quick")
    assert "caught 3 of 3 " in printed
    assert "false findings: 0 of 6 audits " in printed


def test_the_gate_is_timed_beside_its_baseline():
    printed = run("gate.py", "--calls", "1000")
    assert "LiveGate.may_step()" in printed
    assert printed.startswith("machine: ")


def test_what_stands_out_is_measured():
    printed = run("outliers.py", "--quick")
    assert "all targets met" in printed
    assert "4.98% of the compute" in printed
