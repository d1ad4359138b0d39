"""A snapshot: what permit signers say the state is, so that a newcomer may start from it. Treaty 6.6."""

from brakeline.core.encoding import Wire


class Snapshot(Wire, frozen=True):
    """Body of a `snapshot`: after `size` entries under `root`, the state by these `rules` has the digest `state`.

    Digests are hex SHA-256.
    """

    rules: int
    size: int
    root: str
    state: str
