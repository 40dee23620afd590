"""A bench asked for on the page: ``app.py bench`` in a process of its own, in turn with visitors' requests.

One at a time. It has the lane of its device like a request, and lets everybody who waits go first between two pieces
of its work (a round, a peak, a preparation), which take seconds.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bench.rows import Asked, Progress, Report
from loader.codec import from_plain
from loader.engine import Engine
from loader.errors import AnyhostError
from loader.lanes import Lane, Ticket
from loader.outcome import Cancel

APP = Path(__file__).parents[1] / "app.py"
ASK_S = 0.2  # how often a bench that waits looks whether it is its turn
PIECE_S = 5.0  # what a piece of work takes about, for those who wait
STOP_S = 5.0  # how long stopping waits for what was killed
SESSION = "bench"
State = Literal["idle", "waiting", "running", "done", "stopped", "failed"]
Refusal = Literal["", "running", "busy"]


@dataclass(frozen=True)
class Snapshot:
    """Where the last bench stands.

    Attributes:
        state: "waiting" while visitors go first.
        number: goes up with everything that changes.
        asked: what it measures.
        progress: the last that was heard.
        report: at the end.
        error: why it failed.
    """

    state: State = "idle"
    number: int = 0
    asked: Asked | None = None
    progress: Progress | None = None
    report: Report | None = None
    error: str = ""

    @property
    def going_on(self) -> bool:
        return self.state in ("waiting", "running")


class Benches:
    """The one bench of a machine, whoever looks at it.

    Args:
        engine: whose lanes it waits in, and whose folders it reads.
        command: what stands in for ``app.py`` in tests.
    """

    def __init__(self, engine: Engine, command: Sequence[str] = (str(APP),)) -> None:
        self._engine, self._command = engine, tuple(command)
        self._lock = threading.Lock()
        self._now = Snapshot()
        self._reports: dict[str, Report] = {}
        self._cancel = Cancel()
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None

    def snapshot(self) -> Snapshot:
        """As it is now."""
        return self._now

    def report_of(self, adapter: str) -> Report | None:
        """The last whole one of an adapter since this process began."""
        return self._reports.get(adapter)

    def start(self, asked: Asked, device: str) -> Refusal:
        """Begin on the lane of ``device``; "running" or "busy" says why not."""
        lane = self._engine.lane(device)
        with self._lock:
            if self._now.going_on:
                return "running"
            if lane.locked() or lane.waiting:
                return "busy"
            self._cancel = Cancel()
            self._now = Snapshot("waiting", self._now.number + 1, asked)
        self._thread = threading.Thread(target=self._run, args=(asked, lane, self._cancel), name="bench", daemon=True)
        self._thread.start()
        return ""

    def stop(self) -> None:
        """End it now, with every process of it."""
        self._cancel.request()
        process = self._process
        if process is not None:
            _kill(process)
        if self._thread is not None:
            self._thread.join(STOP_S)

    # --- the thread

    def _run(self, asked: Asked, lane: Lane, cancel: Cancel) -> None:
        turn = _Turn(lane, cancel)
        try:
            if self._wait(turn):
                self._work(asked, turn, cancel)
        except (AnyhostError, OSError, ValueError, KeyError) as error:
            self._end("failed", error=f"{type(error).__name__}: {error}")
        finally:
            turn.leave()
            if self._now.going_on:
                self._end("failed")

    def _wait(self, turn: "_Turn") -> bool:
        """Whether its turn came before it was stopped."""
        if turn.mine():
            return True
        self._tell(state="waiting")
        came = turn.come()
        self._tell(state="running")
        return came

    def _work(self, asked: Asked, turn: "_Turn", cancel: Cancel) -> None:
        with subprocess.Popen(
            [sys.executable, *self._command, *words_of(asked), "--lines"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "ANYHOST_CACHE": str(self._engine.folders.cache)},
            start_new_session=True,  # so that its own processes end with it
        ) as process:
            self._process = process
            try:
                assert process.stdin is not None, "it was piped"
                assert process.stdout is not None, "it was piped"
                if cancel.requested:
                    return
                for line in process.stdout:
                    self._heard(json.loads(line))
                    if not self._now.going_on or not self._wait(turn):
                        return
                    process.stdin.write("\n")
                    process.stdin.flush()
                self._end("failed", error=f"exit code {process.wait()}")
            finally:
                _kill(process)
                self._process = None

    def _heard(self, said: Mapping[str, Any]) -> None:
        if "progress" in said:
            self._tell(state="running", progress=from_plain(Progress, said["progress"]))
        elif "report" in said:
            report = from_plain(Report, said["report"])
            self._reports |= {row.adapter: report for row in report.rows}
            self._end("done", report=report)
        else:
            self._end("failed", error=str(said["error"]))

    def _end(self, state: State, **changes: Any) -> None:
        self._tell(state="stopped" if self._cancel.requested else state, **changes)

    def _tell(self, **changes: Any) -> None:
        with self._lock:
            self._now = replace(self._now, number=self._now.number + 1, **changes)


class _Turn:
    """Its place in a lane: given up as soon as somebody else waits, and waited for again."""

    def __init__(self, lane: Lane, cancel: Cancel) -> None:
        self._lane, self._cancel = lane, cancel
        self._ticket: Ticket | None = None

    def mine(self) -> bool:
        """Whether it has the lane and nobody wants it."""
        return self._ticket is not None and not self._lane.waiting

    def come(self) -> bool:
        """Let others go first, then wait for the lane; False where it was stopped meanwhile."""
        self.leave()
        self._ticket = self._lane.join(SESSION, PIECE_S)
        while not self._ticket.taken(ASK_S):
            if self._cancel.requested:
                return False
        return True

    def leave(self) -> None:
        if self._ticket is not None:
            self._ticket.leave()
            self._ticket = None


def words_of(asked: Asked) -> list[str]:
    """What ``app.py`` is called with for it."""
    words = ["bench", asked.adapter, "--batch", ",".join(map(str, asked.batches)), "--repeats", str(asked.repeats)]
    words += ["--variant", asked.variant] if asked.variant else []
    words += ["--size", f"{asked.size[0]}x{asked.size[1]}"] if asked.size else []
    flags = {
        "--compile": asked.compiled,
        "--peers": asked.peers,
        "--quick": not asked.peaks,
        "--no-limits": asked.peaks and not asked.limits,
    }
    return words + [flag for flag, wanted in flags.items() if wanted]


def _kill(process: "subprocess.Popen[str]") -> None:
    """End a process with all that it started; nothing where it has ended."""
    if process.poll() is not None:
        return
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except ProcessLookupError:
        return
