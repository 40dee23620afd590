"""What was tried on sample input, as rules ask for it: does a way hold here, and what does the plan say of it.

The figures come from ``loader.tuning``. A wish and a failure outweigh them always.
"""

from collections.abc import Mapping
from dataclasses import replace

from loader.decision import Decision, Param, Rejected, Situation
from loader.host import Dtype, Host
from loader.knowledge import Tuned, Way
from loader.memory import Precision
from loader.spec import Size


def machine_of(host: Host, device: str) -> str:
    """What figures of ``device`` hold for: the processor with what limits it, or the card."""
    card = host.accelerator(device)
    if card is not None:
        return f"{card.name}; {card.arch}; {card.memory_bytes >> 20} MiB"
    cpu = host.cpu
    limits = f"; {', '.join(cpu.limits)}" if cpu.limits else ""
    return f"{cpu.name}; {cpu.cores} cores; {', '.join(cpu.effective_isa)}{limits}"


def find(situation: Situation, variant: str, device: str, size: Size) -> Tuned | None:
    """What was tried for this request on this machine with this torch, or None."""
    host = situation.host
    wanted = (machine_of(host, device), host.torch, situation.spec.name, variant, device, size)
    return next((tuned for tuned in reversed(situation.knowledge.tuned) if tuned.key == wanted), None)


def dtype_of(found: Tuned | None, component: str) -> Dtype | None:
    """The compute dtype that won for ``component``; None where nothing was tried."""
    return found.winner.dtype if found is not None and found.component == component else None


def way_of(found: Tuned | None, component: str, dtype: Dtype) -> Way | None:
    """The way that won for ``component``, in the dtype it won in: its layout says nothing of others."""
    return found.winner if found is not None and dtype_of(found, component) == dtype else None


def batch_of(situation: Situation, found: Tuned | None, precisions: Mapping[str, Precision]) -> int:
    """Items in one call: as wished, else as tried, else one."""
    if situation.wishes.batch is not None:
        return situation.wishes.batch
    way = way_of(found, found.component, precisions[found.component].compute) if found is not None else None
    return way.batch if way is not None else 1


def with_compile(situation: Situation, found: Tuned | None, component: str, dtype: Dtype) -> Situation:
    """``situation`` asking for the compile mode that won, where one was tried and no wish is in its way."""
    way = way_of(found, component, dtype)
    if way is None or situation.wishes.compile is not None or not tried_compiled(found):
        return situation
    return replace(situation, wishes=replace(situation.wishes, compile=way.compile))


def tried_compiled(found: Tuned | None) -> bool:
    """Whether a compiled way was among those tried."""
    return found is not None and any(timed.way.compile != "none" for timed in found.timed)


def words_of(way: Way) -> str:
    """A way in contract words: "bf16 channels_last"."""
    words: list[str] = [way.dtype]
    if way.memory_format != "contiguous":
        words.append(way.memory_format)
    if way.attention != "sdpa":
        words.append(way.attention.partition(":")[0])
    if way.compile != "none":
        words.append("compiled" if way.compile == "default" else f"compiled {way.compile}")
    if way.batch > 1:
        words.append(f"×{way.batch}")
    return " ".join(words)


def decision_of(found: Tuned) -> Decision:
    """What was tried, with figures: the winner's and those of every other that computed something."""
    best = next(timed for timed in found.timed if timed.way == found.winner)
    others = [timed for timed in found.timed if timed.way != found.winner and timed.seconds > 0]
    params: dict[str, Param] = {
        "ms": milliseconds(best.seconds),
        "fastest_ms": milliseconds(best.fastest),
        "slowest_ms": milliseconds(best.slowest),
        "rounds": found.rounds,
        "when": found.when,
    }
    rejected = tuple(
        Rejected(words_of(t.way), t.drift, "from fp32")
        if t.problem == "drift"
        else Rejected(words_of(t.way), milliseconds(t.seconds), "ms")
        for t in others
    )
    planned, winner = words_of(found.planned), words_of(found.winner)
    return Decision("tuned", found.component, planned, winner, params, rejected, flips="tuned")


def milliseconds(seconds: float) -> float:
    """Three figures of a time in milliseconds: 61.2, 1230."""
    value = seconds * 1000
    return round(value, 1) if value < 100 else float(round(value))
