"""Draft, balanced and best, and a dry run: what they are on a machine, and which variant serves what."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from adapters.instantid.spec import SPEC
from loader.engine import Engine
from loader.host import Host
from loader.spec import Size
from loader.wishes import Wishes

MINIATURE = "miniature"


@dataclass(frozen=True)
class Preset:
    """What a preset asks for; None leaves the size to the plan."""

    lcm: bool
    size: Size | None
    steps: int


# Steps say most of the time: each asks the denoiser and IdentityNet once, twice the pictures under guidance.
WITH_ACCELERATOR: Mapping[str, Preset] = MappingProxyType(
    {
        "draft": Preset(lcm=True, size=(768, 768), steps=4),
        "balanced": Preset(lcm=False, size=None, steps=20),
        "best": Preset(lcm=False, size=(1024, 1024), steps=40),
    }
)
CPU_ONLY: Mapping[str, Preset] = MappingProxyType(
    {
        "draft": Preset(lcm=True, size=(512, 512), steps=4),
        "balanced": Preset(lcm=True, size=None, steps=6),
        "best": Preset(lcm=False, size=(768, 768), steps=20),
    }
)
DRY = "dry"  # the untrained miniature: the whole path without downloads
PRESETS = (*WITH_ACCELERATOR, DRY)


def preset_on(name: str, host: Host) -> Preset:
    """What a preset is on a machine."""
    return (WITH_ACCELERATOR if host.accelerators else CPU_ONLY)[name]


def variant_for(controls: Collection[str], *, lcm: bool) -> str:
    """The smallest published variant with these ControlNets."""
    if lcm:
        return "lcm_controls" if controls else "lcm"
    if len(controls) == 1:
        return f"sdxl_{next(iter(controls))}"
    return "sdxl_controls" if controls else "sdxl"


def fitting(current: str | None, controls: Collection[str], host: Host) -> str:
    """The variant to wish for when the ControlNets change: a miniature has them all and stays one."""
    if current == MINIATURE:
        return current
    default = SPEC.default if host.accelerators else SPEC.cpu_only.variant
    lcm = (current or default).startswith("lcm")
    wanted = variant_for(controls, lcm=lcm)
    return "" if wanted == default and current is None else wanted


def wishes_of(name: str, host: Host, controls: Collection[str] = ()) -> Wishes:
    """The wishes a preset is made of."""
    if name == DRY:
        return Wishes(variant=MINIATURE)
    preset = preset_on(name, host)
    return Wishes(variant=variant_for(controls, lcm=preset.lcm), size=preset.size, steps=preset.steps)


def seconds_of(name: str, engine: Engine, controls: Collection[str] = ()) -> float | None:
    """What one picture of a preset should take here, by its plan; None where none fits."""
    made = engine.plan(SPEC, wishes_of(name, engine.host, controls))
    return made.predicted_seconds if made.fits else None
