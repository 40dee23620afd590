"""One plan beside another: what differs between two machines, as values that page and command line render."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from loader.decision import Decision
from loader.plan import Placement, Plan

Aspect = Literal[
    "fits",
    "variant",
    "device",
    "size",
    "batch",
    "steps",
    "frames",
    "savers",
    "compute_dtype",
    "storage_dtype",
    "residency",
    "memory_format",
    "attention",
    "compile",
    "packed",
    "peak_device",
    "peak_host",
    "seconds",
]
Value = str | int | float | bool
ALIKE = 0.01  # predictions closer than this, relative to the larger, are the same prediction
ASKED: tuple[Aspect, ...] = ("variant", "device")
WHOLE: tuple[Aspect, ...] = ("variant", "device", "size", "batch", "steps", "frames", "savers")
MEASURES: tuple[Aspect, ...] = ("peak_device", "peak_host", "seconds")
PARTS: tuple[Aspect, ...] = ("compute_dtype", "storage_dtype", "residency", "memory_format", "attention", "compile")


@dataclass(frozen=True)
class Difference:
    """One thing two plans do not have in common.

    Attributes:
        what: which property of the plan.
        subject: the component it is about, "" for the whole plan.
        here: its value in the plan compared with; bytes for ``peak_*``, seconds for ``seconds``.
        there: its value in the other plan.
    """

    what: Aspect
    subject: str
    here: Value
    there: Value

    @property
    def ratio(self) -> float | None:
        """``there`` over ``here`` of two figures above zero, None of anything else."""
        if self.what not in MEASURES or not (float(self.here) > 0 and float(self.there) > 0):
            return None
        return float(self.there) / float(self.here)


def compare(here: Plan, there: Plan) -> tuple[Difference, ...]:
    """What is different in ``there``: the whole plan first, then component by component.

    With a refusal on either side only that, model and device are compared: nothing else of it would happen.
    """
    found: list[Difference] = []
    mine, other = _whole(here), _whole(there)
    if here.fits != there.fits:
        found.append(Difference("fits", "", here.fits, there.fits))
    if not (here.fits and there.fits):
        found += [Difference(what, "", mine[what], other[what]) for what in ASKED if mine[what] != other[what]]
        return tuple(found)
    found += [Difference(what, "", mine[what], other[what]) for what in WHOLE if mine[what] != other[what]]
    found += _parts(here, there)
    found += [Difference(what, "", mine[what], other[what]) for what in MEASURES if _apart(mine[what], other[what])]
    return tuple(found)


def only_in(one: Plan, other: Plan) -> tuple[Decision, ...]:
    """Decisions ``one`` took that ``other`` did not take, whatever figures led to them."""
    known = {_identity(decision) for decision in other.decisions}
    return tuple(decision for decision in one.decisions if _identity(decision) not in known)


def flippable(plan: Plan) -> tuple[Decision, ...]:
    """Decisions that something would change, in the order they were taken."""
    return tuple(decision for decision in plan.decisions if decision.flips)


def _identity(decision: Decision) -> tuple[str, str, str, str]:
    return decision.rule, decision.subject, decision.wanted, decision.got


def _whole(plan: Plan) -> Mapping[Aspect, Value]:
    return {
        "variant": plan.variant,
        "device": plan.device,
        "size": f"{plan.size[0]}×{plan.size[1]}",
        "batch": plan.batch,
        "steps": plan.steps,
        "frames": plan.frames,
        "savers": ", ".join(plan.savers),
        "peak_device": plan.peak_bytes["device"],
        "peak_host": plan.peak_bytes["host"],
        "seconds": plan.predicted_seconds,
    }


def _parts(here: Plan, there: Plan) -> Iterator[Difference]:
    mine = {placed.name: placed for placed in here.components}
    for placed in there.components:
        before = mine.get(placed.name)
        if before is None:
            continue  # another variant has other components; the variant is named as the difference
        # Where both follow the device of their plan, that device is the difference, said once.
        if before.device != placed.device and not (_follows(before, here) and _follows(placed, there)):
            yield Difference("device", placed.name, before.device, placed.device)
        for what in PARTS:
            was, now = str(getattr(before, what)), str(getattr(placed, what))
            if was != now:
                yield Difference(what, placed.name, was, now)
        # Only CPUs have the choice: beside a card the device says it.
        if before.device == placed.device == "cpu" and before.packed != placed.packed:
            yield Difference("packed", placed.name, before.packed, placed.packed)


def _follows(placed: Placement, plan: Plan) -> bool:
    return placed.device == plan.device


def _apart(here: Value, there: Value) -> bool:
    one, other = float(here), float(there)
    return abs(one - other) > ALIKE * max(abs(one), abs(other))
