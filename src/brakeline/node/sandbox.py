"""A sandbox for code nobody trusts: run a command that reads little, writes nothing and reaches nobody.

    python -P -m brakeline.node.sandbox SCRATCH [--bytes N] [--hide FOLDER]... [--only [--show PATH]...] -- COMMAND...

COMMAND runs in Linux namespaces of its own (user, mount, PID, network, IPC, host name): every file system is read-only
but for an empty SCRATCH in memory, of N bytes at most, the hidden folders and /run are empty, there is no network but a
loopback of its own, no process outside can be seen, signalled or traced, and no capability is left to undo any of it.
With `--only` it sees of the disk no more than the system's programs and libraries, Python's, its working folder, and
what is shown. Files that it writes elsewhere, through what it was handed, are as long as SCRATCH at most, and where
memory runs out the kernel ends it first. COMMAND gets one more argument: why part of this failed, or "" when nothing
did. Without it COMMAND runs all the same: the caller decides.

SIGTERM to this process kills COMMAND; with the namespaces, all its descendants die with it.

What this cannot do: without `--only`, hide what lies outside the hidden folders and is readable for the user; hide a
file's contents under a second name; guard Unix sockets outside /run; limit memory, time or processors, to which whoever
starts it sees; withstand a hole in the kernel.
"""

import argparse
import ctypes
import fcntl
import os
import re
import resource
import signal
import socket
import stat
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final

# <linux/sched.h>: user, mount, PID, network, IPC, UTS. <linux/mount.h>, <linux/prctl.h>, <linux/capability.h>
_NAMESPACES: Final = 0x10000000 | 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000
_RDONLY, _NOSUID, _NODEV, _BIND, _REC, _PRIVATE = 0x1, 0x2, 0x4, 0x1000, 0x4000, 0x40000
_SYS_MOUNT_SETATTR: Final = 442  # the same number on every architecture since Linux 5.12
_AT_FDCWD, _AT_RECURSIVE, _ATTR_RDONLY = -100, 0x8000, 0x1
_PDEATHSIG, _NO_NEW_PRIVS, _CAPABILITY_VERSION = 1, 38, 0x20080522
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1
# What programs need of a machine, and what says nothing of whom it belongs to.
_SYSTEM: Final = {"bin", "dev", "gnu", "lib", "lib32", "lib64", "libx32", "nix", "proc", "sbin", "sys", "usr"}
_ETC: Final = (
    *("alternatives", "group", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "nsswitch.conf"),
    *("os-release", "passwd", "timezone"),
)
_DEVICES: Final = re.compile(r"null|zero|full|u?random|tty|nvidia.*|dri|kfd|dxg")  # no disk, whoever the user is


def die_with_parent(number: int) -> None:
    """Get this signal when whoever started this process is gone. Linux; elsewhere nothing."""
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(_PDEATHSIG, number, 0, 0, 0)


def _asked(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="brakeline.node.sandbox")
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--bytes", type=int, default=0)
    parser.add_argument("--hide", type=Path, action="append", default=[])
    parser.add_argument("--only", action="store_true")
    parser.add_argument("--show", type=Path, action="append", default=[])
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    cut = arguments.index("--")
    asked, command = _asked(arguments[:cut]), arguments[cut + 1 :]
    libc = ctypes.CDLL(None, use_errno=True)
    missing = ""
    try:
        _limit(asked.bytes)
        _enclose(libc, asked)
    except (OSError, AttributeError) as e:  # AttributeError: not Linux
        missing = str(e) or type(e).__name__
    inner = 0

    def kill(number: int, frame: FrameType | None) -> None:
        if not inner:
            os._exit(1)
        os.kill(inner, signal.SIGKILL)

    signal.signal(signal.SIGTERM, kill)
    die_with_parent(signal.SIGTERM)
    inner = os.fork()  # the first process of the PID namespace, whose end ends all others in it
    if inner == 0:
        try:
            try:
                if not missing:
                    _renounce(libc)
            except OSError as e:
                missing = str(e)
            os.execv(command[0], [*command, missing])
        except OSError as e:
            print(f"{command[0]}: {e.strerror}", file=sys.stderr, flush=True)
        finally:
            os._exit(127)
    _, status = os.waitpid(inner, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _limit(size: int) -> None:
    Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if size:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _enclose(libc: ctypes.CDLL, asked: argparse.Namespace) -> None:
    uid, gid, here = os.geteuid(), os.getegid(), Path.cwd()
    _do("unshare", libc.unshare(_NAMESPACES))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    socket.sethostname("sandbox")
    _mount(libc, None, Path("/"), None, _REC | _PRIVATE)
    _hide(libc, Path("/dev"), [path for path in Path("/dev").iterdir() if _DEVICES.fullmatch(path.name)])
    (Path("/dev") / "shm").mkdir()
    (Path("/dev") / "fd").symlink_to("/proc/self/fd")
    python = (sys.prefix, sys.base_prefix, *sys.path)
    needed = [Path(path).resolve() for path in (str(asked.scratch.parent), *python)]
    shown = [path for path in needed if path.is_dir()]
    hidden = [*asked.hide, Path("/run")]
    if asked.only:
        shown += [path.resolve() for path in asked.show]
        shown += [path for path in (Path("/etc") / name for name in _ETC) if path.exists()]
        tops = (path for path in Path("/").iterdir() if path.name not in _SYSTEM and not path.is_symlink())
        hidden += [path for path in tops if path.is_dir() and path not in shown]
    # Outer folders first. One inside another is gone by then, or is seen again through what is shown, and hidden there.
    for folder in sorted({path.resolve() for path in hidden}):
        if folder.is_dir():
            _hide(libc, folder, shown)
    _do("mount_setattr", libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, *_readonly()))
    for folder in (asked.scratch, Path("/dev/shm")):
        _mount(libc, "tmpfs", folder, "tmpfs", _NOSUID | _NODEV, asked.bytes)
    os.chdir(here)  # as it is seen now, not through what was covered
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def _hide(libc: ctypes.CDLL, folder: Path, shown: Sequence[Path]) -> None:
    """Cover `folder` with an empty one, through which only those of `shown` are seen that lie inside."""
    files = {path: os.open(path, os.O_PATH) for path in sorted(set(shown)) if folder in path.parents}
    _mount(libc, "tmpfs", folder, "tmpfs", _NOSUID)
    for path, file in files.items():
        if stat.S_ISDIR(os.fstat(file).st_mode):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.touch()
        _mount(libc, f"/proc/self/fd/{file}", path, None, _BIND | _REC)
        os.close(file)


def _renounce(libc: ctypes.CDLL) -> None:
    """In the first process of the namespaces: see no other's processes, and give up every capability for good."""
    with suppress(OSError):  # a container that masks parts of /proc forbids it: then names are seen, and no more
        _mount(libc, "proc", Path("/proc"), "proc", _RDONLY)
    _do("prctl", libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    _do("prctl", libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
    _do("capset", libc.capset(struct.pack("II", _CAPABILITY_VERSION, 0), bytes(24)))


def _readonly() -> tuple[bytes, ctypes.c_size_t]:
    attributes = struct.pack("QQQQ", _ATTR_RDONLY, 0, 0, 0)  # struct mount_attr: set, clear, propagation, userns
    return attributes, ctypes.c_size_t(len(attributes))


def _mount(
    libc: ctypes.CDLL, source: str | None, target: Path, kind: str | None, flags: int, size: int = 0
) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, str(target), kind)]
    mode = f"mode=0755{f',size={size}' * bool(size)}".encode() if kind == "tmpfs" else None
    _do(f"mount {target}", libc.mount(*encoded, ctypes.c_ulong(flags), mode))


def _do(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
