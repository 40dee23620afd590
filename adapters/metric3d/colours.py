"""Metres as colours, with a legend that says which colour is how far."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from adapters.metric3d.geometry import MAX_DEPTH_M

Rgb = NDArray[np.uint8]
Floats = NDArray[np.floating]
NEAREST_M = 0.05
INNER_SHARE = (1.0, 99.0)  # percentiles the colours span: a single stray pixel must not grey out the rest
LEAST_RATIO = 1.25
LEAST_APART = 0.16  # of the legend's width, between two ticks
STEPS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)


@dataclass(frozen=True)
class Scale:
    """What the two ends of the colours stand for, in metres; between them equal ratios are equal steps.

    The networks err in proportion to distance, so a step of colour means as much far away as near by.
    """

    near: float
    far: float

    def position(self, depth: Floats) -> Floats:
        """0 at ``near``, 1 at ``far``, beyond them the ends."""
        ratio = np.log(np.maximum(depth, 1e-6) / self.near) / math.log(self.far / self.near)
        return np.clip(ratio, 0.0, 1.0)

    def ticks(self) -> tuple[float, ...]:
        """Both ends, and round distances between them, about evenly spread."""
        powers = range(math.floor(math.log10(self.near)), math.ceil(math.log10(self.far)) + 1)
        kept = [self.near]
        for value in (step * 10.0**power for power in powers for step in STEPS):
            apart = math.log(value / kept[-1]) / math.log(self.far / self.near)
            left = math.log(self.far / value) / math.log(self.far / self.near)
            if min(apart, left) >= LEAST_APART:
                kept.append(value)
        return (*kept, self.far)


def scale_of(*depths: Floats) -> Scale:
    """One scale for all of ``depths`` (metres, any shapes): for a picture, or for every frame of a clip."""
    values = np.concatenate([d[:: max(1, d.shape[0] // 200), :: max(1, d.shape[1] // 200)].ravel() for d in depths])
    near, far = np.percentile(values.astype(np.float64), INNER_SHARE)
    near = min(max(float(near), NEAREST_M), MAX_DEPTH_M / LEAST_RATIO)
    return Scale(near, max(float(far), near * LEAST_RATIO))


def paint(depth: Floats, scale: Scale) -> Rgb:
    """``[H, W]`` metres to ``[H, W, 3]`` uint8 RGB, near bright, far dark."""
    return _coloured(1.0 - scale.position(depth))


def paint_confidence(confidence: Floats) -> Rgb:
    """``[H, W]`` of any range to ``[H, W, 3]`` uint8 RGB: within this picture, sure is bright."""
    low, high = np.percentile(confidence, INNER_SHARE)
    return _coloured(np.clip((confidence - low) / max(float(high - low), 1e-6), 0.0, 1.0))


def _coloured(share: Floats) -> Rgb:
    coloured = cv2.applyColorMap(np.round(share * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    return np.ascontiguousarray(coloured[:, :, ::-1])


def metres(value: float) -> str:
    """A distance as it is written on a legend."""
    return f"{value:.0f} m" if value >= 10 else f"{value:.3g} m"


def gradient_css(stops: int = 12) -> str:
    """The colours from near to far as a CSS background."""
    colours = _coloured(np.linspace(1.0, 0.0, stops)[None])[0]
    return f"linear-gradient(to right, {', '.join(f'rgb({r},{g},{b})' for r, g, b in colours.tolist())})"


def with_legend(rgb: Rgb, scale: Scale, *, note: str = "") -> Rgb:
    """``rgb`` with a strip below: the colours, their metres, and ``note`` where there is one."""
    height, width = rgb.shape[:2]
    text = max(11, round(min(height, width * 0.75) / 36))
    font = ImageFont.load_default(text)
    strip = round(text * (4.8 if note else 3.2))
    image = Image.new("RGB", (width, height + strip), (20, 20, 18))
    image.paste(Image.fromarray(rgb), (0, 0))
    draw = ImageDraw.Draw(image)
    left, right, top = text, width - text, height + round(text * 0.6)
    bar = _coloured(np.repeat(np.linspace(1.0, 0.0, max(1, right - left))[None], text, axis=0))
    image.paste(Image.fromarray(bar), (left, top))
    written = 0.0
    for tick in scale.ticks():
        x = left + float(scale.position(np.array(tick))) * (right - left)
        words = metres(tick)
        length = draw.textlength(words, font=font)
        start = min(max(x - length / 2, left), right - length)
        if start < written:
            continue
        draw.line((x, top + text, x, top + text * 1.25), fill=(235, 232, 225), width=max(1, text // 12))
        draw.text((start, top + text * 1.3), words, fill=(235, 232, 225), font=font)
        written = start + length + text / 2
    if note:
        draw.text((left, top + text * 2.7), note, fill=(235, 232, 225), font=font)
    return np.array(image)
