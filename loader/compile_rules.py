"""The rule that decides whether a component is compiled: it has to repay itself by the calls that are to be expected.

Compiling goes on beside the requests, which run eagerly meanwhile; its cost is what it takes of the machine. Figures
measured here replace the typical ones, and what was lost here is not tried again. Pure, without torch.
"""

from dataclasses import dataclass

from loader.decision import Decision, Param, Rejected, Situation
from loader.knowledge import Compiled
from loader.memory import Precision
from loader.spec import Component
from loader.wishes import CompileMode

COMPILE_SECONDS = {"whole": 45.0, "blocks": 30.0}
COMPILE_MARGIN = 2  # it must repay itself twice over: what is to come is an estimate
COMPILE_SAVING = 0.18  # share of the eager time saved, measured on the merged bf16 detector (66 to 54 ms)
# Compiled over packed: 1.2 called again and again (DAMO-YOLO-T 25.7 and 21.1 ms, Metric3D ViT-S 1179 and 995), 0.94 to
# 1.35 in turn with nine other configurations.
PACKED_SHARE = 1.0
WARM_SHARE = 0.25  # of the seconds of a compile, once its code is kept on this disk

LOST = ("compile slower: ", "compile differs: ")  # reasons with a rule of their own

Compiling = tuple[CompileMode, tuple[Decision, ...]]


@dataclass(frozen=True)
class Use:
    """How a component is used: calls in one request, seconds of each, and whether hooks move or widen its layers.

    ``packed`` is how many times as fast its packed weights make it unless it is compiled, 1 where they are not packed;
    ``moved`` says that it is on its device only for its stage.
    """

    calls: int
    call_seconds: float
    hooked: bool
    variant: str = ""
    packed: float = 1.0
    moved: bool = False


@dataclass(frozen=True)
class _Figures:
    """What a compile costs and saves; ``measured`` is where from, None for typical figures.

    ``share`` is the time of a compiled call over that of one with packed weights.
    """

    seconds: float
    saving: float
    measured: Compiled | None
    share: float = 1.0

    @property
    def calls(self) -> int:
        """How many repay it."""
        return max(1, round(self.seconds / self.saving))


def calls_key(adapter: str, variant: str, component: str) -> str:
    """What calls of a component are counted under."""
    return f"{adapter}/{variant}/{component}"


def choose_compile(
    situation: Situation, component: Component, device: str, precision: Precision, use: Use
) -> Compiling:
    """A compile mode for a component: one that repays itself by the calls to be expected, else none unless wished."""
    wish = situation.wishes.compile
    if component.compile == "none" or component.on_cpu:
        return "none", ()
    lost = _lost(situation, component, device, precision, use)
    forbidden = lost.rule if lost else _forbidden(situation, component, device, precision, use)
    if forbidden:
        if lost and wish != "none":
            return "none", (lost,)
        if wish in (None, "none"):
            return "none", ()
        return "none", (Decision(forbidden, component.name, str(wish), "none", flips=f"{forbidden}_flip"),)
    if wish == "none":
        return "none", (Decision("compile_wish", component.name, "default", "none"),)
    if wish == "aot":
        return wish, (Decision("compile_package", component.name, "none", wish, flips="compile_off"),)
    figures = _figures(situation, component, device, precision, use)
    if wish is None and figures.saving <= 0:
        times = round(figures.share, 2)
        rejected = (Rejected("compile", times, "× the time of packed weights"),)
        return "none", (
            Decision("compile_packed", component.name, "default", "none", {"times": times}, rejected, "compile_wished"),
        )
    if wish is not None:
        params: dict[str, Param] = {"seconds": figures.seconds, "device": device}
        return wish, (Decision("compile_wish", component.name, "none", wish, params),)
    mode, notes = _by_calls(situation, component, use, figures)
    if mode != "none" and use.moved:
        # Beside the requests it cannot be compiled, for it may leave in the middle; at its first call somebody waits.
        seconds = round(figures.seconds, 1)
        rejected = (Rejected("compile", seconds, "s in which the first request would wait"),)
        return "none", (
            Decision(
                "compile_moved", component.name, "default", "none", {"seconds": seconds}, rejected, "compile_stays"
            ),
        )
    return mode, notes


def _by_calls(situation: Situation, component: Component, use: Use, figures: _Figures) -> Compiling:
    """Calls to be expected: those of this request, or as many as came lately, whichever is more."""
    seen = round(_counted(situation, component, use))
    ahead = max(use.calls, seen)
    pays = ahead > COMPILE_MARGIN * figures.calls
    here = figures.measured is not None or seen > use.calls
    params: dict[str, Param] = {
        "seconds": round(figures.seconds, 1),
        "calls": figures.calls,
        "planned": ahead if here else use.calls,
        "saving_ms": round(figures.saving * 1000, 1),
    }
    if figures.measured is not None:
        params |= _measured(figures.measured)
    suffix = "_measured" if figures.measured is not None else "_counted" if here else ""
    if pays:
        unit = "s more in the calls to come" if here else "s more in this request"
        eager = Rejected("eager", round(ahead * figures.saving - figures.seconds, 1), unit)
        decision = Decision(f"compile_pays{suffix}", component.name, "none", "default", params, (eager,), "compile_off")
        return "default", (decision,)
    rejected = (Rejected("compile", figures.calls, "calls to repay it"),)
    decision = Decision(
        f"compile_break_even{suffix}", component.name, "default", "none", params, rejected, "compile_calls"
    )
    return "none", (decision,)


def _figures(situation: Situation, component: Component, device: str, precision: Precision, use: Use) -> _Figures:
    found = _timed(situation, component, device, precision, use, faster=True)
    if not found:
        seconds = COMPILE_SECONDS[component.compile]
        if use.packed > 1:
            return _Figures(seconds, 0.0, None, PACKED_SHARE)
        return _Figures(seconds, max(use.call_seconds * COMPILE_SAVING, 1e-6), None)
    last = found[-1]
    # Its code is on this disk now; the cache says so if it is not, and then this is a little too hopeful.
    cost = max(last.seconds if last.warm else last.seconds * WARM_SHARE, 0.1)
    # What was timed against it was eager as it is where it is compiled: without packed weights.
    packed = last.eager_seconds / use.packed
    if use.packed > 1 and packed <= last.compiled_seconds:
        return _Figures(cost, 0.0, last, last.compiled_seconds / packed)
    return _Figures(cost, max(packed - last.compiled_seconds, 1e-6), last)


def _timed(
    situation: Situation, component: Component, device: str, precision: Precision, use: Use, *, faster: bool
) -> list[Compiled]:
    """What was compiled and timed of it here, that won or that lost."""
    wanted = (situation.spec.name, use.variant, component.name, device, precision.compute)
    return [
        entry
        for entry in situation.knowledge.compiled
        if (entry.adapter, entry.variant, entry.component, entry.device, entry.dtype) == wanted
        and entry.faster is faster
    ]


def _lost(situation: Situation, component: Component, device: str, precision: Precision, use: Use) -> Decision | None:
    """What compiling this component came to here, if it was lost: with its figures."""
    for entry in reversed(situation.knowledge.quarantine):
        same = (entry.adapter, entry.component) == (situation.spec.name, component.name) and entry.compile != "none"
        kind, _, found = entry.reason.partition(": ")
        if not same or not kind.startswith("compile "):
            continue
        if (entry.variant, entry.device, entry.dtype) != (use.variant, device, precision.compute):
            continue
        flips = "compile_quarantined_flip"
        if kind == "compile differs":
            return Decision("compile_lost_differs", component.name, entry.compile, "none", {"reason": found}, (), flips)
        slow = _timed(situation, component, device, precision, use, faster=False)
        if kind == "compile slower" and slow:
            figures = _measured(slow[-1])
            figures["times"] = round(slow[-1].compiled_seconds / slow[-1].eager_seconds, 2)
            return Decision("compile_lost_slower", component.name, entry.compile, "none", figures, (), flips)
    return None


def _measured(entry: Compiled) -> dict[str, Param]:
    return {
        "times": round(entry.eager_seconds / entry.compiled_seconds, 2),
        "eager_ms": round(entry.eager_seconds * 1000, 1),
        "compiled_ms": round(entry.compiled_seconds * 1000, 1),
    }


def _counted(situation: Situation, component: Component, use: Use) -> float:
    """Calls seen lately, as of the last time any were counted: a plan asks no clock."""
    counted = situation.knowledge.counted.get(calls_key(situation.spec.name, use.variant, component.name))
    return counted.calls if counted is not None else 0.0


def _forbidden(situation: Situation, component: Component, device: str, precision: Precision, use: Use) -> str:
    accelerator = situation.host.accelerator(device)
    if precision.compute == "int8":
        return "compile_int8"
    if situation.wishes.compile == "aot":  # compiled elsewhere, so it does not matter whether it could be here
        return "compile_hooks" if use.hooked or precision.storage != precision.compute else ""
    if situation.host.platform == "zerogpu":
        return "compile_zerogpu"
    if accelerator is not None and accelerator.kind == "mps":
        return "compile_mps"
    if use.hooked or precision.storage != precision.compute:
        return "compile_hooks"
    if not situation.host.compiler:
        return "compile_no_compiler"
    if component.name in situation.limits.no_compile:
        return "compile_failed"
    for entry in situation.knowledge.quarantine:
        same = (entry.adapter, entry.component) == (situation.spec.name, component.name) and entry.compile != "none"
        if not same:
            continue
        # What lost in another precision or variant says nothing of this one; what failed may fail anywhere.
        here = (entry.variant, entry.device, entry.dtype) == (use.variant, device, precision.compute)
        if here or not entry.reason.startswith(LOST):
            return "compile_quarantined"
    return ""
