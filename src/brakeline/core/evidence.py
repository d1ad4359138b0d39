"""Evidence: two envelopes that prove to anybody that a party said two things. Treaty 2.4."""

from collections.abc import Collection

from brakeline.core.encoding import Wire
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.keys import PublicKey
from brakeline.core.statement import Envelope, Statement, open_envelope, verify


class Evidence(Wire, frozen=True):
    """Body of an `evidence`: the texts of two envelopes, the smaller first. It is complete in itself."""

    first: str
    second: str


def read(body: Evidence) -> tuple[Envelope, Envelope]:
    """The two envelopes, not yet verified.

    Raises:
        Malformed: not two different envelopes of one kind of statement each, in order.
    """
    if body.first >= body.second:
        raise Malformed("evidence is two different envelopes, the smaller first")
    return open_envelope(body.first.encode()), open_envelope(body.second.encode())


def verified(envelope: Envelope, key: PublicKey, texts: Collection[str], issuer: str) -> Statement:
    """One of the two statements, where it is `issuer`'s under one of the `texts` (hex SHA-256).

    Raises:
        Refused: FORGED, FOREIGN. Malformed: not a statement.
    """
    verify(envelope, key)
    statement = envelope.statement
    statement.check()
    if statement.issuer != issuer or statement.treaty not in texts:
        raise Refused(Reason.FOREIGN, "evidence of another party or treaty")
    return statement


def contradict(first: Statement, second: Statement) -> bool:
    """Whether two verified `snapshot` statements name two logs or two states at one size."""
    one, two = first.body, second.body
    return all(one.get(k) == two.get(k) for k in ("rules", "size")) and one != two
