"""The cluster as the page and the commands see it: an engine whose work is done by replicas."""

import uuid
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from cluster.board import Standing
from loader.downloads import Downloads
from loader.errors import AnyhostError, InputError, RunError
from loader.folders import Folders
from loader.host import Host
from loader.outcome import Cancel, Result, Step, TraceEntry
from loader.plan import Plan
from loader.spec import AdapterSpec
from loader.wishes import Wishes

TRIES = 3


class ClusterEngine:
    """Plans and runs on replicas. A request whose replica dies is begun anew on another: it costs time, nothing else.

    Args:
        handle: of the deployment.
        board: the actor with what replicas tell.
        folders: where this process looks for weights and keeps files; shared with the nodes.
    """

    def __init__(self, handle: DeploymentHandle, board: Any, folders: Folders) -> None:
        self._handle, self._board, self.folders = handle, board, folders
        self.accepted: frozenset[str] = frozenset()
        self.downloads = Downloads(folders)

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
            RunError: three replicas died over it.
        """
        if checkpoint is not None:
            raise InputError("own checkpoints run on one machine: start the page without --ray for them")
        cancel = cancel or Cancel()
        lost: list[TraceEntry] = []
        terms = self.accepted | settings.get("accepted", frozenset())
        while len(lost) < TRIES:
            replica = ""
            try:
                for replica, item in self._items(
                    spec, request, wishes or Wishes(), {**settings, "accepted": terms}, cancel
                ):
                    if isinstance(item, Result):
                        yield replace(item, trace=(*lost, *item.trace))
                    else:
                        yield replace(item, detail={**item.detail, "replica": replica})
                return
            except RayActorError as error:
                # Only words are kept: the error holds the dead replica's handle.
                lost.append(TraceEntry("request", "replica_lost", str(error).splitlines()[0], "begun anew on another"))
            self._board.forget.remote(replica)
            yield Step("replica_lost", len(lost), TRIES)
        raise RunError(f"{TRIES} replicas died over this request: see the cluster's log; it may need more memory")

    def _items(
        self, spec: AdapterSpec, request: Any, wishes: Wishes, settings: dict[str, Any], cancel: Cancel
    ) -> Iterator[tuple[str, Step | Result]]:
        """What a replica yields, with its number. Leaving early, or Stop, stops it there."""
        number = uuid.uuid4().hex
        stream = self._handle.options(stream=True).run.remote(number, spec.name, request, wishes, settings)
        told = ended = False
        try:
            for replica, item in stream:
                if cancel.requested and not told:
                    told = True
                    self._board.stop.remote(number)
                if isinstance(item, AnyhostError):
                    ended = True
                    raise item
                yield replica, item
            ended = True
        finally:
            if not ended and not told:
                self._board.stop.remote(number)

    def close(self, name: str | None = None) -> None:
        """Nothing is loaded in this process. The deployment ends with ``cluster.deploy.Cluster.close``."""
