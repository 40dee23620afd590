"""What was learned on this machine; empty on a new one. Plain data: ``loader.measure`` fills and stores it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from loader.host import Dtype

_GENERAL_PARTS = 4  # of a correction's key: adapter, variant, device, dtype; a fifth is one size of request


@dataclass(frozen=True)
class Quarantine:
    """Something that failed here. It holds only while torch version and device stay the same."""

    adapter: str
    variant: str
    component: str
    dtype: Dtype
    compile: str
    torch: str
    device: str
    reason: str


@dataclass(frozen=True)
class Correction:
    """Measured over predicted for one kind of run (see ``correction_key``), averaged over ``runs`` runs."""

    seconds: float = 1.0
    bytes: float = 1.0
    runs: int = 0


@dataclass(frozen=True)
class Knowledge:
    """What earlier runs taught.

    Attributes:
        speed: per device and dtype, measured speed relative to fp32 there: {"cpu": {"bf16": 4.1}}.
        corrections: by ``correction_key``.
        quarantine: what failed here.
        held_bytes: what other adapters hold now, by pool: "host" or a device name.
        unavailable: "adapter/variant" whose weights no source could give, in this session.
    """

    speed: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    corrections: Mapping[str, Correction] = field(default_factory=dict)
    quarantine: tuple[Quarantine, ...] = ()
    held_bytes: Mapping[str, int] = field(default_factory=dict)
    unavailable: tuple[str, ...] = ()

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
