"""Permits: short leases on training, signed by a quorum of permit signers who each read the log themselves.

A permit is no statement of one issuer: the lab proposes the exact payload, every signer checks it against its own view
and signs those bytes, and the lab joins the signatures.
"""

from collections.abc import Mapping

from brakeline.core.encoding import Wire, decimal, parse
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.keys import PublicKey
from brakeline.core.statement import Envelope, open_envelope, signing_parties
from brakeline.core.treaty import Treaty

KIND = "permit"


class Permit(Wire, frozen=True):
    """Payload of a permit. Leave to train `run` until `expires` or until its compute reaches `flop_limit`.

    `size` and `root` name the checkpoint that the request was made at; `issued` is that checkpoint's quorum time.
    `nonce` is fresh for every request: it ties the answer to the question, so the lab's own clock is never asked.
    """

    treaty: str
    run: str
    epoch: int
    size: int
    root: str
    issued: int
    expires: int
    flop_limit: str
    nonce: str

    @property
    def limit(self) -> int:
        return decimal(self.flop_limit.encode(), bound=10**40)


def check_shape(permit: Permit, treaty: Treaty) -> None:
    """What signer and gate both check without a log.

    Raises:
        Refused: another treaty (FOREIGN), or a lifetime beyond the treaty's (ALLOWANCE).
    """
    if permit.treaty != treaty.digest:
        raise Refused(Reason.FOREIGN, "the permit belongs to another treaty")
    # Treaty 5.3
    if not 0 < permit.expires - permit.issued <= treaty.permit_lifetime:
        lasts = permit.expires - permit.issued
        raise Refused(
            Reason.ALLOWANCE, f"a permit of {lasts} s; the treaty allows {treaty.permit_lifetime} s (Treaty 5.3)"
        )
    if permit.limit < 1 or permit.epoch < 0 or permit.size < 0:
        raise Malformed("a permit's numbers are not negative, and it allows some compute")


def open_permit(data: bytes, treaty: Treaty, signers: Mapping[PublicKey, str]) -> tuple[Permit, Envelope]:
    """Parse a permit and verify its quorum. `signers` are the keys that sign permits under the treaty → party.

    Raises:
        Malformed: not a permit. Refused: FORGED, NO_QUORUM (Treaty 5.2), or as `check_shape`.
    """
    permit, envelope = read_permit(data)
    check_permit(permit, envelope, treaty, signers)
    return permit, envelope


def read_permit(data: bytes) -> tuple[Permit, Envelope]:
    """Parse a permit; its quorum is not verified.

    Raises:
        Malformed, Refused(FOREIGN): not a permit.
    """
    envelope = open_envelope(data)
    if envelope.kind != KIND:
        raise Refused(Reason.FOREIGN, f"a {envelope.kind} is not a permit")
    return parse(envelope.payload, Permit), envelope


def check_permit(permit: Permit, envelope: Envelope, treaty: Treaty, signers: Mapping[PublicKey, str]) -> None:
    """That a permit that was read is one. Raises as `open_permit`."""
    check_shape(permit, treaty)
    parties = signing_parties(envelope, signers)
    # Treaty 5.2
    if len(parties) < treaty.permit:
        raise Refused(
            Reason.NO_QUORUM, f"permit signed by {len(parties)} parties; {treaty.permit} are needed (Treaty 5.2)"
        )
