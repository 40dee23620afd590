"""Which few ways of computing a component are worth trying here, in order of promise, and which of them won.

A way is tried under the plan it would give: the same plan with that way among what was learned. So what a plan would
not do (a wish against it, a precision that failed here, no memory for it) is not tried either.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from loader import micro, rules, tuned
from loader.attention_names import SDPA, blocks_between
from loader.cost import rate
from loader.decision import Situation
from loader.host import Accelerator, Dtype, OpTime
from loader.knowledge import Timed, Tuned, Way
from loader.plan import Placement, Plan, plan_situation
from loader.spec import Component

MOST = 6  # ways tried in one go, the planned one included
UNPROMISING = 5.0  # what is expected to take so many times as long as the best is not tried
HOPELESS = 3.0  # what took so many times as long as the best at its first runs is not timed further
MIN_GAIN = 1.03  # another way has to be this much faster than the planned one: less is within what repeats differ by
COMPILED = 0.82  # share of the eager time left, see ``compile_rules.COMPILE_SAVING``
BATCH = {"cpu": (4, 0.98), "accelerator": (8, 0.6)}  # a batch to try, and the share of an item's time expected of it
CONTIGUOUS: Mapping[str, float] = {"bf16": 1.7, "fp32": 1.2, "fp16": 1.2}  # times as slow, where nothing was timed


def main_component(made: Plan) -> Placement:
    """The component with the most bytes: the one whose way decides how long a run takes."""
    return max(made.components, key=lambda placed: placed.bytes)


def way_of(made: Plan) -> Way:
    """How a plan computes its main component."""
    placed = main_component(made)
    return Way(placed.compute_dtype, placed.memory_format, placed.attention, placed.compile, made.batch)


def untuned(situation: Situation) -> Situation:
    """``situation`` as if nothing had been tried yet."""
    return replace(situation, knowledge=replace(situation.knowledge, tuned=()))


def under(base: Plan, way: Way) -> Plan | None:
    """The plan that computes ``base``'s main component in ``way``; None where no such plan is made here."""
    situation, component = base.situation, main_component(base).name
    told = Tuned(
        tuned.machine_of(situation.host, base.device),
        situation.host.torch,
        base.adapter,
        base.variant,
        base.device,
        base.size,
        component,
        way,
        way_of(base),
        (Timed(way, 0.0, 0.0, 0.0),),
        rounds=0,
        when="",
    )
    # Named, so that no rule of its own compiles a way that is tried as it is.
    wishes = replace(situation.wishes, compile=way.compile)
    made = plan_situation(replace(situation, wishes=wishes, knowledge=replace(situation.knowledge, tuned=(told,))))
    same = (made.variant, made.size, made.device) == (base.variant, base.size, base.device)
    return made if made.fits and same and way_of(made) == way else None


def candidates(base: Plan, *, compiled: bool = False, most: int = MOST) -> tuple[tuple[Way, Plan], ...]:
    """The planned way and the most promising others, each with its plan.

    Args:
        base: the plan as made without anything tried.
        compiled: try torch.compile too; each takes up to a minute to compile.
        most: how many in all.
    """
    planned = replace(way_of(base), compile="none")
    promised = sorted(_ways(base, compiled=compiled), key=lambda item: item[1])
    best = promised[0][1] if promised else 1.0
    order = [planned, *(way for way, seconds in promised if seconds <= UNPROMISING * best)]
    # The best of fp32 always: what it takes is what all others are worth.
    exact = [way for way, _ in promised if way.dtype == "fp32" and way.compile == "none"][:1]
    made = ((way, under(base, way)) for way in dict.fromkeys([*order, *exact]))
    found = [(way, plan) for way, plan in made if plan is not None]
    if len(found) <= most:
        return tuple(found)
    last = next((one for one in found[most:] if one[0] in exact), found[most - 1])
    return (*found[: most - 1], last)


# --- what there is and what it promises -------------------------------------------------------------------------


def _ways(base: Plan, *, compiled: bool) -> Iterator[tuple[Way, float]]:
    """Every way there is, with the time an item is expected to take in it, relative to each other."""
    component = base.situation.spec.variant(base.variant).component(main_component(base).name)
    accelerator = base.situation.host.accelerator(base.device)
    eager: dict[Way, float] = {}
    for dtype in component.dtypes:
        objection = rules.dtype_objection(base.situation, component, accelerator, dtype)
        if objection is not None and not rules.expects_slow(objection):
            continue
        for layout in _layouts(component, dtype):
            for attention, times in _attentions(base.situation, component, accelerator, dtype):
                way = Way(dtype, layout, attention, batch=base.batch)
                eager[way] = times * _promise(base, component, accelerator, way)
    yield from eager.items()
    fastest = sorted(eager, key=lambda way: eager[way])
    if compiled:
        compilable = [way for way in fastest if way.dtype != "int8"][:2]
        yield from ((replace(way, compile="default"), COMPILED * eager[way]) for way in compilable)
    items, share = BATCH["accelerator" if accelerator else "cpu"]
    if base.situation.wishes.batch is None and base.situation.spec.max_batch >= items:
        yield from ((replace(way, batch=items), share * eager[way]) for way in fastest[:1])


def _layouts(component: Component, dtype: Dtype) -> tuple[str, ...]:
    if not component.channels_last:
        return ("contiguous",)
    # Bytes have their channels side by side whatever the memory format around them.
    return ("channels_last",) if dtype == "int8" else ("contiguous", "channels_last")


def _attentions(
    situation: Situation, component: Component, accelerator: Accelerator | None, dtype: Dtype
) -> tuple[tuple[str, float], ...]:
    """Attention products by name, each with its share of the time of the fused one."""
    found = None
    if accelerator is None and component.repeated_block and not component.on_cpu:
        found = micro.blocks_range(situation.host.cpu.micro, dtype)
    # Attention is a third of a transformer's time at the lengths these have.
    return ((SDPA, 1.0), *(((blocks_between(found[0], found[1]), (2 + 1 / found[2]) / 3),) if found else ()))


def _promise(base: Plan, component: Component, accelerator: Accelerator | None, way: Way) -> float:
    """Expected time of ``way`` relative to fp32 contiguous: as operations were timed here, else by rates."""
    host = base.situation.host
    timed: Sequence[OpTime] = accelerator.micro if accelerator else host.cpu.micro
    operation, layout = ("convolution", way.memory_format) if component.channels_last else ("linear", "")
    mine = micro.find(timed, operation, way.dtype, layout=layout)  # type: ignore[arg-type]
    first = micro.find(timed, operation, "fp32", layout="contiguous" if layout else "")  # type: ignore[arg-type]
    if mine is not None and first is not None:
        return mine.seconds / first.seconds
    rates = accelerator.rates if accelerator else host.cpu.rates
    slower = CONTIGUOUS.get(way.dtype, 1.0) if layout else 1.0
    times = rate(rates, "fp32") / rate(rates, way.dtype) if way.dtype in rates else 4.0
    return times / slower if layout == "channels_last" else times


# --- what won ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """What came of one way.

    Attributes:
        seconds: of one item, in each undisturbed round; the same rounds for every way in the race.
        problem: why it is not in the race: "drift", "slow", or the kind of a failure; "" for one that is.
        detail: the figures or words behind ``problem``.
    """

    way: Way
    seconds: tuple[float, ...] = ()
    drift: float = 0.0
    problem: str = ""
    detail: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds else 0.0

    def timed(self) -> Timed:
        seconds = self.seconds or (0.0,)
        return Timed(self.way, self.median, min(seconds), max(seconds), self.drift, self.problem)


def winner(trials: Sequence[Trial]) -> Trial:
    """The fastest in the race; the first of them, the planned one, unless another is faster in most rounds and enough.

    Raises:
        ValueError: none is in the race.
    """
    racing = [trial for trial in trials if not trial.problem and trial.seconds]
    if not racing:
        raise ValueError("no way came through the trial")
    first, best = racing[0], min(racing, key=lambda trial: trial.median)
    gain = statistics.median(a / b for a, b in zip(first.seconds, best.seconds, strict=True))
    return best if gain >= MIN_GAIN else first
