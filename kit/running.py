"""A run as whoever watches it wants it told: not more often than can be read, and with the time left."""

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.pace import Pace
from loader.engine import Engine
from loader.outcome import Cancel, Result, Step
from loader.spec import AdapterSpec
from loader.wishes import Wishes

TELL_EVERY = 0.15  # seconds between two steps told: nobody reads faster, and each costs a message to the browser
TELL_WAITING_EVERY = 1.0  # unless the place changes: many may wait, and whoever has left is noticed when told


@dataclass(frozen=True)
class Asked:
    """What goes with a request whatever the model.

    Attributes:
        wishes: how it is to run.
        cancel: the Stop of this run.
        session: whose it is, "" for a program's.
        checkpoint: the user's own weights, None for the published ones.
        accepted: names of the licences this user has accepted (see ``kit.parts.licence_tick``).
    """

    wishes: Wishes = field(default_factory=Wishes)
    cancel: Cancel = field(default_factory=Cancel)
    session: str = ""
    checkpoint: Path | None = None
    accepted: frozenset[str] = frozenset()


def told(
    engine: Engine, spec: AdapterSpec, request: Any, asked: Asked, *, clock: Callable[[], float] = time.monotonic
) -> Generator[Step | Result, None, None]:
    """Run ``request``: some of the steps as it goes, then the result. Closing it ends the run at the next unit.

    A step is told when it is the first or the last of its stage, or when the one before is long enough ago; so a stage
    that gives something to look at only once is never missed. While waiting, a change of place is told at once.

    Raises:
        AnyhostError: as ``Engine.run``.
    """
    last, stage, place, pace = clock() - TELL_EVERY, "", 0, Pace(clock)
    steps = engine.run(
        spec,
        request,
        asked.wishes,
        cancel=asked.cancel,
        checkpoint=asked.checkpoint,
        accepted=asked.accepted,
        session=asked.session,
    )
    with closing(steps) as items:
        for item in items:
            if isinstance(item, Result):
                yield item
                continue
            step, now = pace.of(item), clock()
            waiting = step.stage == "waiting"
            turning = step.stage != stage or (step.preview is not None and step.index == step.total)
            moved = waiting and step.index != place
            if turning or moved or now - last >= (TELL_WAITING_EVERY if waiting else TELL_EVERY):
                last, stage, place = now, step.stage, step.index
                yield step
