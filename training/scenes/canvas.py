"""What every renderer of this package draws with: arrays, smooth noise, sprites and their compositing."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Rng = np.random.Generator

SUPERSAMPLE = 2
"""Sprites are drawn this many times larger than they are used, then averaged down: the cheapest antialiasing."""


@dataclass(frozen=True)
class Light:
    """One distant light; ``direction`` is a unit vector (x right, y down, z towards the viewer)."""

    direction: tuple[float, float, float]
    ambient: float

    def on(self, nx: Array, ny: Array, nz: Array) -> Array:
        """Lambert's law, 0..1, for unit normals given by component."""
        x, y, z = self.direction
        return np.maximum(nx * x + ny * y + nz * z, 0.0)


@dataclass(frozen=True)
class Sprite:
    """A picture of one object: ``colour`` [h, w, 3] in 0..1, ``alpha`` [h, w] in 0..1.

    ``lift`` is its height above the ground as a fraction of its own height on screen: it sets how far a shadow falls.
    """

    colour: Array
    alpha: Array
    lift: float


def as_array(value: Any) -> Array:
    """``value`` as float32; OpenCV's stubs know no dtype, so every result of it passes here."""
    return np.asarray(value, dtype=np.float32)


def uniform(rng: Rng, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def chance(rng: Rng, probability: float) -> bool:
    return bool(rng.random() < probability)


def smooth_noise(rng: Rng, height: int, width: int, cells: float) -> Array:
    """Noise in 0..1, [height, width], with about ``cells`` bumps along the longer side."""
    longer = max(height, width)
    rows = max(2, round(cells * height / longer) + 1)
    columns = max(2, round(cells * width / longer) + 1)
    coarse = rng.random((rows, columns), dtype=np.float32)
    return np.clip(as_array(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)), 0.0, 1.0)


def fractal_noise(rng: Rng, height: int, width: int, cells: float, octaves: int = 4) -> Array:
    """Sum of smooth noises, each twice as fine and half as strong; scaled to 0..1."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        total += smooth_noise(rng, height, width, cells * 2**octave) * 0.5**octave
    low, high = float(total.min()), float(total.max())
    return as_array((total - low) / max(high - low, 1e-6))


def unit_grid(height: int, width: int) -> tuple[Array, Array]:
    """Pixel centres as (x, y), each [height, width], running over -1..1."""
    x = (np.arange(width, dtype=np.float32) + 0.5) / width * 2 - 1
    y = (np.arange(height, dtype=np.float32) + 0.5) / height * 2 - 1
    grid_x, grid_y = np.meshgrid(x, y)
    return as_array(grid_x), as_array(grid_y)


def random_colour(
    rng: Rng, saturation: tuple[float, float] = (0.0, 0.9), value: tuple[float, float] = (0.1, 1.0)
) -> Array:
    """An RGB colour [3] in 0..1 with hue uniform and the given ranges of saturation and value."""
    hue, s, v = rng.random() * 6, uniform(rng, *saturation), uniform(rng, *value)
    channel = np.array([5.0, 3.0, 1.0]) + hue
    ramp = np.clip(np.minimum(channel % 6, 4 - channel % 6), 0, 1)
    return as_array(v - v * s * ramp)


def mixed(first: Array, second: Array, weight: Array) -> Array:
    """``first`` where ``weight`` is 0, ``second`` where it is 1; colours broadcast, ``weight`` is [h, w]."""
    return as_array(first + (second - first) * weight[..., None])


def shrunk(colour: Array, alpha: Array, factor: int = SUPERSAMPLE) -> tuple[Array, Array]:
    """Averages a supersampled sprite down; colours are weighted by alpha so that no background bleeds in."""
    height, width = alpha.shape
    size = (max(1, width // factor), max(1, height // factor))
    thin = as_array(cv2.resize(alpha, size, interpolation=cv2.INTER_AREA))
    weighted = as_array(cv2.resize(colour * alpha[..., None], size, interpolation=cv2.INTER_AREA))
    return as_array(weighted / np.maximum(thin, 1e-3)[..., None]), thin


def warped(colour: Array, alpha: Array, matrix: npt.NDArray[Any], size: tuple[int, int]) -> tuple[Array, Array]:
    """Applies a 3x3 homography; ``size`` is (width, height) of the result."""
    rgba = np.dstack([colour, alpha])
    out = as_array(cv2.warpPerspective(rgba, matrix, size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE))
    inside = as_array(cv2.warpPerspective(np.ones_like(alpha), matrix, size, flags=cv2.INTER_LINEAR))
    return as_array(out[..., :3]), as_array(out[..., 3] * inside)


def trimmed(sprite: Sprite) -> Sprite:
    """Cuts away empty borders."""
    rows, columns = np.nonzero(sprite.alpha.max(1) > 0.02)[0], np.nonzero(sprite.alpha.max(0) > 0.02)[0]
    if len(rows) == 0:
        return sprite
    cut = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return Sprite(sprite.colour[cut], sprite.alpha[cut], sprite.lift)


def paste(canvas: Array, sprite: Sprite, left: int, top: int) -> Array:
    """Composites in place; returns the coverage [H, W] that the sprite has on the canvas."""
    height, width = canvas.shape[:2]
    coverage = np.zeros((height, width), np.float32)
    h, w = sprite.alpha.shape
    y0, y1, x0, x1 = max(top, 0), min(top + h, height), max(left, 0), min(left + w, width)
    if y0 >= y1 or x0 >= x1:
        return coverage
    part = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    alpha = sprite.alpha[part]
    canvas[y0:y1, x0:x1] += (sprite.colour[part] - canvas[y0:y1, x0:x1]) * alpha[..., None]
    coverage[y0:y1, x0:x1] = alpha
    return coverage


def write(canvas: Array, text: str, origin: tuple[int, int], scale: float, ink: Array) -> None:
    """Writes ``text`` in place with its lower left corner at ``origin`` (x, y) px."""
    mask = np.zeros(canvas.shape[:2], np.uint8)
    cv2.putText(mask, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, (255.0,), 2, cv2.LINE_AA)
    canvas += (ink - canvas) * (mask.astype(np.float32) / 255)[..., None]
