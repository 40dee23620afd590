"""On ``PYTHONPATH`` of a rehearsed Space: nothing may be written outside the folders a Space can write to.

Root may write everywhere, so that file modes cannot stand in for a Space's user; Python's audit events can.
"""

import os
import sys

ROOTS = os.environ["GUARD_WRITABLE"].split(os.pathsep)
ALLOWED = (*(os.path.realpath(root) for root in ROOTS), "/dev", "/proc")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _check(path: object) -> None:
    if not isinstance(path, (str, bytes, os.PathLike)):
        return
    full = os.path.realpath(os.fsdecode(path))
    if not any(full == root or full.startswith(root + os.sep) for root in ALLOWED):
        sys.stderr.write(f"GUARD: {full} may not be written\n")
        raise PermissionError(13, "Permission denied", full)


def _hook(event: str, args: tuple[object, ...]) -> None:
    if event == "open":
        path, mode, flags = args
        if (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & WRITING):
            _check(path)
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate"):
        _check(args[0])
    elif event in ("os.rename", "os.link", "os.symlink"):
        _check(args[1])


sys.addaudithook(_hook)
