"""The engine on a ZeroGPU Space: planned here, computed in a worker that the platform forks and gives a card.

What the platform's documentation and its ``spaces`` package (0.51) set: CUDA is an imitation in this process and real
only inside a function marked ``spaces.GPU``; that function runs in a fork, its arguments and results are pickled, and
what it changes in memory is lost with it; seconds asked for count against the visitor's daily quota, so as few as will
do are asked for; ``torch.compile`` is not available there (the plan knows).
"""

import math
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from adapters import adapter
from cluster.sendable import sendable
from loader.engine import Engine
from loader.errors import AnyhostError, DoesNotFitError, InputError
from loader.host import Host
from loader.outcome import Cancel, Result, Step
from loader.plan import Plan
from loader.spec import AdapterSpec
from loader.wishes import Wishes

Mark = Callable[..., Callable[[Callable[..., Any]], Callable[..., Any]]]
POLL_SECONDS = 0.3
LEAST_SECONDS, MOST_SECONDS = 15, 600
# The estimate may be half of what it takes; weights are read and moved first.
MARGIN, START_SECONDS = 1.5, 8.0


def seconds_wanted(made: Plan, items: int = 1) -> int:
    """How long a card is asked for: the plan's estimate with a margin, loading included; 15 s to 10 minutes."""
    weights = sum(p.bytes for p in made.components)
    computing = made.predicted_seconds * math.ceil(items / made.batch)
    wanted = computing * MARGIN + weights / (made.situation.host.disk_gbs * 1e9) + START_SECONDS
    return min(MOST_SECONDS, max(LEAST_SECONDS, math.ceil(wanted)))


def _removed(folder: Path, owner: int) -> None:
    """Remove ``folder``, but not in a worker, which inherits this and ends first."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


class ZeroGpuEngine:
    """Stands in for an ``Engine``: same planning, same ``run``, with the computing in the platform's workers.

    Args:
        engine: plans in this process; workers inherit it as it is when they are forked.
        mark: ``spaces.GPU``.
    """

    def __init__(self, engine: Engine, mark: Mark) -> None:
        self._engine = engine
        self._stops = Path(tempfile.mkdtemp(prefix="anyhost-stops-"))
        weakref.finalize(self, _removed, self._stops, os.getpid())

        # A function of its own, not a method: everything handed to it is pickled, and an engine cannot be.
        def work(
            _seconds: int, stop: Path, name: str, request: Any, wishes: Wishes, settings: dict[str, Any]
        ) -> Iterator[Step | Result | AnyhostError]:
            yield from in_worker(engine, stop, name, request, wishes, settings)

        self._on_card = mark(duration=lambda seconds, *_: seconds)(work)

    def __getattr__(self, name: str) -> Any:
        """Everything but running is the engine's: host, folders, plans, store, downloads."""
        return getattr(self._engine, name)

    @property
    def host(self) -> Host:
        return self._engine.host

    @property
    def accepted(self) -> frozenset[str]:
        return self._engine.accepted

    @accepted.setter
    def accepted(self, names: frozenset[str]) -> None:
        self._engine.accepted = names

    def preload(self, specs: tuple[AdapterSpec, ...]) -> None:
        """Place models whose weights are here, before the page is up: the platform keeps them at hand for workers."""
        for spec in specs:
            self._engine.preload(spec)

    def run(
        self,
        spec: AdapterSpec,
        request: Any,
        wishes: Wishes | None = None,
        *,
        cancel: Cancel | None = None,
        checkpoint: Path | None = None,
        **settings: Any,
    ) -> Generator[Step | Result, None, None]:
        """Run one request, as ``Engine.run`` does. Weights are fetched before a card is asked for."""
        wishes, cancel = wishes or Wishes(), cancel or Cancel()
        made = self._engine.plan(spec, wishes)
        if not made.fits:
            raise DoesNotFitError(made.refusal)
        if made.device == "cpu":
            yield from self._engine.run(spec, request, wishes, cancel=cancel, checkpoint=checkpoint, **settings)
            return
        on_card = self._run_on_card(spec, request, wishes, cancel, {**settings, "checkpoint": checkpoint})
        yield from self._engine.live.watching(spec.name, on_card)

    def _run_on_card(
        self, spec: AdapterSpec, request: Any, wishes: Wishes, cancel: Cancel, settings: dict[str, Any]
    ) -> Generator[Step | Result, None, None]:
        made = self._engine.plan(spec, wishes)
        if settings["checkpoint"] is None:
            made = yield from self._engine.fetch(spec, wishes, cancel, settings.get("accepted", frozenset()))
        seconds = seconds_wanted(made, max(1, getattr(request, "items", 1)))
        yield Step("asking_for_card", 0, 1, detail={"seconds": seconds})
        stop = self._stops / f"{time.monotonic_ns()}-{threading.get_ident()}"
        stream = self._on_card(seconds, stop, spec.name, request, wishes, settings)
        yield from self._followed(stream, stop, cancel)

    def tune(self, *_: Any, **__: Any) -> Generator[Step, None, None]:
        """Not here: every trial would come off a visitor's seconds.

        Raises:
            InputError: always.
        """
        raise InputError("trying plans out would use up the seconds on a card that a Space has for the day: not here")

    @staticmethod
    def _followed(
        stream: Iterator[Step | Result | AnyhostError], stop: Path, cancel: Cancel
    ) -> Generator[Step | Result, None, None]:
        ended = False
        try:
            for item in stream:
                if cancel.requested:
                    stop.touch()
                if isinstance(item, AnyhostError):
                    ended = True
                    raise item
                yield item
            ended = True
        finally:
            if not ended:
                stop.touch()
        stop.unlink(missing_ok=True)

    def close(self, name: str | None = None) -> None:
        self._engine.close(name)


def in_worker(
    engine: Engine, stop: Path, name: str, request: Any, wishes: Wishes, settings: dict[str, Any]
) -> Iterator[Step | Result | AnyhostError]:
    """One request in a worker. Stop arrives as a file: no event of another process reaches this one.

    Yields:
        What the engine yields; an expected error as the last item.
    """
    cancel, ended = Cancel(), threading.Event()

    def watch() -> None:
        while not ended.wait(POLL_SECONDS):
            if stop.exists():
                cancel.request()
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield from engine.run(adapter(name), request, wishes, cancel=cancel, **settings)
    except AnyhostError as error:
        yield sendable(error)
    finally:
        ended.set()
