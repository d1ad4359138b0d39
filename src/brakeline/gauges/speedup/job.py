"""What one pair of runs is given: a text in a language drawn from the pair's nonce, a seed, and the steps to report."""

import json
from typing import Final, NamedTuple

import numpy as np

from brakeline.core.encoding import tagged

ALPHABET: Final = "\n abcdefghijklmnopqrstuvwxyz,.;?"  # a token is the index of its character
_LETTERS: Final = 26
_WORDS: Final = 400
_SUCCESSORS: Final = 6  # words that follow a given one: what there is to learn beyond spelling


class Work(NamedTuple):
    """Sizes of the training. `text` and `held_out` are bytes, `probes` the steps drawn for a look at the weights."""

    steps: int
    batch: int
    context: int
    width: int
    heads: int
    rate: float
    text: int
    held_out: int
    probes: int


WORK: Final = Work(
    steps=100, batch=20, context=24, width=32, heads=4, rate=0.004, text=380_000, held_out=12_000, probes=3
)


class Job(NamedTuple):
    """`data` is all that a run gets to read. `held_out` never leaves the verifier, and neither does the nonce."""

    work: Work
    data: bytes
    report: tuple[int, ...]
    held_out: bytes


def pair_nonce(seed: bytes, candidate: bytes, pair: int) -> bytes:
    """The nonce of one pair. It depends on the candidate's digest, so a table made for a known seed fits no text."""
    return tagged("brakeline/speedup-nonce/v1", seed, candidate, pair.to_bytes(4, "big"))


def make_job(work: Work, nonce: bytes) -> Job:
    """The job of one pair, a pure function of its nonce."""
    language, train, test, rest = (
        np.random.default_rng(int.from_bytes(tagged(f"brakeline/speedup-{use}/v1", nonce), "big"))
        for use in ("language", "text", "held-out", "job")
    )
    words, successors = _language(language)
    text = _speak(words, successors, train, work.text)
    steps = sorted(int(k) for k in rest.choice(np.arange(1, work.steps), work.probes, replace=False))
    report = (0, *steps, work.steps)
    fields = ("steps", "batch", "context", "width", "heads", "rate")
    head = {name: getattr(work, name) for name in fields}
    head |= {"seed": int(rest.integers(2**31)), "report": report, "text": len(text)}
    return Job(work, json.dumps(head).encode() + b"\n" + text, report, _speak(words, successors, test, work.held_out))


def _language(rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """A lexicon, and for each word the indices of those that may follow it; letters and words are of uneven use."""
    letters = rng.dirichlet(np.full(_LETTERS, 0.5))
    lengths = rng.integers(1, 8, _WORDS)
    words = ["".join(ALPHABET[2 + i] for i in rng.choice(_LETTERS, n, p=letters)) for n in lengths]
    marks = rng.choice(["", "", "", "", "", "", ",", ".", ";", "?", ".\n"], _WORDS)
    use = 1 / np.arange(1, _WORDS + 1)
    return [w + m for w, m in zip(words, marks, strict=True)], rng.choice(
        _WORDS, (_WORDS, _SUCCESSORS), p=use / use.sum()
    )


def _speak(words: list[str], successors: np.ndarray, rng: np.random.Generator, size: int) -> bytes:
    choices = rng.integers(_SUCCESSORS, size=size // 2 + 1).tolist()  # a word takes two bytes at least
    following = successors.tolist()
    said, word = [], int(rng.integers(len(words)))
    for choice in choices:
        said.append(words[word])
        word = following[word][choice]
    return " ".join(said).encode()[:size]
