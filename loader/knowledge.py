"""What was learned on this machine; empty on a new one. Plain data: ``loader.measure`` fills and stores it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from loader.host import Dtype
from loader.spec import Size
from loader.wishes import CompileMode

HALF_LIFE_S = 7 * 24 * 3600.0
_GENERAL_PARTS = 4  # of a correction's key: adapter, variant, device, dtype; a fifth is one size of request


@dataclass(frozen=True)
class Quarantine:
    """Something that failed here. It holds only while torch version and device stay the same.

    What failed is the component in ``dtype``, or compiling it where ``compile`` is not "none", or packing its weights.
    """

    adapter: str
    variant: str
    component: str
    dtype: Dtype
    compile: str
    torch: str
    device: str
    reason: str
    packed: bool = False


@dataclass(frozen=True)
class Correction:
    """Measured over predicted for one kind of run (see ``correction_key``), averaged over ``runs`` runs."""

    seconds: float = 1.0
    bytes: float = 1.0
    runs: int = 0


@dataclass(frozen=True)
class Way:
    """How a component computes, in the words of its placement, and how many requests go through in one call."""

    dtype: Dtype
    memory_format: str = "contiguous"
    attention: str = "sdpa"
    compile: CompileMode = "none"
    batch: int = 1


@dataclass(frozen=True)
class Timed:
    """One way that was tried on sample input.

    Attributes:
        seconds: of one item, the median of the rounds; ``fastest`` and ``slowest`` are the ends of their range.
        drift: distance from fp32 output in the adapter's metric.
        problem: why it could not win ("drift", "slow", or the kind of a failure), "" for one that was in the race.
    """

    way: Way
    seconds: float
    fastest: float
    slowest: float
    drift: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class Tuned:
    """The fastest of several ways, timed in turn on this machine.

    Attributes:
        machine: what the figures hold for, see ``loader.tuned.machine_of``.
        component: the one that was varied, of the most bytes.
        planned: the way rules would have chosen.
        timed: every way that was tried, that one first.
        rounds: undisturbed rounds behind each figure.
        when: the day, as YYYY-MM-DD.
    """

    machine: str
    torch: str
    adapter: str
    variant: str
    device: str
    size: Size
    component: str
    winner: Way
    planned: Way
    timed: tuple[Timed, ...]
    rounds: int
    when: str

    @property
    def key(self) -> tuple[object, ...]:
        """What it answers for: of two with one key the later counts."""
        return (self.machine, self.torch, self.adapter, self.variant, self.device, self.size)


@dataclass(frozen=True)
class Compiled:
    """A component compiled and timed by turns with eager on this machine.

    Attributes:
        key: digest of everything its code depends on, see ``loader.compiling.CacheKey``.
        mode: of torch.compile.
        eager_seconds, compiled_seconds: medians of a call.
        seconds: from begin to ready.
        warm: code of an earlier start was used in them.
    """

    key: str
    adapter: str
    variant: str
    component: str
    device: str
    dtype: Dtype
    mode: CompileMode
    torch: str
    eager_seconds: float
    compiled_seconds: float
    seconds: float
    warm: bool = False

    @property
    def faster(self) -> bool:
        """Whether compiled won."""
        return 0 < self.compiled_seconds < self.eager_seconds


@dataclass(frozen=True)
class Counted:
    """How often something was called lately: each call counts half after a week. ``at`` is seconds since 1970."""

    calls: float
    at: float

    def plus(self, calls: int, now: float) -> "Counted":
        """With ``calls`` more, seen ``now``."""
        return Counted(self.by(now) + calls, now)

    def by(self, now: float) -> float:
        """What of it still counts."""
        return self.calls * 0.5 ** (max(0.0, now - self.at) / HALF_LIFE_S)


@dataclass(frozen=True)
class Knowledge:
    """What earlier runs taught.

    Attributes:
        speed: per device and dtype, measured speed relative to fp32 there: {"cpu": {"bf16": 4.1}}.
        corrections: by ``correction_key``.
        quarantine: what failed here.
        held_bytes: what other adapters hold now, by pool: "host" or a device name.
        unavailable: "adapter/variant" whose weights no source could give, in this session.
        tuned: what was tried on sample input, the last one last.
        compiled: what was compiled here, the last one last.
        counted: calls of components lately, by ``loader.compile_rules.calls_key``.
    """

    speed: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    corrections: Mapping[str, Correction] = field(default_factory=dict)
    quarantine: tuple[Quarantine, ...] = ()
    held_bytes: Mapping[str, int] = field(default_factory=dict)
    unavailable: tuple[str, ...] = ()
    tuned: tuple[Tuned, ...] = ()
    compiled: tuple[Compiled, ...] = ()
    counted: Mapping[str, Counted] = field(default_factory=dict)

    def correction(self, key: str) -> Correction:
        """What to multiply a prediction of this kind of run by.

        A request size that was measured counts by how often; the rest is what was measured at any size.
        """
        general = self.corrections.get("/".join(key.split("/")[:_GENERAL_PARTS]), Correction())
        own = self.corrections.get(key)
        if own is None or key.count("/") < _GENERAL_PARTS:
            return own or general
        weight = own.runs / (own.runs + 1)
        return Correction(
            seconds=weight * own.seconds + (1 - weight) * general.seconds,
            bytes=weight * own.bytes + (1 - weight) * general.bytes,
            runs=own.runs,
        )


EMPTY = Knowledge()


def correction_key(adapter: str, variant: str, device: str, dtype: str, request: str = "") -> str:
    """The key under which measured figures of a kind of run are kept, at any size or for one ``request``."""
    return f"{adapter}/{variant}/{device}/{dtype}" + (f"/{request}" if request else "")
