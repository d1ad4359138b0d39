"""The stage of the demo: folders, addresses and the processes of four parties, all on loopback."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from brakeline.core.errors import Misuse, Unavailable
from brakeline.core.transcript import LEAF_BYTES
from brakeline.node.disk import write_atomic

LABS: Final = ("alpha", "beta", "gamma")
PARTIES: Final = (*LABS, "delta")
RUNS: Final = {"alpha": "careful", "beta": "unlucky", "gamma": "greedy"}
_BRAKELINE: Final = (sys.executable, "-m", "brakeline.cli.main")
MARK: Final = ".brakeline-demo"


def examples() -> Path:
    """The example files, in a checkout or in an installed package."""
    shipped = Path(str(files("brakeline"))) / "_examples"
    return shipped if shipped.is_dir() else Path(__file__).resolve().parents[4] / "examples"


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


class Stage:
    """Runs the parties' commands as a person would type them, and cleans up after itself."""

    def __init__(self, folder: Path) -> None:
        if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
            raise Misuse(f"{folder} holds other things", hint="name a new folder with --out")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / MARK).write_text("made by `brakeline demo`; a new demo replaces this folder\n")
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        ports = iter(free_ports(1 + 2 * len(PARTIES)))
        self.log_url = f"http://127.0.0.1:{next(ports)}"
        self.witness_url = {p: f"http://127.0.0.1:{next(ports)}" for p in PARTIES}
        self.signer_url = {p: f"http://127.0.0.1:{next(ports)}" for p in PARTIES}
        self._env = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "PYTHONUNBUFFERED": "1"}

    def home(self, party: str) -> Path:
        return self.folder / party

    def evidence(self, lab: str) -> Path:
        return self.home(lab) / "runs" / RUNS[lab]

    def result(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run one brakeline command to its end, however it ends."""
        return subprocess.run([*_BRAKELINE, *args], cwd=self.folder, env=self._env, capture_output=True, text=True)

    def call(self, *args: str, ok: Sequence[int] = (0,)) -> str:
        """Run one brakeline command; returns what it printed.

        Raises:
            Unavailable: it failed, with its own words.
        """
        done = self.result(*args)
        if done.returncode not in ok:
            raise Unavailable(f"`brakeline {' '.join(args)}` failed ({done.returncode}): {done.stderr.strip()[-800:]}")
        return done.stdout.strip()

    def call_all(self, commands: Sequence[Sequence[str]], ok: Sequence[int] = (0,)) -> list[str]:
        """Run several at once, two at a time; returns what each printed, in order."""
        waiting = list(enumerate(commands))
        running: dict[int, subprocess.Popen[str]] = {}
        output: dict[int, str] = {}
        while waiting or running:
            while waiting and len(running) < 2:
                i, args = waiting.pop(0)
                running[i] = subprocess.Popen(
                    [*_BRAKELINE, *args],
                    cwd=self.folder,
                    env=self._env,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            for i, process in list(running.items()):
                try:
                    out, err = process.communicate(timeout=0.1)
                except subprocess.TimeoutExpired:
                    continue
                del running[i]
                if process.returncode not in ok:
                    text = f"`brakeline {' '.join(commands[i])}` failed ({process.returncode}): {err.strip()[-800:]}"
                    raise Unavailable(text)
                output[i] = out.strip()
        return [output[i] for i in range(len(commands))]

    def start(self, name: str, *command: str) -> None:
        """Start a long-lived process; what it prints goes to NAME.log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, cwd=self.folder, env=self._env, stdout=log, stderr=log, start_new_session=True
            )

    def serve(self, name: str, *args: str) -> None:
        self.start(name, *_BRAKELINE, *args)

    def await_listening(self, names: Sequence[str], timeout: float = 60) -> None:
        """Wait until each process says where it listens.

        Raises:
            Unavailable: one ended, or does not get there in time.
        """
        deadline = time.monotonic() + timeout
        for name in names:
            log = self.folder / f"{name}.log"
            while b"listening on" not in log.read_bytes():
                if self.processes[name].poll() is not None or time.monotonic() > deadline:
                    raise Unavailable(f"{name} did not start: {log.read_text(errors='replace')[-800:]}")
                time.sleep(0.05)

    def train(self, lab: str) -> None:
        if lab == "gamma":
            recipe, share = str(self.folder / f"{lab}.toml"), "0.6"
            self.start(f"train-{lab}", sys.executable, str(examples() / "cheat.py"), recipe, str(self.home(lab)), share)
        else:
            self.serve(f"train-{lab}", "train", f"{lab}.toml", "--home", lab, "--threads", "1", "--unchecked")

    def kill(self, name: str) -> None:
        """SIGKILL, as a power cut would."""
        process = self.processes[name]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def steps(self, lab: str) -> int:
        """Steps recorded so far, read from the transcript's size."""
        try:
            return max(0, (self.evidence(lab) / "leaves.bin").stat().st_size // LEAF_BYTES - 1)
        except OSError:
            return 0

    def stops(self, lab: str) -> list[dict[str, Any]]:
        try:
            lines = (self.evidence(lab) / "stops.jsonl").read_text().splitlines()
        except OSError:
            return []
        return [json.loads(line) for line in lines]

    def check_alive(self, names: Sequence[str]) -> None:
        """Raises:
        Unavailable: a process that must be running has ended.
        """
        for name in names:
            code = self.processes[name].poll()
            if code is not None:
                text = (self.folder / f"{name}.log").read_text(errors="replace")[-1500:]
                raise Unavailable(f"{name} ended with {code}: {text}")

    def recipe(self, lab: str, steps: int) -> None:
        text = (
            f'name = "{RUNS[lab]}"\nentry = "{examples() / "train.py"}"\nsteps = {steps}\n\n'
            "[config]\nlayers = 2\nwidth = 64\nheads = 4\ncontext = 64\nbatch = 8\ncorpus_bytes = 2000000\n"
        )
        write_atomic(self.folder / f"{lab}.toml", text.encode())

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
