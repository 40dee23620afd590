"""What the replicas of a cluster tell each other: which machines there are, and which requests were stopped."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from loader.host import Host

KEPT_SECONDS = 3600.0
BEAT_SECONDS = 5.0  # how often a replica says that it is there
SILENT_SECONDS = 4 * BEAT_SECONDS
NAME, NAMESPACE = "anyhost-board", "anyhost"


@dataclass(frozen=True)
class Standing:
    """A replica, the machine it plans for, and the process it is."""

    replica: str
    host: Host
    process: int


class Board:
    """Kept by one small actor. A stop is remembered for an hour: its request may not have begun yet.

    Args:
        as_hosts: named hosts that replicas are to plan as, in the order they register; for rehearsals.
    """

    def __init__(self, as_hosts: tuple[str, ...] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._as_hosts, self._clock = list(as_hosts), clock
        self._standing: dict[str, tuple[Standing, float]] = {}
        self._stopped: dict[str, float] = {}

    def plan_as(self) -> str:
        """The named host the next replica is to plan as, "" for its own."""
        if not self._as_hosts:
            return ""
        first = self._as_hosts.pop(0)
        self._as_hosts.append(first)
        return first

    def register(self, standing: Standing) -> None:
        """A replica is up; said again at every beat."""
        self._standing[standing.replica] = standing, self._clock()

    def forget(self, replica: str) -> None:
        """A replica is gone."""
        self._standing.pop(replica, None)

    def standing(self) -> tuple[Standing, ...]:
        """Replicas that were heard of lately, in the order they came: one that was killed says nothing more."""
        now = self._clock()
        self._standing = {name: known for name, known in self._standing.items() if now - known[1] < SILENT_SECONDS}
        return tuple(standing for standing, _ in self._standing.values())

    def stop(self, request: str) -> None:
        """The user of ``request`` pressed Stop."""
        now = self._clock()
        self._stopped = {one: at for one, at in self._stopped.items() if now - at < KEPT_SECONDS}
        self._stopped[request] = now

    def stopped(self, request: str) -> bool:
        return request in self._stopped
