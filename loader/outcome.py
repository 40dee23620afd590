"""What passes between a pipeline, the engine and whoever shows the run."""

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from loader.errors import Cancelled

if TYPE_CHECKING:
    from loader.plan import Plan


class Cancel:
    """A Stop that is noticed between units of work."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def request(self) -> None:
        self._event.set()

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Leave if Stop was pressed.

        Raises:
            Cancelled: it was.
        """
        if self.requested:
            raise Cancelled("stopped")


@dataclass(frozen=True)
class Step:
    """Progress: ``index`` of ``total`` in ``stage`` (a text id) is done; ``preview`` is whatever can be shown."""

    stage: str
    index: int
    total: int
    seconds_left: float | None = None
    preview: Any = None
    detail: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Unit:
    """The smallest piece of work that can be run again alone.

    A pipeline yields it and is sent what ``run`` returned. ``run`` is given the plan in force, because a retry may
    come with another batch or precision; it must not change anything outside itself before it returns.
    """

    name: str
    component: str
    run: "Callable[[Plan], Any]"


@dataclass(frozen=True)
class Kept:
    """What a finished stage gave, worth having even if a later one fails. Pipelines yield it; nothing is sent back."""

    stage: str
    value: Any


@dataclass(frozen=True)
class TraceEntry:
    """Something that did not go as first planned.

    Attributes:
        unit: which piece of work.
        event: what happened ("out_of_memory", "not_finite", "weights_unavailable", …).
        why: the error's own words, shortened.
        plan_change: what the next plan does differently, "" when it was only tried again.
    """

    unit: str
    event: str
    why: str
    plan_change: str = ""


@dataclass(frozen=True)
class Drift:
    """How far the plan's output is from fp32 on sample input.

    Attributes:
        value: in the adapter's metric; None where it was not found out.
        limit: what is allowed.
        how: "measured" now, "known" from before, "exact" where everything computes in fp32; "skipped" where it would
            have taken too long, "impossible" where fp32 does not fit.
        seconds: it took, or would have taken.
    """

    value: float | None
    limit: float
    metric: str
    how: Literal["measured", "known", "exact", "skipped", "impossible"]
    seconds: float = 0.0


@dataclass(frozen=True)
class Result:
    """What a run gave and what it took. ``outputs`` are the adapter's own values, ``items`` how many it worked on.

    ``component_bytes`` has the weights really held by each component that was called, in bytes. ``drift`` is None where
    the adapter has no sample or the weights are the user's own.
    """

    outputs: tuple[Any, ...]
    plan: "Plan"
    trace: tuple[TraceEntry, ...] = ()
    seconds: float = 0.0
    load_seconds: float = 0.0
    peak_bytes: Mapping[str, int] = field(default_factory=dict)
    weights: str = ""
    items: int = 1
    component_bytes: Mapping[str, int] = field(default_factory=dict)
    drift: Drift | None = None

    @property
    def predicted_seconds(self) -> float:
        """The plan's seconds, which are those of one batch, for all items of this request."""
        return self.plan.predicted_seconds * math.ceil(self.items / self.plan.batch)
