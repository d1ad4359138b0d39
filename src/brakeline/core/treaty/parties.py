"""The parties of a treaty and their keys; a party of a draft has none yet."""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from brakeline.core.encoding import is_text, sha256, unhex32
from brakeline.core.errors import BrakelineError
from brakeline.core.keys import PublicKey
from brakeline.core.tlog.note import COSIGNATURE, ED25519, VerifierKey, parse_vkey
from brakeline.core.treaty.text import Broken, PartyTable
from brakeline.core.treaty.values import SUCCESSION, Party, Role

NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,40}")
LOWERCASE: Final = "use lowercase letters, digits and hyphens"

_URL: Final = re.compile(r"[\x21-\x7e]*")
_KEY_ROLES: Final[Mapping[str, Role]] = {"log_key": "log", "witness_key": "witness", "signer_key": "permit-signer"}


class Keys(NamedTuple):
    """The keys that a party has entered; the fields are those of its table."""

    key: PublicKey | None
    log_key: VerifierKey | None
    witness_key: VerifierKey | None
    signer_key: PublicKey | None


def digest_of(key: PublicKey) -> str:
    """What a text says of a key that is not shown yet: hex SHA-256 of type and raw key. Its head is the key's id."""
    return sha256(key.encode()).hex()


def read_keys(parties: Mapping[str, PartyTable], rules: int) -> dict[str, Keys]:
    """Check all that the parties have entered.

    Raises:
        Broken: a name, role, URL or key is wrong. A key that is missing is not.
    """
    found = {name: _keys(name, p) for name, p in parties.items()}
    # Treaty 1.1: one key, one party, one purpose. A cosignature does not cover its signer's name, so a key used
    # twice would let one party count as two.
    seen: dict[bytes, str] = {}
    for name, keys in found.items():
        for field, key in zip(Keys._fields, keys, strict=True):
            if key is None:
                continue
            raw = key.key.raw if isinstance(key, VerifierKey) else key.raw
            if raw in seen:
                raise Broken(("party", name, field), f"the same key as {seen[raw]} (Treaty 1.1)")
            seen[raw] = f"party.{name}.{field}"
    _check_next(parties, found, rules)
    # An envelope names its key by an id of 64 bits, by which the issuer is found.
    ids = [keys.key.id for keys in found.values() if keys.key]
    if len(set(ids)) != len(ids):
        raise Broken(("party",), "two parties' keys share their id: one of them makes another key (Treaty 1.1)")
    return found


def _check_next(parties: Mapping[str, PartyTable], found: Mapping[str, Keys], rules: int) -> None:
    """Treaty 11.7: the next key is committed to by its digest, and is no key that is known already."""
    known = {digest_of(k) for keys in found.values() for k in (keys.key, keys.signer_key) if k}
    for name, p in parties.items():
        for field in ("next", "signer_next"):
            text, path = getattr(p, field), ("party", name, field)
            if rules < SUCCESSION:
                if text:
                    raise Broken(path, f"rules {rules} know of no next key")
                continue
            if text:
                try:
                    unhex32(text)
                except BrakelineError as e:
                    raise Broken(path, str(e)) from e
                if text in known:
                    raise Broken(path, "each next key is its own, and not known before it is used (Treaty 11.7)")
                known.add(text)


def lacking(p: PartyTable, rules: int) -> tuple[str, ...]:
    """Keys that the party's roles need and that it has not entered."""
    due = ["key", *(field for field, role in _KEY_ROLES.items() if role in p.roles)]
    if rules >= SUCCESSION:
        due = [*due, "next", *(["signer_next"] if "permit-signer" in p.roles else [])]
    return tuple(field for field in due if not getattr(p, field))


def party(name: str, p: PartyTable, keys: Keys, rules: int) -> Party:
    """The party with its keys.

    Raises:
        Broken: it has not entered one that it needs.
    """
    missing = lacking(p, rules)
    if missing or keys.key is None:
        hint = f"run `brakeline keygen {name} --enroll TREATY`"
        raise Broken(("party", name, *missing[:1]), "no key entered", hint=hint)
    return Party(
        name=name,
        represents=p.represents,
        roles=frozenset(p.roles),
        key=keys.key,
        log_key=keys.log_key,
        log_url=p.log_url,
        witness_key=keys.witness_key,
        witness_url=p.witness_url,
        signer_key=keys.signer_key,
        signer_url=p.signer_url,
        next=p.next,
        signer_next=p.signer_next,
    )


def _keys(name: str, p: PartyTable) -> Keys:
    def fail(key: str, what: str) -> Broken:
        return Broken(("party", name, key), what)

    def vkey(key: str, text: str, kind: int) -> VerifierKey | None:
        try:
            parsed = parse_vkey(text) if text else None
        except BrakelineError as e:
            raise fail(key, str(e)) from e
        if parsed and parsed.type != kind:
            raise fail(key, f"needs a verifier key of type {kind:02x}, not {parsed.type:02x}")
        return parsed

    def public(key: str, text: str) -> PublicKey | None:
        try:
            return PublicKey.parse(text) if text else None
        except BrakelineError as e:
            raise fail(key, str(e)) from e

    if not NAME.fullmatch(name):
        raise Broken(("party", name), "a party's name has lowercase letters, digits and hyphens")
    if name == "none":  # C2SP tlog-policy §Defining the quorum: the word for nobody
        raise Broken(("party", name), "`none` is the name of no party")
    if len(set(p.roles)) != len(p.roles):
        raise fail("roles", "each role once (Treaty 1.2)")
    if not is_text(p.represents):
        raise fail("represents", "must be printable text")
    for field, url in (("log_url", p.log_url), ("witness_url", p.witness_url), ("signer_url", p.signer_url)):
        if not _URL.fullmatch(url):
            raise fail(field, "a URL is one word of printable ASCII")
    for field, role in (*_KEY_ROLES.items(), ("signer_next", "permit-signer")):
        if getattr(p, field) and role not in p.roles:
            raise fail(field, "a key for a role the party does not have (Treaty 1.2)")
    return Keys(
        key=public("key", p.key),
        log_key=vkey("log_key", p.log_key, ED25519),
        witness_key=vkey("witness_key", p.witness_key, COSIGNATURE),
        signer_key=public("signer_key", p.signer_key),
    )
