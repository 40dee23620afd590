"""The cluster as the page and the commands see it: an engine whose work is done by replicas."""

import math
import threading
import uuid
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import ray
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from cluster.board import Standing
from cluster.gate import Gate
from loader.downloads import Downloads
from loader.errors import AnyhostError, InputError, RunError
from loader.folders import Folders
from loader.host import Host
from loader.live import Live
from loader.outcome import Cancel, Result, Step, TraceEntry
from loader.plan import Plan
from loader.residency import Residency
from loader.spec import AdapterSpec
from loader.tuning import Trials, Tuning
from loader.wishes import Wishes

TRIES = 3
POLL_SECONDS = 0.3
CHOOSING_SECONDS = 2.0  # one replica that does not answer must not hold up the others for longer


@dataclass(frozen=True)
class _Job:
    """What a replica's engine is asked for: its method, and what that is given."""

    kind: Literal["run", "tune"]
    spec: AdapterSpec
    words: tuple[Any, ...]
    settings: dict[str, Any]


class ClusterEngine:
    """Plans and runs on replicas. A request whose replica dies is begun anew on another: it costs time, nothing else.

    Args:
        handle: of the deployment.
        board: the actor with what replicas tell.
        folders: where this process looks for weights and keeps files; shared with the nodes.

    Attributes:
        gate: where requests wait.
        live: what all replicas did for this process.
        residency: of this process, which holds no weights.
    """

    def __init__(self, handle: DeploymentHandle, board: Any, folders: Folders) -> None:
        self._handle, self._board, self.folders = handle, board, folders
        self.accepted: frozenset[str] = frozenset()
        self.downloads = Downloads(folders)
        self.gate = Gate(lambda: len(self.standing()))
        self._choosing = threading.Lock()
        self.live, self.residency = Live(), Residency(self.host)

    @property
    def host(self) -> Host:
        """The machine of the first replica, with how many there are in its title."""
        standing = self.standing()
        if not standing:
            raise RunError("no replica is up: see the cluster's log")
        first = standing[0].host
        return replace(first, title=f"{len(standing)} × {first.title}") if len(standing) > 1 else first

    def standing(self) -> tuple[Standing, ...]:
        """Replicas that are up and the machines they plan for."""
        found: tuple[Standing, ...] = ray.get(self._board.standing.remote())
        return found

    def plan(self, spec: AdapterSpec, wishes: Wishes) -> Plan:
        """The plan of whichever replica answers: the one that would take the next request."""
        made: Plan = self._handle.plan.remote(spec.name, wishes).result()
        return made

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
        """Run one request on a replica, as ``Engine.run`` does on one machine; raises what that raises.

        Raises:
            QueueFullError: as many requests wait as may.
            RunError: three replicas died over it.
        """
        if checkpoint is not None:
            raise InputError("own checkpoints run on one machine: start the page without --ray for them")
        settings["accepted"] = self.accepted | settings.get("accepted", frozenset())
        job = _Job("run", spec, (request, wishes or Wishes()), settings)
        work: Generator[Step | Result, None, None] = self._through_gate(job, cancel or Cancel())
        yield from self.live.watching(spec.name, work)

    def tune(
        self,
        spec: AdapterSpec,
        wishes: Wishes | None = None,
        trials: Trials | None = None,
        *,
        cancel: Cancel | None = None,
        session: str = "",
    ) -> Generator[Step | Tuning, None, None]:
        """``Engine.tune`` on one replica: what it finds holds for that one's node."""
        job = _Job("tune", spec, (wishes or Wishes(), trials or Trials()), {"session": session})
        work: Generator[Step | Tuning, None, None] = self._through_gate(job, cancel or Cancel())
        yield from work

    def _through_gate(self, job: "_Job", cancel: Cancel) -> Generator[Any, None, None]:
        yield from self.gate.enter(job.settings.get("session", ""), lambda: self._expected_seconds(job), cancel)
        try:
            yield from self._until_done(job, cancel)
        finally:
            self.gate.leave()

    def _expected_seconds(self, job: "_Job") -> float:
        made = self.plan(job.spec, next(word for word in job.words if isinstance(word, Wishes)))
        items = max(getattr(word, "items", 1) for word in job.words)
        return made.predicted_seconds * math.ceil(max(1, items) / made.batch)

    def _until_done(self, job: "_Job", cancel: Cancel) -> Generator[Step | Result | Tuning, None, None]:
        """Begin a request, and begin it anew each time that its replica dies."""
        lost: list[TraceEntry] = []
        while len(lost) < TRIES:
            replica = ""
            try:
                for replica, item in self._items(job, cancel):
                    if isinstance(item, Result):
                        yield replace(item, trace=(*lost, *item.trace))
                    elif isinstance(item, Tuning):
                        yield item
                    else:
                        yield replace(item, detail={**item.detail, "replica": replica})
                return
            except RayActorError as error:
                # Only words are kept: the error holds the dead replica's handle.
                lost.append(TraceEntry("request", "replica_lost", str(error).splitlines()[0], "begun anew on another"))
            self._board.forget.remote(replica)
            yield Step("replica_lost", len(lost), TRIES)
        raise RunError(f"{TRIES} replicas died over this request: see the cluster's log; it may need more memory")

    def _items(self, job: "_Job", cancel: Cancel) -> Iterator[tuple[str, Step | Result | Tuning]]:
        """What a replica yields, with its number. Leaving early, or Stop, stops it there."""
        number = uuid.uuid4().hex
        stream = self._assigned(number, job)
        ended, over = False, threading.Event()
        threading.Thread(target=self._pass_stop_on, args=(number, cancel, over), daemon=True).start()
        try:
            for replica, item in stream:
                if isinstance(item, AnyhostError):
                    ended = True
                    raise item
                yield replica, item
            ended = True
        finally:
            over.set()
            if not ended:
                self._board.stop.remote(number)

    def _assigned(self, number: str, job: "_Job") -> Iterator[tuple[str, Step | Result | Tuning | AnyhostError]]:
        """A request's items, once a replica has it.

        Serve chooses the replica with the fewest requests, and knows of one only after it has arrived: several chosen
        for at the same moment would all go to the same.
        """
        alone = self._choosing.acquire(timeout=CHOOSING_SECONDS)
        try:
            asked = (number, job.kind, job.spec.name, job.words, job.settings)
            stream = iter(self._handle.options(stream=True).work.remote(*asked))
            next(stream)  # "it is here"
        finally:
            if alone:
                self._choosing.release()
        return stream

    def _pass_stop_on(self, number: str, cancel: Cancel, over: threading.Event) -> None:
        """A thread of its own: the next item of a request may be a minute away."""
        while not over.wait(POLL_SECONDS):
            if cancel.requested:
                self._board.stop.remote(number)
                return

    def close(self, name: str | None = None) -> None:
        """Nothing is loaded in this process. The deployment ends with ``cluster.deploy.Cluster.close``."""
