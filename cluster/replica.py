"""One replica: an engine on the node it was put on, planning for that node."""

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import ray

from adapters import adapter
from cluster.board import NAME, NAMESPACE, Standing
from cluster.sendable import sendable
from loader.engine import Engine
from loader.errors import AnyhostError
from loader.folders import Folders
from loader.host import Host, load_host
from loader.measure import Store
from loader.microprobe import with_micro
from loader.outcome import Cancel, Result, Step
from loader.plan import Plan
from loader.probe import probe
from loader.process import limit_threads
from loader.tuning import Tuning
from loader.wishes import Wishes

POLL_SECONDS = 0.3
STEP_SECONDS = 0.1
ARRIVED = Step("arrived", 1, 1)
Kind = Literal["run", "tune"]
Item = Step | Result | Tuning | AnyhostError

_log = logging.getLogger(__name__)


def planning_host(real: Host, named: str) -> Host:
    """``real``, or a named host to plan as. One with an accelerator that is not here would plan what cannot run.

    Raises:
        InputError: there is no such host.
    """
    if not named:
        return real
    other = load_host(named)
    return replace(other, accelerators=real.accelerators, torch=real.torch, python=real.python, probed=True)


def thinned(items: Iterable[Item], clock: Callable[[], float] = time.monotonic) -> Iterator[Item]:
    """Without steps that follow another of their stage too closely: each costs two processes a millisecond or more.

    What a stage shows when it is done is never left out.
    """
    stage, last = "", clock()
    for item in items:
        if isinstance(item, Step):
            now = clock()
            shows = item.preview is not None and item.index == item.total
            if item.stage == stage and now - last < STEP_SECONDS and not shows:
                continue
            stage, last = item.stage, now
        yield item


class Replica:
    """What Ray Serve runs on a node. Its work is one request at a time, as on a single machine.

    Args:
        threads: processor cores this replica was given.
    """

    def __init__(self, threads: int) -> None:
        self.number = uuid.uuid4().hex[:8]
        self._board = ray.get_actor(NAME, namespace=NAMESPACE)
        folders = Folders.from_environ(os.environ)
        limit_threads(threads)
        real = with_micro(probe(cache_dir=folders.cache), folders.cache)
        host = planning_host(real, ray.get(self._board.plan_as.remote()))
        # Replicas of one node share its cache folder; what each learns of its own speed is its own.
        store = Store(folders.cache / f"learned-{host.name.replace(' ', '-')}-{threads}.json", host)
        self.engine = Engine(host, folders, store)
        self._standing = Standing(self.number, host, os.getpid())
        ray.get(self._board.register.remote(self._standing))

    def plan(self, name: str, wishes: Wishes) -> Plan:
        """This node's plan."""
        return self.engine.plan(adapter(name), wishes)

    def work(
        self, request_id: str, kind: Kind, name: str, words: tuple[Any, ...], settings: dict[str, Any]
    ) -> Iterator[tuple[str, Item]]:
        """Run one request, or tune: what the engine's method ``kind`` yields for ``words`` and ``settings``.

        Each item comes with this replica's number. An expected error is the last item.

        The first is no step but says that the request is here.
        """
        yield self.number, ARRIVED
        cancel, ended = Cancel(), threading.Event()
        watcher = threading.Thread(target=self._watch, args=(request_id, cancel, ended), daemon=True)
        watcher.start()
        try:
            begin = self.engine.run if kind == "run" else self.engine.tune
            for item in thinned(begin(adapter(name), *words, cancel=cancel, **settings)):
                yield self.number, item
        except AnyhostError as error:
            yield self.number, sendable(error)
        finally:
            ended.set()

    def _watch(self, request_id: str, cancel: Cancel, ended: threading.Event) -> None:
        """Stop is pressed in another process: the board is asked until the request ends."""
        while not ended.wait(POLL_SECONDS):
            if ray.get(self._board.stopped.remote(request_id)):
                cancel.request()
                return

    def check_health(self) -> None:
        """Asked by Ray Serve every few seconds; a replica that answers is well, and tells the board so."""
        self._board.register.remote(self._standing)
        if not Path(self.engine.folders.cache).parent.exists():
            raise RuntimeError(f"{self.engine.folders.cache} is gone: the node's disk was unmounted")
