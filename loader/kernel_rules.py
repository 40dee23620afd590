"""Rules that choose how a component computes on its device: memory format, attention product, fusing.

Each goes by what was timed on the host where that is known, and by what was measured elsewhere where it is not; the
decision says which.
"""

from dataclasses import dataclass
from typing import Literal

from loader import micro, rules, tuned
from loader.attention_names import SDPA, blocks_between
from loader.decision import Decision, Rejected, Situation
from loader.host import Accelerator
from loader.knowledge import Tuned
from loader.memory import Precision
from loader.spec import Component

Layout = Literal["contiguous", "channels_last"]
PACKED_TIMES: dict[str, float] = {"bf16": 1.3, "fp32": 1.05}  # DAMO-YOLO-T at 640 on two cores with AMX
PACKING_MIN_GAIN = 0.97  # packing costs nothing but the seconds of loading: only a clear loss speaks against it
LAYOUT_MIN_GAIN = 1.03  # channels_last has to be this much faster: less is within what repeats differ by


@dataclass(frozen=True)
class Kernels:
    """Memory format and attention product of a component, with what led there."""

    layout: str
    attention: str
    decisions: tuple[Decision, ...]


def choose_kernels(
    situation: Situation,
    component: Component,
    accelerator: Accelerator | None,
    precision: Precision,
    found: Tuned | None = None,
) -> Kernels:
    """Both: as ``found`` on sample input in this precision, else by rule."""
    way = tuned.way_of(found, component.name, precision.compute)
    if found is not None and way is not None:
        return Kernels(way.memory_format, way.attention, (tuned.decision_of(found),))
    layout, layout_notes = choose_format(situation, component, accelerator, precision)
    attention, attention_notes = choose_attention(situation, component, accelerator, precision)
    return Kernels(layout, attention, (*layout_notes, *attention_notes))


def choose_format(
    situation: Situation, component: Component, accelerator: Accelerator | None, precision: Precision
) -> tuple[Layout, tuple[Decision, ...]]:
    """channels_last where it was measured to pay: timed here, else on CPUs always, on cards in 16 bit."""
    if not component.channels_last or component.on_cpu:
        return "contiguous", ()
    timed = accelerator.micro if accelerator else situation.host.cpu.micro
    gain = micro.layout_gain(timed, precision.compute)
    if gain is not None:
        times = round(gain, 2)
        if gain >= LAYOUT_MIN_GAIN:
            return "channels_last", (_layout(component, times, "measured"),)
        rejected = (Rejected("channels_last", round(1 / gain, 2), "× the time of contiguous"),)
        params: dict[str, str | int | float] = {"times": times, "evidence": "measured"}
        note = Decision("contiguous", component.name, "channels_last", "contiguous", params, rejected)
        return "contiguous", (note,)
    if accelerator is None or (accelerator.kind in ("cuda", "rocm") and precision.compute != "fp32"):
        times = 1.1 if accelerator else 1.7 if precision.compute == "bf16" else 1.2
        return "channels_last", (_layout(component, times, "typical"),)
    return "contiguous", ()


def _layout(component: Component, times: float, evidence: str) -> Decision:
    rejected = (Rejected("contiguous", times, "× the time of channels_last"),)
    params: dict[str, str | int | float] = {"times": times, "evidence": evidence}
    return Decision("channels_last", component.name, "contiguous", "channels_last", params, rejected)


def choose_attention(
    situation: Situation, component: Component, accelerator: Accelerator | None, precision: Precision
) -> tuple[str, tuple[Decision, ...]]:
    """The attention product of a component by name: torch's fused one, unless another was timed here to be faster."""
    if accelerator is not None or component.on_cpu or not component.repeated_block:
        return SDPA, ()
    found = micro.blocks_range(situation.host.cpu.micro, precision.compute)
    if found is None:
        return SDPA, ()
    low, high, times = found
    params: dict[str, str | int | float] = {"low": low, "high": high, "times": round(times, 2)}
    rejected = (Rejected(SDPA, round(times, 2), "× the time by blocks"),)
    return blocks_between(low, high), (Decision("attention_blocks", component.name, SDPA, "blocks", params, rejected),)


@dataclass(frozen=True)
class Packing:
    """Whether a component's weights are packed: how many times as fast that makes it, and why."""

    pays: bool = False
    times: float = 1.0
    decisions: tuple[Decision, ...] = ()


def choose_packing(situation: Situation, component: Component, device: str, precision: Precision) -> Packing:
    """Whether to pack a component's weights (``loader.packing``).

    On the CPU alone: cards have no weights to lay out. Without figures the gain is what was measured of DAMO-YOLO-T,
    and only where oneDNN packs for sure; where it was timed to lose it is left out, and where it failed too.
    """
    cpu = situation.host.cpu
    if device != "cpu" or component.on_cpu or cpu.arch != "x86_64":
        return Packing()
    if precision.storage != precision.compute or precision.compute not in PACKED_TIMES:
        return Packing()
    times, evidence = micro.packing_gain(cpu.micro, precision.compute), "measured"
    if times is None:
        if precision.compute == "bf16" and not rules.NATIVE_BF16_ISA & set(cpu.effective_isa):
            return Packing()
        times, evidence = PACKED_TIMES[precision.compute], "typical"
    if times < PACKING_MIN_GAIN:
        return Packing()
    failed = _packing_failed(situation, component, precision)
    if failed is not None:
        return Packing(decisions=(failed,))
    params: dict[str, str | int | float] = {"times": round(times, 2), "evidence": evidence}
    rejected = (Rejected("laid out in every call", round(times, 2), "× the time"),)
    decision = Decision("packed", component.name, "laid out in every call", "packed", params, rejected)
    return Packing(pays=True, times=times, decisions=(decision,))


def _packing_failed(situation: Situation, component: Component, precision: Precision) -> Decision | None:
    """What a packed layer of this component raised, in this session or before."""
    wanted, got = "packed", "laid out in every call"
    if component.name in situation.limits.no_packing:
        failures = reversed(situation.limits.failures)
        detail = next((f.detail for f in failures if (f.kind, f.component) == ("packing_failed", component.name)), "")
        return Decision("packing_failed", component.name, wanted, got, {"detail": detail}, flips="compile_failed_flip")
    flips = "compile_quarantined_flip"
    for entry in situation.knowledge.quarantine:
        whose = (entry.adapter, entry.component, entry.dtype)
        if entry.packed and whose == (situation.spec.name, component.name, precision.compute):
            params: dict[str, str | int | float] = {"reason": entry.reason, "torch": entry.torch}
            return Decision("packing_quarantined", component.name, wanted, got, params, flips=flips)
    return None


def fuse_decision(component: Component) -> tuple[Decision, ...]:
    """Branches and norms are folded in fp32, before the cast."""
    if not component.fuse:
        return ()
    return (Decision("fuse_then_cast", component.name, "as published", "merged", {"percent": 9}),)
