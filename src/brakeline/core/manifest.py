"""A manifest: what a run's evidence holds at one of its heads, signed by its lab and kept beside the evidence.

A copy that is old, torn or incomplete looks like one that was falsified. A signature over what belongs to it tells
them apart, so that an inspector fetches again instead of accusing. It is no statement: nothing of it is in the log, and
a lab that shows a false one has shown nothing.
"""

from collections.abc import Iterable
from typing import Final

from brakeline.core.encoding import Wire, b64decode, b64encode, canonical, parse, tagged, unhex32
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.keys import PrivateKey, PublicKey

MAX_LINE: Final = 1 << 22  # bytes


class Listed(Wire, frozen=True):
    """A file of the evidence, by its path there: its first `size` bytes have this SHA-256 (hex)."""

    path: str
    size: int
    digest: str


class Manifest(Wire, frozen=True):
    """What the evidence of `run` holds since the manifest before, at the head over `steps` steps with this `root`.

    A file that grows is listed as far as it went; a checkpoint by its list, which has the digest of each tensor.
    """

    run: str
    steps: int
    root: str
    files: tuple[Listed, ...]


class _Signed(Wire, frozen=True):
    manifest: Manifest
    signature: str


def _message(manifest: Manifest) -> bytes:
    return tagged("brakeline/manifest/v1", canonical(manifest))


def seal(manifest: Manifest, key: PrivateKey) -> bytes:
    """One line, without its end."""
    return canonical(_Signed(manifest=manifest, signature=b64encode(key.sign(_message(manifest)))))


def open_manifest(line: bytes, keys: Iterable[PublicKey]) -> Manifest:
    """The manifest in a line.

    Raises:
        Malformed: it is none. Refused(FORGED): none of `keys` has signed it.
    """
    if len(line) > MAX_LINE:
        raise Malformed(f"a manifest has at most {MAX_LINE} bytes")
    it = parse(line, _Signed)
    for digest in (it.manifest.root, *(f.digest for f in it.manifest.files)):
        unhex32(digest)
    if it.manifest.steps < 0 or any(f.size < 0 for f in it.manifest.files):
        raise Malformed("a manifest counts from 0")
    signature, message = b64decode(it.signature), _message(it.manifest)
    if not any(key.verify(signature, message) for key in keys):
        raise Refused(Reason.FORGED, "the manifest is not signed by the run's lab")
    return it.manifest
