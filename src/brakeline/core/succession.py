"""What parties say to go from one text to the next, and to change a key. Articles 11 and 12."""

from typing import Final, Literal

from brakeline.core.encoding import Wire, unhex32
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.keys import PublicKey
from brakeline.core.pledge import Assent
from brakeline.core.statement import Envelope, Statement, open_envelope, verify
from brakeline.core.treaty import Party, Treaty, articles_digest

Purpose = Literal["statement", "signer"]
MAX_REASON: Final = 400  # characters


class Amend(Wire, frozen=True):
    """Body of an `amend`: the whole next `text`, in place of the one with the digest `amends` (hex SHA-256).

    `joining` are the envelopes of those who have no key in the text in force: each assents to the next text with the
    key that this enters for it.
    """

    amends: str
    text: str
    joining: tuple[str, ...]


class KeyChange(Wire, frozen=True):
    """Body of a `key`: from here on `key` (base64) serves the `purpose`, and after it the one with the digest `next`.

    A key for statements is shown by itself: it signs this. One for permits is told by the party's key for statements.
    """

    purpose: Purpose
    key: str
    next: str


class Revocation(Wire, frozen=True):
    """Body of a `revoke`: `party`'s `key` (base64) counts no more, and what it said from entry `since` on falls.

    A party revokes its own key alone, another's together with a quorum of members that say the very same.
    """

    party: str
    purpose: Purpose
    key: str
    since: int
    reason: str


def check_change(body: KeyChange) -> PublicKey:
    """The key that a `key` statement shows.

    Raises:
        Malformed: not a key, or `next` is no digest. Refused(WEAK_KEY).
    """
    unhex32(body.next)
    return PublicKey.parse(body.key)


def assent_to(text: Treaty) -> Assent:
    """What a party signs that assents to a text."""
    return Assent(text=text.digest, articles=articles_digest(text))


def joiner(data: str, amends: str, next_: Treaty, asked: Assent) -> tuple[Party, Envelope, Statement]:
    """One of `Amend.joining`: whose it is, and what it says.

    `amends` is the digest of the text in force, and `asked` the assent to the next one.

    Raises:
        Malformed: not an assent. Refused: FOREIGN, it is to another text or articles, or under another treaty;
            UNKNOWN_ISSUER, the next text has no such party; FORGED, its key there did not sign.
    """
    envelope = open_envelope(data.encode())
    if envelope.kind != "assent":
        raise Malformed(f"who joins says an assent, not a {envelope.kind}")
    party = next((p for p in next_.parties.values() if envelope.signatures[0][0] == p.key.id), None)
    if party is None:
        raise Refused(Reason.UNKNOWN_ISSUER, "who joins is no party to the next text")
    verify(envelope, party.key)
    statement = envelope.statement
    statement.check()
    body = statement.body_as(Assent)
    if (statement.issuer, statement.treaty) != (party.name, amends):
        raise Refused(Reason.FOREIGN, f"{party.name} joins in its own name, under the text in force")
    check_assent(body, asked)
    return party, envelope, statement


def check_assent(body: Assent, asked: Assent) -> None:
    """That an assent is the one `asked` for: to the text, and to its articles as this build applies them. Treaty 2.1.

    Raises:
        Refused(FOREIGN): otherwise.
    """
    if body.text != asked.text:
        raise Refused(Reason.FOREIGN, "assent to another text")
    if body.articles != asked.articles:
        raise Refused(Reason.FOREIGN, "assent to other articles than those that are applied here")
