"""The folder of a server for what visitors send and get: its own, gone when it ends, and cleared after a crash."""

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

PREFIX, LOCK, FILES = "anyhost-", ".in-use", "files"
END_S = 8.0  # a container is given ten seconds to end before it is killed


@contextmanager
def visitors_folder() -> Iterator[Path]:
    """A fresh folder below the one named by GRADIO_TEMP_DIR, or the system's; it is Gradio's from now on.

    Folders of servers that were killed are deleted: whoever lives holds a lock on its own.
    """
    around = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    around.mkdir(parents=True, exist_ok=True)
    for other in around.glob(f"{PREFIX}*"):
        if _abandoned(other):
            shutil.rmtree(other, ignore_errors=True)
    before = os.environ.get("GRADIO_TEMP_DIR")
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=around, ignore_cleanup_errors=True) as name:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(name, FILES))
        with Path(name, LOCK).open("wb") as lock:
            _locked(lock)
            try:
                yield Path(name)
            finally:
                if before is None:
                    del os.environ["GRADIO_TEMP_DIR"]
                else:
                    os.environ["GRADIO_TEMP_DIR"] = before


def _abandoned(folder: Path) -> bool:
    """Whether it is a server's folder and that server is no more."""
    try:
        with Path(folder, LOCK).open("r+b") as lock:
            return _locked(lock)
    except OSError:
        return False


def _locked(file: IO[bytes]) -> bool:
    """Take the lock, given back when the file is closed or the process ends; False where another has it, or unknown."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def leave_in(seconds: float, folder: Path) -> None:
    """End this process then, whatever still computes: a unit of work can take minutes, and nobody waits for it.

    Nothing is left half written: what matters is written beside its place and renamed.
    """

    def leave() -> None:
        time.sleep(seconds)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=leave, name="leave", daemon=True).start()
