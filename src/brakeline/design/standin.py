"""Stand-in keys that follow from names: for rehearsing a treaty that nobody has signed yet, never for one in force."""

from functools import cache

from brakeline.core.encoding import sha256
from brakeline.core.errors import Malformed
from brakeline.core.keys import PrivateKey
from brakeline.core.tlog.note import COSIGNATURE, ED25519, VerifierKey
from brakeline.core.treaty import Treaty, draft_fields, missing_keys, parse_treaty
from brakeline.core.treaty.parties import digest_of


@cache
def key(name: str, purpose: str = "statement") -> PrivateKey:
    """The key of `name` for `purpose`. Anybody can compute it."""
    return PrivateKey(sha256(f"brakeline stand-in key of {name} for {purpose}".encode()))


def log_key(name: str) -> VerifierKey:
    return VerifierKey(f"{name}/log", ED25519, key(name, "log").public)


def witness_key(name: str) -> VerifierKey:
    return VerifierKey(f"{name}/witness", COSIGNATURE, key(name, "witness").public)


def rehearsed(draft: bytes) -> Treaty:
    """The treaty that `draft` would be if each party that has entered no keys yet used its stand-in keys.

    Raises:
        Malformed: the draft breaks a rule of treaties.
    """
    lines = draft.decode().split("\n")
    for name in missing_keys(draft):
        every = {
            "key": key(name).public.text,
            "next": digest_of(key(name, "next").public),
            "log_key": log_key(name).text,
            "witness_key": witness_key(name).text,
            "signer_key": key(name, "signer").public.text,
            "signer_next": digest_of(key(name, "next signer").public),
        }
        due = draft_fields(draft, name)
        own = [f'{field} = "{text}"' for field, text in every.items() if field in due]
        at = next((i for i, line in enumerate(lines) if line.split("#")[0].strip() == f"[party.{name}]"), None)
        if at is None:
            raise Malformed(f"the draft has no line [party.{name}]")
        lines[at + 1 : at + 1] = own
    return parse_treaty("\n".join(lines).encode())
