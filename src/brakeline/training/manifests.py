"""A run's manifests: its lab signs at every head what the evidence holds; whoever has a copy compares.

They lie in the evidence, a line each, and each lists what has come since the one before.
"""

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from brakeline.core.errors import BrakelineError, Malformed, Misuse
from brakeline.core.keys import PrivateKey, PublicKey
from brakeline.core.manifest import MAX_LINE, Listed, Manifest, open_manifest, seal
from brakeline.core.transcript import LEAF_BYTES, Head
from brakeline.training.checkpoint import CHECKPOINTS, check_bytes, checkpoint_path, checkpoint_steps, list_size
from brakeline.training.recipe import RECIPE, deposited
from brakeline.training.recorder import LEAVES

MANIFESTS: Final = "manifests.jsonl"
_MOST: Final = 1 << 20  # lines that are read: a head each
_CHUNK: Final = 1 << 20


class Keeper:
    """The lab's end: lists and signs what is new in `evidence`, in whose file `permits` are the permits."""

    def __init__(self, evidence: Path, run: str, key: PrivateKey, permits: str) -> None:
        self._evidence = evidence
        self._run = run
        self._key = key
        self._growing = {name: hashlib.sha256() for name in (LEAVES, permits)}
        self._read = dict.fromkeys(self._growing, 0)
        self._known = {f.path for m in _manifests(evidence, (key.public,)) if m.run == run for f in m.files}

    def add(self, head: Head) -> None:
        """Before the head goes out, so that what is logged can be compared. Raises OSError."""
        # Leaves beyond the head are on nobody's record yet: a run that moves makes them anew.
        most = {LEAVES: (head.steps + 1) * LEAF_BYTES}
        files = [*self._grown(most), *self._profiles(), *self._checkpoints()]
        line = seal(Manifest(run=self._run, steps=head.steps, root=head.root, files=tuple(files)), self._key)
        with (self._evidence / MANIFESTS).open("ab") as f:
            f.write(b"\n" * (f.tell() > 0) + line)
            f.flush()
            os.fsync(f.fileno())

    def _grown(self, most: Mapping[str, int]) -> list[Listed]:
        found = []
        for name, digest in self._growing.items():
            path = self._evidence / name
            if not path.exists():
                continue
            with path.open("rb") as f:
                f.seek(self._read[name])
                end = most.get(name, os.fstat(f.fileno()).st_size)
                while data := f.read(min(_CHUNK, max(0, end - self._read[name]))):
                    digest.update(data)
                    self._read[name] += len(data)
            found.append(Listed(path=name, size=self._read[name], digest=digest.hexdigest()))
        return found

    def _profiles(self) -> list[Listed]:
        found = []
        for path in sorted(self._evidence.glob("environment*.json")):
            if path.name not in self._known:
                size = path.stat().st_size
                found.append(Listed(path=path.name, size=size, digest=_digest(path, size)))
                self._known.add(path.name)
        return found

    def _checkpoints(self) -> list[Listed]:
        found = []
        for folder in (self._evidence, *sorted((self._evidence / "ranks").glob("[0-9]*"))):
            for step in checkpoint_steps(folder):
                path = checkpoint_path(folder, step)
                name = path.relative_to(self._evidence).as_posix()
                if name not in self._known:
                    size = list_size(path)
                    found.append(Listed(path=name, size=size, digest=_digest(path, size)))
                    self._known.add(name)
        return found


class Copy(NamedTuple):
    """A copy of a run's evidence, and what its lab signed of it, the newest of each file. `missing` says why the
    manifests do not cover the head; "" where they do."""

    evidence: Path
    listed: Mapping[str, Listed]
    missing: str

    def torn(self, recipe: str, steps: Collection[int]) -> str:
        """Why the copy is not what the lab signed, so that it is worth to fetch it again; "" where it is.

        Of the checkpoints those of `steps` are looked at. `recipe` is the digest that was declared.
        """
        if self.missing:
            return self.missing
        try:
            if deposited(self.evidence / RECIPE).digest != recipe:
                return "its recipe is not the one that was declared"
        except BrakelineError as e:
            return str(e)
        names = [name for name in self.listed if (step := _step(name)) is None or step in steps]
        return next((why for name in names if (why := self._torn(name))), "")

    def _torn(self, name: str) -> str:
        it, path = self.listed.get(name), self.evidence / name
        try:
            if it and (path.stat().st_size < it.size or _digest(path, it.size) != it.digest):
                return f"{name} is older than what the lab signed, or damaged"
            if it and name.endswith(".safetensors"):
                check_bytes(path)
        except (OSError, Malformed) as e:
            return f"{name} is damaged, or not there: {e}"
        return ""


def opened(evidence: Path, run: str, head: Head, keys: Iterable[PublicKey]) -> Copy:
    """What the lab whose `keys` these are signed of its evidence up to `head`.

    Raises:
        Misuse: it is the evidence of another run.
    """
    listed: dict[str, Listed] = {}
    others, covered = set(), False
    for m in _manifests(evidence, tuple(keys)):
        if m.run != run:
            others.add(m.run)
        elif m.steps <= head.steps:
            listed |= {f.path: f for f in m.files}
            covered = covered or (m.steps, m.root) == (head.steps, head.root)
    if others and not listed:
        raise Misuse(f"{evidence} is the evidence of another run, {min(others)[:16]}…", hint="give this run's folder")
    missing = "" if covered else f"nothing in {evidence} is signed for the head at step {head.steps}"
    return Copy(evidence, listed, missing)


def _step(name: str) -> int | None:
    """That of a checkpoint."""
    it = Path(name)
    return int(it.stem.removeprefix("step-")) if it.parent.name == CHECKPOINTS else None


def _manifests(evidence: Path, keys: tuple[PublicKey, ...]) -> list[Manifest]:
    """Those that are signed, in order; what is torn or forged says nothing."""
    found = []
    try:
        with (evidence / MANIFESTS).open("rb") as f:
            for _ in range(_MOST):
                line = f.readline(MAX_LINE + 2)
                if not line:
                    break
                try:
                    found.append(open_manifest(line.rstrip(b"\n"), keys))
                except BrakelineError:
                    continue
    except OSError:
        pass
    return found


def _digest(path: Path, size: int) -> str:
    digest, left = hashlib.sha256(), size
    with path.open("rb") as f:
        while left and (data := f.read(min(_CHUNK, left))):
            digest.update(data)
            left -= len(data)
    return digest.hexdigest()
