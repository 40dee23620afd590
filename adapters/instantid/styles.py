"""Styles: what is added around a prompt, in our own words, and what is to be avoided with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from loader.errors import InputError

NONE = "none"


@dataclass(frozen=True)
class Style:
    """``around`` holds ``{prompt}``; ``avoid`` comes before what the user wants avoided."""

    around: str
    avoid: str


_PLAIN_FAULTS = "blurry, distorted face, extra fingers, watermark, text"

STYLES: Mapping[str, Style] = MappingProxyType(
    {
        NONE: Style("{prompt}", ""),
        "watercolour": Style(
            "watercolour portrait, {prompt}, wet paper, soft washes bleeding into each other, loose brush strokes, "
            "pale tones, visible paper grain",
            f"photograph, hard outlines, plastic skin, 3d render, {_PLAIN_FAULTS}",
        ),
        "film_noir": Style(
            "black and white film still of the 1940s, {prompt}, one hard light from the side, venetian blind shadows, "
            "cigarette haze, heavy grain",
            f"colour, flat light, daylight, cartoon, {_PLAIN_FAULTS}",
        ),
        "neon": Style(
            "night portrait, {prompt}, lit by pink and cyan neon signs, rain on glass, reflections on wet streets, "
            "shallow focus",
            f"daylight, pastel colours, washed out, {_PLAIN_FAULTS}",
        ),
        "jungle": Style(
            "portrait among dense jungle leaves, {prompt}, shafts of green light, drops of water, humid air, moss",
            f"studio backdrop, city, snow, desert, {_PLAIN_FAULTS}",
        ),
        "mars": Style(
            "portrait on the surface of Mars, {prompt}, rust-coloured dunes, thin dust in the air, low pale sun, "
            "expedition gear",
            f"plants, water, blue sky, city, {_PLAIN_FAULTS}",
        ),
        "vivid": Style(
            "poster portrait, {prompt}, flat areas of saturated colour, bold complementary contrast, clean shapes",
            f"grey, muted colours, sepia, noise, {_PLAIN_FAULTS}",
        ),
        "snow": Style(
            "winter portrait, {prompt}, large snowflakes in the air, breath in cold light, frosted hair, white hills",
            f"summer, green leaves, beach, warm light, {_PLAIN_FAULTS}",
        ),
        "line_art": Style(
            "ink line drawing, {prompt}, a few confident strokes of varying width on white paper, no shading",
            f"photograph, colour fill, gradients, shadows, {_PLAIN_FAULTS}",
        ),
    }
)


def styled(name: str, prompt: str, negative: str) -> tuple[str, str]:
    """Prompt and negative prompt with a style around them.

    Raises:
        InputError: no such style; the message lists those there are.
    """
    if name not in STYLES:
        raise InputError(f"no style {name!r}: choose from {', '.join(STYLES)}")
    style = STYLES[name]
    avoided = ", ".join(part for part in (style.avoid, negative.strip()) if part)
    # Not str.format: a prompt may hold braces.
    return style.around.replace("{prompt}", prompt.strip()).replace(", ,", ","), avoided
