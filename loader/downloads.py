"""Downloads that several people watch: whoever asks for what is being fetched already joins it.

A download belongs to the process, not to a browser page: leaving the page does not lose what has come. It ends when
it is whole, fails, or nobody who asked for it wants it any more.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from loader import acceptance
from loader.errors import Cancelled
from loader.fetch import Progress, fetch_all
from loader.folders import Folders, Found, find
from loader.spec import Weights

SPEED_WINDOW_S = 5.0
Fetch = Callable[..., tuple[Found, ...]]


@dataclass(frozen=True)
class Snapshot:
    """How far a download is.

    Attributes:
        progress: of the file it is at, None before the first word.
        number: which of the files to fetch that is, from 1.
        count: how many there are to fetch.
        speed: bytes a second over the last seconds, 0 while unknown.
        seconds_left: for everything still to come, None while unknown.
        finished: nothing more will happen.
        error: why it ended early; ``Cancelled`` when it was stopped.
    """

    progress: Progress | None
    number: int
    count: int
    speed: float = 0.0
    seconds_left: float | None = None
    finished: bool = False
    error: BaseException | None = None


class Speed:
    """Bytes a second of what really came over the line. What a resumed download begins with did not."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._came = 0
        self._at: tuple[str, int] = ("", 0)
        self._seen: deque[tuple[float, int]] = deque()

    def see(self, progress: Progress) -> None:
        """Take note of a word about a download."""
        if progress.stage != "downloading":
            return
        where = f"{progress.file} {progress.source}"
        if self._at[0] == where and progress.done >= self._at[1]:
            self._came += progress.done - self._at[1]
        self._at = (where, progress.done)
        now = self._clock()
        self._seen.append((now, self._came))
        while now - self._seen[0][0] > SPEED_WINDOW_S:
            self._seen.popleft()

    def rate(self) -> float:
        """Bytes a second, 0 while too little was seen to tell."""
        if len(self._seen) < 2:
            return 0.0
        (first, had), (last, has) = self._seen[0], self._seen[-1]
        # Judged against now: a connection that stalls gets slower, not silent.
        return (has - had) / max(self._clock() - first, last - first, 1e-3)


class Download:
    """The files of one variant on their way, in a thread of their own."""

    def __init__(self, wanted: Sequence[Weights], folders: Folders, fetch: Fetch) -> None:
        self.wanted = tuple(wanted)
        self._folders, self._fetch = folders, fetch
        self._missing = [weights for weights in wanted if find(weights, folders) is None]
        self._sessions: set[str] = set()
        self._stop, self._done = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._speed = Speed()
        self._snapshot = Snapshot(None, 0, len(self._missing))
        self._thread = threading.Thread(target=self._work, name="weights for a page", daemon=True)

    @property
    def finished(self) -> bool:
        return self._done.is_set()

    @property
    def leaving(self) -> bool:
        """Whether it was told to stop."""
        return self._stop.is_set()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self, session: str) -> None:
        """One more who wants it."""
        with self._lock:
            self._sessions.add(session)

    def asked_by(self, session: str) -> bool:
        """Whether this session wants it."""
        with self._lock:
            return session in self._sessions

    def leave(self, session: str, *, for_all: bool = False) -> bool:
        """One less who wants it; without anyone left it stops, and what has come is kept.

        Args:
            session: who presses Stop.
            for_all: whoever may end it for everybody does.

        Returns:
            Whether it stops.
        """
        with self._lock:
            asked = session in self._sessions
            self._sessions.discard(session)
            if for_all or (asked and not self._sessions):
                self._sessions.clear()
                self._stop.set()
        return self._stop.is_set()

    def wait(self, timeout: float) -> bool:
        """Waits for the end; whether it has come."""
        return self._done.wait(timeout)

    def snapshot(self) -> Snapshot:
        """How far it is now."""
        with self._lock:
            state, rate = self._snapshot, self._speed.rate()
        if state.finished or state.progress is None or rate <= 0:
            return state
        here = state.progress
        left = (here.total or 0) - here.done if here.stage == "downloading" else 0
        left += sum(weights.bytes for weights in self._missing[state.number :])
        return replace(state, speed=rate, seconds_left=left / rate)

    def _work(self) -> None:
        error: BaseException | None = None
        try:
            self._fetch(self.wanted, self._folders, on_progress=self._hear, cancelled=self._stop.is_set)
        except BaseException as caught:  # noqa: BLE001 - told to whoever watches
            error = caught.with_traceback(None)
        with self._lock:
            self._snapshot = replace(self._snapshot, finished=True, error=error)
        self._done.set()

    def _hear(self, progress: Progress) -> None:
        numbers = {weights.file: number for number, weights in enumerate(self._missing, 1)}
        with self._lock:
            self._speed.see(progress)
            self._snapshot = replace(
                self._snapshot, progress=progress, number=numbers.get(progress.file, self._snapshot.number)
            )


class Downloads:
    """The downloads of one process, by the files they bring.

    Args:
        folders: where they go.
        fetch: what brings files; replaced in tests only.
    """

    def __init__(self, folders: Folders, fetch: Fetch = fetch_all) -> None:
        self._folders, self._fetch = folders, fetch
        self._running: dict[tuple[str, ...], Download] = {}
        self._lock = threading.Lock()

    def start(self, wanted: Sequence[Weights], accepted: Iterable[str], *, session: str) -> Download:
        """Fetch ``wanted``, or join whoever is fetching it.

        Raises:
            LicenceNotAcceptedError: this session has not accepted the terms of one of the files.
        """
        acceptance.require(wanted, accepted)
        with self._lock:
            current = self._running.get(_key(wanted))
            if current is None or current.finished or current.leaving:
                current = self._running[_key(wanted)] = Download(wanted, self._folders, self._fetch)
                current.join(session)
                current.start()
            else:
                current.join(session)
        return current

    def of(self, wanted: Sequence[Weights]) -> Download | None:
        """The download of exactly these files, running or last ended; None if there was none."""
        with self._lock:
            return self._running.get(_key(wanted))

    def busy_files(self) -> frozenset[str]:
        """Names of files that are on their way."""
        with self._lock:
            running = [download for download in self._running.values() if not download.finished]
        return frozenset(weights.file for download in running for weights in download.wanted)

    def close(self) -> None:
        """Stop everything and wait until it has ended."""
        with self._lock:
            running = list(self._running.values())
        for download in running:
            download.leave("", for_all=True)
        for download in running:
            download.wait(30)


def stopped(snapshot: Snapshot) -> bool:
    """Whether a download ended because it was stopped."""
    return isinstance(snapshot.error, Cancelled)


def _key(wanted: Sequence[Weights]) -> tuple[str, ...]:
    return tuple(weights.file for weights in wanted)
