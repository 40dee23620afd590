"""What the tab says, as markup and numbers: presets, passes, what was made, and how near a precision is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from adapters.aniportrait.requests import HOP, Animation
from adapters.aniportrait.running import Closeness
from adapters.aniportrait.spec import INTERPOLATED, SPEC, WINDOW
from adapters.aniportrait.windows import context_windows
from kit.parts.markup import div, element, para, text
from kit.texts.labels import label, name_of
from kit.texts.report import seconds_text
from loader.engine import Engine
from loader.folders import find, size_text
from loader.plan import Plan
from loader.wishes import Wishes

FRAMES, MOST_FRAMES = 60, 900
LISTED = 12  # frames named in a note


@dataclass(frozen=True)
class Preset:
    """Wishes by a word; None leaves one to the plan.

    Attributes:
        size: side of the square.
        steps: of denoising.
        between: put frames between where the network for it is here.
    """

    size: int | None = None
    steps: int | None = None
    between: bool = False


PRESETS: Mapping[str, Preset] = {"planned": Preset(), "draft": Preset(256, 8, between=True), "best": Preset(512, 30)}
SMALL: Mapping[str, Preset] = {"planned": Preset(), "draft": Preset(64, 2), "best": Preset(128, 8)}


def has_interpolator(variant: str) -> bool:
    """Whether a variant puts frames between those it makes."""
    return any(component.name == "interpolator" for component in SPEC.variant(variant).components)


def made_frames(length: int, variant: str) -> int:
    """How many frames of a clip are made by diffusion."""
    return math.ceil((length - 1) / HOP) + 1 if has_interpolator(variant) else length


def preset_wishes(name: str, wishes: Wishes, length: int, engine: Engine) -> Wishes:
    """``wishes`` with what a preset changes. The miniature stays one, at sizes of its own."""
    small = wishes.variant == "miniature"
    preset = (SMALL if small else PRESETS)[name]
    variant = wishes.variant
    if not small and name != "planned":
        here = all(find(weights, engine.folders) is not None for weights in INTERPOLATED.weights[-1:])
        variant = INTERPOLATED.name if preset.between and here else "v2"
    size = (preset.size, preset.size) if preset.size else None
    planned = variant or SPEC.default
    return replace(wishes, variant=variant, size=size, steps=preset.steps, frames=made_frames(length, planned))


def preset_line(name: str, made: Plan, language: str) -> str:
    """A preset with its cost, as one sentence."""
    title = label(f"animate.preset_{name}", language)
    if not made.fits:
        return label("animate.preset_refused", language, name=title)
    height, width = made.size
    figures = {"height": height, "width": width, "steps": made.steps, "made": made.frames}
    return label("animate.preset_line", language, name=title, time=seconds_text(made.predicted_seconds), **figures)


def passes(made: Plan, language: str) -> str:
    """How often the large network runs, as markup; "" for a plan that does not fit."""
    if not made.fits:
        return ""
    windows = len(context_windows(made.frames))
    figures = {"steps": made.steps, "windows": windows, "calls": made.steps * windows}
    return para("ah-dim", label("animate.calls", language, frames=min(made.frames, WINDOW), **figures))


def facts(made: Animation, language: str) -> str:
    """What was made, as a list."""
    frames: Any = made.frames
    if made.made < made.frames:
        frames = label("animate.fact_made", language, frames=made.frames, made=made.made)
    said = {
        "frames": frames if made.fps else "",
        "rate": f"{made.fps:g}" if made.fps else "",
        "size": f"{made.size[1]}×{made.size[0]}",
        "seed": made.seed,
        "style": "" if made.style is None else made.style,
    }
    pairs = [
        div("", element("dt", text(label(f"animate.fact_{key}", language))), element("dd", text(value)))
        for key, value in said.items()
        if value != ""
    ]
    return element("dl", *pairs, classes="ah-facts")


def notes(made: Animation, language: str) -> list[str]:
    """What should be known of a result, sentence by sentence."""
    held = ", ".join(str(frame + 1) for frame in made.held[:LISTED]) + ("…" if len(made.held) > LISTED else "")
    faces = made.look.faces if made.look else 0
    figures: Mapping[str, Mapping[str, Any]] = {
        "faces": {"count": faces},
        "held": {"count": len(made.held), "frames": held},
    }
    return [label(f"animate.note_{note}", language, **figures.get(note, {})) for note in made.notes]


def nearness(near: Closeness, language: str) -> str:
    """How near a precision is to fp32, and what it takes, as markup."""
    low = {name: dtype for name, dtype in near.dtypes.items() if dtype != "fp32"}
    if not low:
        return para("ah-dim", label("animate.near_same", language))
    psnr = "∞" if math.isinf(near.psnr) else f"{near.psnr:.1f}"
    line = label(
        "animate.near",
        language,
        frames=near.frames,
        ssim=f"{near.ssim:.4f}",
        psnr=psnr,
        difference=f"{near.difference:.4f}",
        low=size_text(near.bytes_low),
        exact=size_text(near.bytes_fp32),
    )
    parts = ", ".join(f"{name_of('subject', name, language)} {dtype}" for name, dtype in low.items())
    return para("", line) + para("ah-dim", label("animate.near_parts", language, parts=parts))
