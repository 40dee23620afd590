"""Surfaces' colours as functions of metres: sizes are those of real tiles, planks and bricks, a cue to distance."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.depth.solids import Array

Rng = np.random.Generator
NOISE_SIDE = 256


def noise_tile(rng: Rng, steepness: float) -> Array:
    """A periodic ``[256, 256]`` of mean 0 and deviation 1 whose amplitude falls with frequency to that power."""
    spectrum = np.fft.rfft2(rng.standard_normal((NOISE_SIDE, NOISE_SIDE)))
    frequency = np.hypot(np.fft.fftfreq(NOISE_SIDE)[:, None], np.fft.rfftfreq(NOISE_SIDE)[None]) * NOISE_SIDE
    tile = np.fft.irfft2(spectrum / np.maximum(frequency, 1) ** steepness)
    return (tile / tile.std()).astype(np.float32)


def _sampled(tile: Array, uv: Array, cells_per_metre: Array) -> Array:
    at = np.mod(uv * cells_per_metre, NOISE_SIDE).astype(np.float32)
    # remap takes at most 32767 rows.
    wide = np.ascontiguousarray(np.resize(at, (-(-len(at) // 512) * 512, 2))).reshape(-1, 512, 2)
    out = cv2.remap(tile, wide[..., 0], wide[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(out, np.float32).reshape(-1)[: len(uv)]


@dataclass(frozen=True)
class Material:
    """How a surface looks.

    Attributes:
        pattern: key of ``PATTERNS``.
        colours: ``[2, 3]`` linear RGB.
        size: metres of the pattern's unit.
        angle: radians it is turned on the surface.
        grain: amplitude of the noise on it.
        gloss: strength of the highlight.
        seed: of what varies from unit to unit.
    """

    pattern: str
    colours: Array
    size: float
    angle: float
    grain: float
    gloss: float
    seed: float


def _unit(cell: Array, seed: float) -> Array:
    """A number in 0..1 for every cell ``[N, 2]`` of whole numbers."""
    return np.mod(np.sin(cell @ np.array([12.99, 78.23], np.float32) + seed) * 43758.5, 1).astype(np.float32)


def _gap(fraction: Array, width: float) -> Array:
    return (np.minimum(fraction, 1 - fraction) < width).astype(np.float32)


def _plain(uv: Array, _material: Material) -> Array:
    return np.zeros(len(uv), np.float32)


def _tiles(uv: Array, material: Material) -> Array:
    unit = uv / material.size
    cell = np.floor(unit)
    joint = np.maximum(*_gap(unit - cell, 0.015).T)
    return np.maximum(joint, 0.2 * _unit(cell, material.seed))


def _checks(uv: Array, material: Material) -> Array:
    return np.mod(np.floor(uv / material.size).sum(1), 2)


def _planks(uv: Array, material: Material) -> Array:
    row = np.floor(uv[:, 1] / material.size)
    along = uv[:, 0] / (material.size * 9) + np.mod(row * 0.37 + material.seed, 1)
    cell = np.stack([np.floor(along), row], 1)
    joint = np.maximum(_gap(np.mod(uv[:, 1] / material.size, 1), 0.02), _gap(np.mod(along, 1), 0.002))
    return np.maximum(joint, 0.7 * _unit(cell, material.seed))


def _bricks(uv: Array, material: Material) -> Array:
    row = np.floor(uv[:, 1] / (material.size / 3))
    unit = np.stack([uv[:, 0] / material.size + 0.5 * np.mod(row, 2), uv[:, 1] / (material.size / 3)], 1)
    cell = np.floor(unit)
    fraction = unit - cell
    joint = np.maximum(_gap(fraction[:, 0], 0.025), _gap(fraction[:, 1], 0.07))
    return np.maximum(joint, 0.45 * _unit(cell, material.seed))


def _stripes(uv: Array, material: Material) -> Array:
    return (np.mod(uv[:, 0] / material.size, 1) < 0.5).astype(np.float32)


def _poster(uv: Array, material: Material) -> Array:
    return _unit(np.floor(uv / material.size * np.array([1.0, 1.7], np.float32)), material.seed)


PATTERNS: dict[str, Callable[[Array, Material], Array]] = {
    "plain": _plain,
    "tiles": _tiles,
    "checks": _checks,
    "planks": _planks,
    "bricks": _bricks,
    "stripes": _stripes,
    "poster": _poster,
}
# Share of the second colour when the pattern is too far away to be seen.
MEAN_SHARE = {"plain": 0.0, "tiles": 0.13, "checks": 0.5, "planks": 0.36, "bricks": 0.35, "stripes": 0.5, "poster": 0.5}


def albedo(material: Material, uv: Array, footprint: Array, noise: Array) -> Array:
    """Colours.

    Args:
        material: of the surface.
        uv: ``[N, 2]`` metres on it.
        footprint: ``[N]`` metres that a pixel covers there; patterns finer than it fade into their mean.
        noise: from ``noise_tile``.

    Returns:
        ``[N, 3]`` linear RGB, 0..1.
    """
    cosine, sine = np.cos(material.angle), np.sin(material.angle)
    uv = uv @ np.array([[cosine, -sine], [sine, cosine]], np.float32)
    seen = np.clip(material.size / (3 * footprint), 0, 1)
    share = MEAN_SHARE[material.pattern]
    share = share + seen * (PATTERNS[material.pattern](uv, material) - share)
    stretch = np.array([12.0, 90.0] if material.pattern == "planks" else [40.0, 40.0], np.float32)
    grain = 1 + material.grain * _sampled(noise, uv + material.seed, stretch)
    colour = material.colours[0] + share[:, None] * (material.colours[1] - material.colours[0])
    return np.clip(colour * grain[:, None], 0.01, 1).astype(np.float32)


def _colour(rng: Rng, saturation: float, low: float, high: float) -> NDArray[np.float64]:
    value = rng.uniform(low, high)
    colour = value * (1 + saturation * rng.uniform(-1, 1, 3))
    return np.clip(colour, 0.02, 0.95)


def material(rng: Rng, pattern: str, *, bright: tuple[float, float] = (0.08, 0.8), saturation: float = 0.6) -> Material:
    """A random material of one pattern."""
    first = _colour(rng, saturation * rng.random(), *bright)
    other = np.clip(first * rng.uniform(0.35, 0.8), 0, 1) if rng.random() < 0.7 else _colour(rng, saturation, *bright)
    if pattern == "planks":
        first = rng.uniform(0.2, 0.6) * np.array([1.0, rng.uniform(0.6, 0.85), rng.uniform(0.35, 0.65)])
        other = first * rng.uniform(0.45, 0.8)
    sizes = {"tiles": (0.28, 0.42), "checks": (0.25, 0.4), "planks": (0.1, 0.15), "bricks": (0.22, 0.26)}
    low, high = sizes.get(pattern, (0.06, 0.2))
    return Material(
        pattern,
        np.stack([first, other]).astype(np.float32),
        float(rng.uniform(low, high)),
        float(rng.choice([0.0, np.pi / 2]) if pattern in ("planks", "tiles") else 0.0),
        float(rng.uniform(0.02, 0.16)),
        float(max(0.0, rng.normal(0.05, 0.2))),
        float(rng.uniform(0, 50)),
    )
