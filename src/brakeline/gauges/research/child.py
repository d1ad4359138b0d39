"""An experiment's process: a method with features and weak labels, without the hidden labels and without the scorer.

    python -P -m brakeline.gauges.research.child CPU_SECONDS BYTES EXPOSED

It is started in the sandbox of `brakeline.node.sandbox`, which appends EXPOSED: what of the sandbox failed here. There
is no network, and neither the hidden labels nor the installed data sets, from which they could be looked up, are seen.

Each experiment gets a process of its own, forked from this one, which has nothing but its libraries loaded. In it,
before the method runs, processor time and memory are limited, and whatever opens a file or a socket, starts a process
or loads a library is refused for good. The hidden labels are in another process.

In on stdin, out on stdout: frames of an 8-byte length and so many bytes. First out: EXPOSED. Then in: the method as
JSON, then the arrays of each seed's `Seen` as `.npz`. Out: processor seconds as text, then `A` and the answers [seeds,
items] as `.npy`, or `E` and what went wrong, or nothing when the process was killed.

Where the sandbox fails, what is refused here is the fence that is left. It holds methods that are data; it would not
hold code that somebody wrote to break out.
"""

import gc
import io
import os
import resource
import sys
import warnings
from typing import IO, Final

import numpy as np

from brakeline.core.encoding import parse_json
from brakeline.gauges.research.methods import Seen, answer, read_method

_FORBIDDEN: Final = ("open", "import", "socket.", "subprocess.", "os.", "ctypes.dlopen", "shutil.", "glob.", "pty.")


def write_frame(stream: IO[bytes], data: bytes) -> None:
    stream.write(len(data).to_bytes(8, "big") + data)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes | None:
    """None: the other side is gone."""
    size = stream.read(8)
    if len(size) < 8:
        return None
    data = stream.read(int.from_bytes(size, "big"))
    return data if len(data) == int.from_bytes(size, "big") else None


def guard(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook (PEP 578): nothing in the process can take it off again."""
    if event.startswith(_FORBIDDEN):
        raise PermissionError(f"an experiment may not: {event}")


def main() -> None:
    seconds, size = (int(word) for word in sys.argv[1:3])
    write_frame(sys.stdout.buffer, sys.argv[3].encode("utf-8", "replace")[:300])
    warnings.simplefilter("ignore")  # to print one, Python opens the source
    while (method := read_frame(sys.stdin.buffer)) is not None:
        arrays = read_frame(sys.stdin.buffer)
        if arrays is None:
            return
        said, used = _forked(method, arrays, seconds, size)
        write_frame(sys.stdout.buffer, f"{used:.3f}".encode())
        write_frame(sys.stdout.buffer, said)


def _forked(method: bytes, arrays: bytes, seconds: int, size: int) -> tuple[bytes, float]:
    """What the experiment's process said, and the processor seconds it used."""
    ours, theirs = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(ours)
        with open(theirs, "wb") as out:
            try:
                out.write(b"A" + _experiment(method, arrays, seconds, size))
            except BaseException as e:
                out.write(f"E{type(e).__name__}: {e}".encode()[:500])
            out.flush()
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as answers:
        said = answers.read()
    _, _, usage = os.wait4(process, 0)
    return said, usage.ru_utime + usage.ru_stime


def _experiment(method: bytes, arrays: bytes, seconds: int, size: int) -> bytes:
    chosen = read_method(parse_json(method))
    with np.load(io.BytesIO(arrays), allow_pickle=False) as given:
        count = len(given) // len(Seen._fields)
        tasks = [Seen(*(given[f"{field}{i}"] for field in Seen._fields)) for i in range(count)]
    answer(chosen, _meaningless())  # whatever the libraries load on first use, they load now
    gc.collect()
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    sys.addaudithook(guard)
    said = np.stack([answer(chosen, seen) for seen in tasks]).astype("<i2")
    out = io.BytesIO()
    np.save(out, said, allow_pickle=False)
    return out.getvalue()


def _meaningless() -> Seen:
    rng = np.random.default_rng(0)
    return Seen(rng.random((80, 30)), rng.dirichlet(np.ones(2), 80), rng.random((4, 30)))


if __name__ == "__main__":
    main()
