"""Working through a folder: every input's outputs exactly once, whatever interrupts it.

An input's outputs are written to a folder of their own beside the results and renamed into place when complete; a
rename cannot happen by half. A ledger says what was done and what failed, and why; a second run goes on where the
first ended.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from kit.exports import OutputError
from loader.errors import AnyhostError, Cancelled, InputError

LEDGER = "batch.jsonl"
PARTIAL = ".partial"

Work = Callable[[Path, Path], list[dict[str, Any]]]
"""Turns an input into files in a folder; returns the output records."""


@dataclass(frozen=True)
class Entry:
    """One input and what became of it.

    Attributes:
        input: its path below the folder of inputs, with forward slashes.
        bytes: its size and ``modified`` its time of change in nanoseconds: a changed input is a new one.
        settings: what it was worked on with; other settings do it again.
        error: why it failed, "" otherwise.
        outputs: the records of the job, files as paths below the folder of outputs.
    """

    input: str
    bytes: int
    modified: int
    settings: str
    state: Literal["done", "failed"]
    error: str = ""
    outputs: tuple[Mapping[str, Any], ...] = field(default=())

    def covers(self, other: "Entry") -> bool:
        """Whether this is the same input with the same settings."""
        mine = (self.input, self.bytes, self.modified, self.settings)
        return mine == (other.input, other.bytes, other.modified, other.settings)


class Ledger:
    """What was done, one JSON line an input; a line cut off by a crash is not there."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEDGER
        self.entries: dict[str, Entry] = {}
        for line in self._lines():
            try:
                plain = json.loads(line)
                entry = Entry(**{**plain, "outputs": tuple(plain["outputs"])})
            except (ValueError, TypeError, KeyError):
                continue
            self.entries[entry.input] = entry

    def _lines(self) -> list[str]:
        try:
            return self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise OutputError(f"{self.path} cannot be read ({error.strerror}): choose another --out") from error

    def add(self, entry: Entry) -> None:
        """Write an entry to the disk before anything else is begun.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                # A line that a crash cut off must not swallow this one.
                file.write(("" if self._ends_clean() else "\n") + json.dumps(asdict(entry), ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written ({error.strerror}): free space and run again") from error
        self.entries[entry.input] = entry

    def _ends_clean(self) -> bool:
        if not self.path.exists() or not self.path.stat().st_size:
            return True
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


def inputs_in(folder: Path, out: Path) -> list[Path]:
    """Every visible file below ``folder`` but those below ``out``, in the order of their names.

    Raises:
        InputError: no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give the folder of inputs")
    root, kept = folder.resolve(), out.resolve()
    found = [
        path
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and kept not in path.parents
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    if not found:
        raise InputError(f"{folder} holds no files")
    return found


@dataclass(frozen=True)
class Task:
    """An input still to be worked on, and where its outputs go."""

    path: Path
    entry: Entry
    partial: Path
    final: Path


def tasks(folder: Path, out: Path, settings: str, *, retry: bool) -> tuple[Ledger, list[Task]]:
    """What is left to do, and the ledger. Leftovers of an interrupted run are removed.

    An input whose outputs are in place but that the ledger lacks was finished in the moment of the interruption: it is
    entered now.

    Args:
        folder: of inputs.
        out: of outputs; made here.
        settings: adapter, wishes and options in one text.
        retry: do failed inputs again.

    Raises:
        InputError: nothing to work on.
        OutputError: ``out`` cannot be written.
    """
    found = inputs_in(folder, out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(out / PARTIAL, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error.strerror}): choose another --out") from error
    ledger = Ledger(out)
    left: list[Task] = []
    for number, path in enumerate(found):
        status = path.stat()
        name = path.relative_to(folder.resolve()).as_posix()
        entry = Entry(name, status.st_size, status.st_mtime_ns, settings, "done")
        before = ledger.entries.get(name)
        if before and before.covers(entry) and (before.state == "done" or not retry):
            continue
        task = Task(path, entry, out / PARTIAL / f"{number:06d}", out / name)
        if _stamp(task.final) == _mark(entry):
            ledger.add(entry)
            continue
        left.append(task)
    return ledger, left


_STAMP = ".settings"


def _mark(entry: Entry) -> str:
    return json.dumps([entry.bytes, entry.modified, entry.settings])


def _stamp(folder: Path) -> str:
    try:
        return (folder / _STAMP).read_text(encoding="utf-8")
    except OSError:
        return ""


def finish(task: Task, work: Work) -> Entry:
    """Work on one input and put its outputs in place; a failure of the input is an entry, not an exception.

    Raises:
        OutputError: outputs cannot be written: that ends the whole run, since the next would fail alike.
        Cancelled: stopped.
    """
    try:
        task.partial.mkdir(parents=True)
        records = work(task.path, task.partial)
        (task.partial / _STAMP).write_text(_mark(task.entry), encoding="utf-8")
        if task.final.exists():  # of other settings, or of an input that has changed
            shutil.rmtree(task.final)
        task.final.parent.mkdir(parents=True, exist_ok=True)
        task.partial.rename(task.final)
    except (Cancelled, OutputError):
        raise
    except AnyhostError as error:
        shutil.rmtree(task.partial, ignore_errors=True)
        plain = asdict(task.entry) | {"state": "failed", "error": str(error)}
        return Entry(**plain)
    except OSError as error:
        raise OutputError(f"{task.final} cannot be written ({error.strerror}): free space and run again") from error
    moved = tuple(_moved(record, task) for record in records)
    return Entry(**(asdict(task.entry) | {"outputs": moved}))


def _moved(record: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """``record`` with its files where they are now, relative to the folder of outputs."""
    root = task.partial.parents[1]
    files = [
        (task.final / Path(file).relative_to(task.partial)).relative_to(root).as_posix()
        for file in record.get("files", ())
    ]
    return {**record, "files": files}


def work_through(left: Sequence[Task], ledger: Ledger, work: Work, *, workers: int = 1) -> Iterator[Entry]:
    """Work on all of ``left`` with ``workers`` at a time and enter each; yields entries as they come.

    Raises:
        OutputError: see ``finish``; what was finished before stays.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="folder")
    waiting = iter(left)
    running: set[Future[Entry]] = set()
    try:
        while True:
            while len(running) < workers and (task := next(waiting, None)) is not None:
                running.add(pool.submit(finish, task, work))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                entry = future.result()
                ledger.add(entry)
                yield entry
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for task in left[:1]:
            shutil.rmtree(task.partial.parent, ignore_errors=True)
