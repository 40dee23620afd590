"""The order in which things are given up: which variants and sizes to try, and what a failure rules out."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from loader import cost, rules
from loader.decision import Decision, Failure, Limits, Rejected, Situation
from loader.host import Accelerator, Dtype
from loader.memory import Precision, Shape
from loader.spec import Size, Variant
from loader.wishes import RESIDENCIES, ResidencyName

Target = tuple[Variant, Size, tuple[Decision, ...]]
MOST_PARTS = 3  # of a component kept in fp32 because they failed, before it is computed in fp32 whole


@dataclass(frozen=True)
class Current:
    """What of the failed plan matters for the next one."""

    variant: str
    size: Size
    rung: int
    device: str
    dtypes: Mapping[str, Dtype]
    keep_fp32: Mapping[str, tuple[str, ...]]
    compiled: tuple[str, ...]
    packed: tuple[str, ...]


def halvings(batch: int) -> tuple[int, ...]:
    """``batch`` and its halves down to 1."""
    steps = [batch]
    while steps[-1] > 1:
        steps.append(steps[-1] // 2)
    return tuple(steps)


def residencies(accelerator: Accelerator | None, highest: ResidencyName | None) -> tuple[ResidencyName, ...]:
    """States the plan may use, best first. Where host and device share one memory it is awake or dropped."""
    apart = accelerator is not None and not accelerator.unified
    allowed: tuple[ResidencyName, ...] = RESIDENCIES if apart else ("resident", "dropped")
    if highest is None:
        return allowed
    start = RESIDENCIES.index(highest)
    return tuple(r for r in allowed if RESIDENCIES.index(r) >= start)


def targets(situation: Situation) -> Iterator[Target]:
    """(variant, size) pairs to try, best first, each with the decisions that led there.

    A variant or size the user named is the only one unless smaller ones are allowed; else the host's defaults, then
    what is smaller.
    """
    limits = situation.limits
    for variant, variant_notes in _variants(situation):
        for size, size_notes in _sizes(situation, variant):
            if limits.variant and (variant.name, size) != (limits.variant, limits.size):
                continue
            if (variant.name, *size) not in limits.excluded:
                yield variant, size, (*variant_notes, *size_notes)


def _variants(situation: Situation) -> Iterator[tuple[Variant, tuple[Decision, ...]]]:
    spec, wishes = situation.spec, situation.wishes
    device, _ = rules.choose_device(situation)
    default = spec.default if device != "cpu" else spec.cpu_only.variant
    first = wishes.variant or default
    if wishes.variant is None and spec.preview and f"{spec.name}/{default}" in situation.knowledge.unavailable:
        yield (
            spec.variant(spec.preview),
            (Decision("preview_weights", "variant", default, spec.preview, flips="weights"),),
        )
        return
    notes: tuple[Decision, ...] = ()
    if wishes.variant is None and default != spec.default:
        notes = (Decision("cpu_variant", "variant", spec.default, default, flips="accelerator"),)
    yield spec.variant(first), notes
    if (wishes.variant is None or wishes.allow_smaller) and first in spec.smaller:
        for name in spec.smaller[spec.smaller.index(first) + 1 :]:
            yield (
                spec.variant(name),
                (*notes, Decision("variant_for_memory", "variant", first, name, flips="more_memory")),
            )


def _sizes(situation: Situation, variant: Variant) -> Iterator[tuple[Size, tuple[Decision, ...]]]:
    wish = situation.wishes.size
    if wish is not None:
        yield wish, ()
        if situation.wishes.allow_smaller:
            for size in variant.sizes:
                if size[0] * size[1] < wish[0] * wish[1]:
                    yield size, (Decision("size_for_memory", "size", _text(wish), _text(size), flips="more_memory"),)
        return
    start, notes = _size_for_speed(situation, variant)
    yield variant.sizes[start], notes
    for size in variant.sizes[start + 1 :]:
        yield (
            size,
            (
                *notes,
                Decision("size_for_memory", "size", _text(variant.sizes[start]), _text(size), flips="more_memory"),
            ),
        )


def _size_for_speed(situation: Situation, variant: Variant) -> tuple[int, tuple[Decision, ...]]:
    """The largest size within the adapter's target time, with what the larger ones would have cost.

    Judged at full residency: how much memory is free must not change the picture's size.
    """
    target = situation.spec.target_seconds
    if not target or len(variant.sizes) == 1:
        return 0, ()
    seconds = [_seconds(situation, variant, size) for size in variant.sizes]
    fast = [i for i, value in enumerate(seconds) if value <= target]
    chosen = fast[0] if fast else len(seconds) - 1
    if chosen == 0:
        return 0, ()
    best, got = variant.sizes[0], variant.sizes[chosen]
    decision = Decision(
        "size_for_speed",
        "size",
        _text(best),
        _text(got),
        {"target": target, "seconds": _rounded(seconds[chosen]), "wanted_seconds": _rounded(seconds[0])},
        tuple(Rejected(_text(variant.sizes[i]), _rounded(seconds[i]), "s") for i in range(chosen)),
        flips="size_wish",
    )
    return chosen, (decision,)


def _rounded(seconds: float) -> float:
    """Two figures that mean something: 1.4, 23, 880."""
    if seconds >= 10:
        return int(round(seconds, 1 - math.floor(math.log10(seconds))))
    return round(seconds, 1)


def _seconds(situation: Situation, variant: Variant, size: Size) -> float:
    device, _ = rules.choose_device(situation)
    precisions: dict[str, Precision] = {
        c.name: rules.choose_dtype(situation, c, device).precision for c in variant.components
    }
    wishes = situation.wishes
    steps, frames = wishes.steps or variant.steps, wishes.frames or variant.frames
    shape = Shape(size, 1, steps, frames, guided=not wishes.unguided)
    return cost.seconds(situation.host, device, variant, precisions, shape, "resident")


def _text(size: Size) -> str:
    return f"{size[0]}×{size[1]}"


# --- what a failure rules out -------------------------------------------------------------------------------------


def tightened(situation: Situation, failure: Failure, current: Current) -> Limits | None:
    """The limits after ``failure``, strictly tighter than before, or None when nothing is left to give up."""
    limits = replace(situation.limits, failures=(*situation.limits.failures, failure))
    if failure.kind == "out_of_memory" or not situation.wishes.allow_smaller:
        # What the user saw announced is what is run: only memory, precision and device may still change.
        limits = replace(limits, variant=current.variant, size=current.size)
    if failure.kind == "out_of_memory":
        return replace(limits, min_rung=current.rung + 1)
    if failure.kind == "no_kernel_image":
        if current.device == "cpu":
            return None
        return replace(limits, no_device=(*limits.no_device, current.device))
    if failure.kind in ("compile_failed", "compile_slower"):
        if failure.component not in current.compiled:
            return None
        return replace(limits, no_compile=(*limits.no_compile, failure.component))
    if failure.kind == "packing_failed":
        if failure.component not in current.packed:
            return None
        return replace(limits, no_packing=(*limits.no_packing, failure.component))
    return _more_precise(limits, failure, current)


def _more_precise(limits: Limits, failure: Failure, current: Current) -> Limits | None:
    name = failure.component
    dtype = current.dtypes.get(name)
    if dtype is None:
        return None
    known, parts = current.keep_fp32.get(name, ()), limits.fp32_modules.get(name, ())
    # Each part costs loading it all again; what lacks an operator for bytes in one layer lacks it in all.
    worth = dtype != "int8" and len(parts) < MOST_PARTS
    if failure.kind == "not_implemented" and failure.submodule and failure.submodule not in known and worth:
        return replace(limits, fp32_modules={**limits.fp32_modules, name: (*parts, failure.submodule)})
    if dtype == "fp32":
        return None
    order = rules.PRECISION_ORDER
    # A dtype an operator lacks, or a result too far from fp32, goes straight to fp32; NaN tries the next range up.
    floor: Dtype = order[order.index(dtype) + 1] if failure.kind == "not_finite" else "fp32"
    return replace(limits, dtype_floor={**limits.dtype_floor, name: floor})
