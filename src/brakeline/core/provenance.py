"""Where published weights come from, in the words of others: in-toto statements, and OpenSSF model signing.

An in-toto statement (v1) says of files, by their digests, that they are the end of a run, with the run's transcript as
its predicate. A party signs it with its statement key. OpenSSF model signing (v1.0) binds the same files together under
the key with which a publisher signs its models; its verifiers take the NIST curves and no Ed25519, so that key is
another one.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric import ec

from brakeline.core import words
from brakeline.core.dsse import envelope, pae
from brakeline.core.encoding import Wire, canonical, sha256
from brakeline.core.errors import Malformed, Misuse, Reason, Refused
from brakeline.core.keys import PrivateKey
from brakeline.core.state import State
from brakeline.core.state.events import Audited, Event
from brakeline.core.state.runs import Run
from brakeline.core.tlog.policy import Cosigned

TRANSCRIPT: Final = "urn:brakeline:transcript:v1"
_STATEMENT: Final = "https://in-toto.io/Statement/v1"
_PAYLOAD: Final = "application/vnd.in-toto+json"
_MODEL: Final = "https://model_signing/signature/v1.0"
_BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
_CURVES: Final[Mapping[str, type[hashes.HashAlgorithm]]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}

Files = Sequence[tuple[str, str]]  # name and SHA-256 (hex), by name


class Standing(NamedTuple):
    """Whether a run's end may be relied on, and the reason as `which …`."""

    answer: Literal["yes", "no", "not yet"]
    why: str


def standing(state: State, run: Run) -> Standing:
    """How a run's last head stands: passed by as many inspectors as the treaty asks, and undisputed, is a yes.

    Raises:
        Refused(MISSING): it has logged no head.
    """
    if run.head is None:
        raise Refused(Reason.MISSING, f"{run.name} has logged no head yet")
    if run.bar:
        return Standing("no", f"which is barred: {words.bar(run.bar)}")
    if run.head.status != "ended":
        return Standing("not yet", f"which was never ended: its last head says {run.head.status}")
    passed, alleged = passed_by(run), len(run.open_allegations)
    # An attested run, or one of no step, is settled without anybody having looked.
    if run.settlement != "settled" or not (passed or run.released is True):
        said = f"{words.count(alleged, 'finding')} against it" if alleged else "passed by "
        said += "" if alleged else f"{len(passed)} of {words.count(state.treaty.inspectors, 'inspector')}"
        return Standing("not yet", f"which is not settled yet: {said}")
    if not passed:  # Treaty 7.4: what was asked for later was owed no more
        return Standing("yes", "which is settled, and of which nothing is owed any more")
    return Standing("yes", f"which {words.count(len(passed), 'inspector')} passed: {', '.join(passed)}")


def passed_by(run: Run) -> tuple[str, ...]:
    """The inspectors whose newest audit passed the run's last head, by name."""
    last = run.heads[-1].index if run.heads else -1
    return tuple(sorted(i for i, x in run.examined.items() if x.head == last and x.verdict == "pass"))


class Verdict(Wire, frozen=True):
    """An audit in the log: `entry` is its own, `head` that of the head it went up to."""

    inspector: str
    entry: int
    head: int
    verdict: str


class Transcript(Wire, frozen=True):
    """Predicate `urn:brakeline:transcript:v1`: the files are the module `component` at the end of `run`.

    `run` is the digest of its declaration, `declared` the log entry that holds it. `head` is the entry of the run's
    last head, `root` that of its `steps + 1` leaves, `state` the digest in the last of them. `casts` are the types to
    which tensors were cast. `log` is the log's origin, `size`, `tree` and `time` (POSIX s) the cosigned checkpoint at
    which all this was so, under the treaty of the digest `treaty`. Digests are in hex.
    """

    run: str
    name: str
    declared: int
    recipe: str
    dataset: str
    head: int
    steps: int
    root: str
    state: str
    flop: str
    component: str
    casts: tuple[str, ...]
    settled: bool
    audits: tuple[Verdict, ...]
    treaty: str
    log: str
    size: int
    tree: str
    time: int


def transcript(
    state: State, run: Run, events: Iterable[Event], cosigned: Cosigned, component: str, casts: tuple[str, ...]
) -> Transcript:
    """What `state`, at the checkpoint `cosigned`, and the `events` up to it say of a run that has ended.

    Raises:
        Refused: BARRED, it is barred; MISSING, it has not ended, or is not settled.
    """
    how = standing(state, run)
    # Who reads a predicate may overlook that it says no.
    if how.answer != "yes" or run.head is None:
        reason = Reason.BARRED if how.answer == "no" else Reason.MISSING
        raise Refused(reason, f"nothing is signed of {run.name}, {how.why}")
    d, head = run.declaration, run.head
    audits = tuple(
        Verdict(inspector=e.inspector, entry=e.entry, head=e.audit.head, verdict=e.audit.verdict)
        for e in events
        if isinstance(e, Audited) and e.audit.run == run.id
    )
    return Transcript(
        run=run.id, name=run.name, declared=run.index, recipe=d.recipe, dataset=d.dataset,
        head=run.heads[-1].index, steps=head.steps, root=head.root, state=head.state, flop=head.flop,
        component=component, casts=casts, settled=True, audits=audits,
        treaty=state.ground.digest, log=state.chain.log.key.name,
        size=cosigned.checkpoint.size, tree=cosigned.checkpoint.root.hex(), time=cosigned.time,
    )  # fmt: skip


def signed_transcript(files: Files, predicate: Transcript, key: PrivateKey) -> bytes:
    """A DSSE envelope around the in-toto statement that `files` have this transcript, as JSON."""
    subject = [{"name": name, "digest": {"sha256": digest}} for name, digest in files]
    payload = _statement(subject, TRANSCRIPT, predicate)
    return canonical(envelope(_PAYLOAD, payload, [(key.public.id, key.sign(pae(_PAYLOAD, payload)))]))


def signed_model(name: str, files: Files, pem: bytes) -> bytes:
    """An OpenSSF model signature (v1.0, method `key`) over `files`, as a Sigstore bundle.

    `name` is the model's, `pem` a private key on P-256, P-384 or P-521, not encrypted.

    Raises:
        Malformed: it is no private key. Misuse: it is of another kind, or encrypted.
    """
    key, hash_ = _model_key(pem)
    resources = [{"name": n, "digest": digest, "algorithm": "sha256"} for n, digest in files]
    whole = sha256(*(bytes.fromhex(digest) for _, digest in files)).hex()
    how = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": []}
    subject = [{"name": name, "digest": {"sha256": whole}}]
    payload = _statement(subject, _MODEL, {"resources": resources, "serialization": how})
    public = key.public_key().public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo)
    material = {"publicKey": {"hint": sha256(public).hex()}, "tlogEntries": []}
    sealed = envelope(_PAYLOAD, payload, [("", key.sign(pae(_PAYLOAD, payload), ec.ECDSA(hash_)))])
    return canonical({"mediaType": _BUNDLE, "verificationMaterial": material, "dsseEnvelope": sealed})


def _statement(subject: Sequence[Mapping[str, Any]], kind: str, predicate: object) -> bytes:
    return canonical({"_type": _STATEMENT, "subject": subject, "predicateType": kind, "predicate": predicate})


def _model_key(pem: bytes) -> tuple[ec.EllipticCurvePrivateKey, hashes.HashAlgorithm]:
    hint = "openssl ecparam -name prime256v1 -genkey -noout -out model.pem"
    try:
        key = ser.load_pem_private_key(pem, None)
    except TypeError as e:
        raise Misuse("the key is encrypted", hint="openssl ec -in KEY -out PLAIN") from e
    except ValueError as e:
        raise Malformed("not a PEM private key", hint=hint) from e
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise Misuse("models are signed with a key on P-256, P-384 or P-521", hint=hint)
    return key, _CURVES[key.curve.name]()
