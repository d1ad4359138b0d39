"""What the sandbox starts: hold the process to one processor core for good, wait for the go, and become Python.

    python -P -m brakeline.gauges.speedup.launch CORE FOLDER PYTHON EXPOSED

FOLDER holds the candidate, PYTHON runs its `train.py`; the sandbox appends EXPOSED, what of it failed. Nothing of the
candidate's runs before the go, so the verifier's clock sees all of it: the interpreter's start, imports, everything.

A process may widen its own affinity, so a seccomp filter (seccomp(2)) takes `sched_setaffinity` away from it and from
all that it starts. With one core, work in other threads or processes is work in the timed one. The filter also takes
the kernel's keys (keyrings(7)) away, which outlive a run.
"""

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Sequence
from typing import Final

# <linux/prctl.h>, <linux/seccomp.h>, <linux/filter.h>, <linux/audit.h>
_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050001, 0x80000000  # refused with EPERM
# sched_setaffinity, add_key, request_key, keyctl
_SYSTEMS: Final = {
    "x86_64": (0xC000003E, (203, 248, 249, 250)),
    "aarch64": (0xC00000B7, (122, 217, 218, 219)),
}
_X32: Final = 0x40000000  # the second set of numbers that x86_64 takes

GO: Final = b"g"


def main(arguments: Sequence[str]) -> None:
    core, folder, python, exposed = arguments
    if not exposed:
        exposed = _hold(int(core))
    os.chdir(folder)
    sys.stdout.write(f"{exposed or 'ready'}\n")
    sys.stdout.flush()
    if os.read(0, 1) == GO:  # the job behind it stays in the pipe for the candidate
        os.execv(python, [python, "train.py"])


def _hold(core: int) -> str:
    """Stay on `core` for good. Returns why that failed, or ""."""
    try:
        os.sched_setaffinity(0, {core})
        system, forbidden = _SYSTEMS[platform.machine()]
    except (OSError, KeyError) as e:
        return f"cannot hold a process to one core: {e}"
    program = b"".join(
        struct.pack("HBBI", *line)
        for line in (
            (_LOAD, 0, 0, 4),  # struct seccomp_data: nr, arch
            (_JUMP_EQUAL, 1, 0, system),
            (_RETURN, 0, 0, _KILL),
            (_LOAD, 0, 0, 0),
            (_JUMP_AT_LEAST, len(forbidden) + 1, 0, _X32),
            *(
                (_JUMP_EQUAL, left, 0, number)
                for left, number in zip(range(len(forbidden), 0, -1), forbidden, strict=True)
            ),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _REFUSE),
        )
    )
    lines = ctypes.create_string_buffer(program, len(program))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(lines)), 16)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(_SET_SECCOMP, _FILTER, ctypes.c_ulong(ctypes.addressof(head)), 0, 0) != 0:
        return f"seccomp: {os.strerror(ctypes.get_errno())}"
    return ""


if __name__ == "__main__":
    main(sys.argv[1:])
