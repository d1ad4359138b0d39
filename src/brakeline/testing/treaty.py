"""A treaty with short clocks among four parties, whose keys follow from their names: for simulation."""

from functools import cache
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from brakeline.core.encoding import sha256
from brakeline.core.keys import PrivateKey
from brakeline.core.tlog.note import COSIGNATURE, ED25519, VerifierKey
from brakeline.core.treaty import Treaty, parse_treaty
from brakeline.core.treaty.parties import digest_of
from brakeline.node.home import PURPOSES, Which
from brakeline.node.logclient import LogClient

PARTIES: Final = ("alpha", "beta", "gamma", "delta")
KEEPER: Final = "delta"  # of the log
LAB: Final = "alpha"  # the one that trains
START: Final = 1_767_225_600 + 10_000  # POSIX s, a little after the text comes into force
_ORIGIN: Final = "log.example/simulated"

_TEXT: Final = """\
[treaty]
name = "simulated"
title = "Agreement on a coordinated pause of large training runs (simulated)"
version = 1
rules = 2
effective = 2026-01-01T00:00:00Z

[quorum]
faults = 1
trip = 2
permit = 3
lift = 3
witnesses = 3

[scope]
window = "365 d"

[[scope.tier]]
name = "covered"
duties = ["declared", "monitored", "permitted"]
above = "10 GFLOP"
sum = true

[[scope.tier]]
name = "prohibited"
duties = ["prohibited"]
above = "1 EFLOP"

[brake]
findings_trip = true

[lift]
conditions = ["stopped"]
delay = "2 s"
settle_within = "30 s"

[permit]
lifetime = "10 s"
allowance = "200 GFLOP"
lineage_gate = false

[log]
heartbeat = "1 s"
stale_after = "5 s"
snapshot_every = 64

[audit]
inspectors = 2
adjudicators = 2
p_catch = "95 %"
f_cheat = "50 %"
segment_steps = 4
head_every = 16
update_error = 0.005
residual = "5 %"
attested_runs = true
within = "30 d"
findings = 64

[budget]
brake = 64
runs = 100000
audits = 400
rest = 100
bytes = "100 MiB"

[clocks]
notification = "14 d"
report = "15 d"
amendment = "30 d"
withdrawal = "180 d"

[[clocks.incident]]
name = "safety"
within = "72 h"
"""


@cache
def key(party: str, purpose: str, which: Which = "") -> PrivateKey:
    return PrivateKey(sha256(f"{party} {purpose} {which}".encode()))


def witness_key(party: str) -> VerifierKey:
    return VerifierKey(f"{party}.example/witness", COSIGNATURE, key(party, "witness").public)


LOG_KEY: Final = VerifierKey(_ORIGIN, ED25519, key(KEEPER, "log").public)


def _party(name: str) -> str:
    roles = ["log" if name == KEEPER else "lab", "witness", "permit-signer", "inspector"]
    fields = {
        "roles": str(roles).replace("'", '"'),
        "key": key(name, "statement").public.text,
        "next": digest_of(key(name, "statement", "next").public),
        "witness_key": witness_key(name).text,
        "witness_url": f"http://witness.{name}",
        "signer_key": key(name, "signer").public.text,
        "signer_next": digest_of(key(name, "signer", "next").public),
        "signer_url": f"http://signer.{name}",
    }
    if name == KEEPER:
        fields |= {"log_key": LOG_KEY.text, "log_url": f"http://log.{name}"}
    lines = [f"{field} = {text}" if field == "roles" else f'{field} = "{text}"' for field, text in fields.items()]
    return "\n".join([f"\n[party.{name}]", *lines, ""])


@cache
def treaty() -> Treaty:
    return parse_treaty((_TEXT + "".join(map(_party, PARTIES))).encode())


def log_client() -> LogClient:
    """A client of the log, in whichever process asks."""
    return LogClient(treaty().with_role("log")[0].log_url)


@cache
def _pem(party: str, purpose: str, which: Which) -> bytes:
    raw = Ed25519PrivateKey.from_private_bytes(key(party, purpose, which).seed)
    return raw.private_bytes(ser.Encoding.PEM, ser.PrivateFormat.PKCS8, ser.NoEncryption())


def make_home(folder: Path, party: str) -> None:
    """As `brakeline keygen` and `brakeline treaty sign` leave it, but for the statement in the outbox."""
    (folder / "keys").mkdir(parents=True)
    (folder / "party").write_text(f"{party}\n")
    (folder / "treaty.toml").write_bytes(treaty().text)
    names: list[tuple[str, Which]] = [(p, "") for p in PURPOSES]
    for purpose, which in [*names, ("statement", "next"), ("signer", "next")]:
        path = folder / "keys" / f"{purpose}{which and '.' + which}.pem"
        path.write_bytes(_pem(party, purpose, which))
        path.chmod(0o600)
