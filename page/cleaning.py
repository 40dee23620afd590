"""Visitors' files are gone an hour later, also those that no component of Gradio's knows of.

Gradio deletes what a component was given to show. What a request wrote beside that (data beside a clip, a clip that was
stopped, a saved bundle nobody fetched) lies in the same folder and is nobody's there; so are folders left empty.
"""

import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

import gradio as gr


def kept_always(page: gr.Blocks) -> frozenset[str]:
    """Files that belong to the page itself: its examples and icons."""
    return frozenset(str(file) for block in page.blocks.values() for file in getattr(block, "keep_in_cache", ()))


def clean(folder: Path, age: float, keep: Collection[str] = (), *, now: float | None = None) -> int:
    """Delete files below ``folder`` that last changed more than ``age`` seconds ago, and folders then empty.

    Args:
        folder: this process's own; nothing else may keep files there.
        age: seconds since a file's last change of content or name.
        keep: paths that stay.
        now: seconds since the epoch, the clock's if None.

    Returns:
        How many files were deleted.
    """
    before = (time.time() if now is None else now) - age
    gone = 0
    # Deepest first: a folder is looked at when what was in it has gone.
    for path in sorted(folder.rglob("*"), key=lambda p: len(p.parts), reverse=True):
        try:
            if path.lstat().st_ctime > before or str(path) in keep:
                continue
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()
                gone += 1
        except OSError:
            continue  # it is not empty, somebody else deleted it, or it is open (Windows): the next time
    return gone


class Cleaner:
    """Cleans a folder every now and then, in a thread that ends with the process.

    Args:
        folder: as ``clean``.
        every: seconds.
        age: as ``clean``.
        keep: as ``clean``.
        wait: sleeps, and says whether to stop.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: float,
        age: float,
        keep: Collection[str] = (),
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._folder, self._every, self._age, self._keep = folder, every, age, keep
        self._ended = threading.Event()
        self._wait = wait or self._ended.wait
        self._thread = threading.Thread(target=self._work, name="cleaner", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ended.set()

    def _work(self) -> None:
        while not self._wait(self._every):
            clean(self._folder, self._age, self._keep)
