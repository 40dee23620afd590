"""Balls: spheres with a lit side, a dark side, a highlight and one of several painted patterns."""

import numpy as np

from training.scenes.canvas import (
    SUPERSAMPLE,
    Array,
    Light,
    Rng,
    Sprite,
    as_array,
    chance,
    mixed,
    random_colour,
    shrunk,
    trimmed,
    uniform,
    unit_grid,
)


def draw(rng: Rng, size: int, light: Light, elevation: float) -> Sprite:
    """A ball ``size`` px across; ``elevation`` does not change a sphere."""
    del elevation
    n = max(16, size * SUPERSAMPLE)
    x, y = unit_grid(n, n)
    radius = np.hypot(x, y)
    z = np.sqrt(np.clip(1 - radius**2, 0, 1))
    alpha = as_array(np.clip((1 - radius) * n / 2, 0, 1))
    # A ball shows its roundness: its light comes more from the side than the scene's does.
    lx, ly, lz = light.direction
    flat = np.array([lx * 1.4, ly * 1.4 - 0.15, lz * 0.75])
    side = Light(tuple(flat / np.linalg.norm(flat)), light.ambient * 0.7)
    lambert = side.on(x, y, z)
    paint = _painted(rng, np.stack([x, y, z]))
    colour = paint * (side.ambient + (1 - side.ambient) * lambert)[..., None]
    x_half, y_half, z_half = side.direction
    half = np.array([x_half, y_half, z_half + 1])
    gloss = Light(tuple(half / np.linalg.norm(half)), 0).on(x, y, z) ** uniform(rng, 12, 90)
    colour = colour + (uniform(rng, 0.1, 0.8) * gloss)[..., None]
    colour = colour + (uniform(rng, 0.0, 0.12) * np.clip(y, 0, 1) * (1 - lambert))[..., None]
    small, thin = shrunk(as_array(np.clip(colour, 0, 1)), alpha)
    return trimmed(Sprite(small, thin, lift=0.9))


def _painted(rng: Rng, normals: Array) -> Array:
    """Colour [n, n, 3] of a pattern on the sphere, turned at random."""
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    px, py, pz = np.einsum("ij,jhw->ihw", q.astype(np.float32), normals)
    first, second = random_colour(rng, (0.2, 0.95), (0.45, 1.0)), random_colour(rng, (0.0, 0.9), (0.3, 1.0))
    longitude = np.arctan2(py, px)
    kind = rng.integers(0, 7)
    if kind == 0:
        return as_array(np.broadcast_to(first, (*px.shape, 3)))
    if kind == 1:
        return mixed(first, second, as_array(np.abs(pz) < uniform(rng, 0.15, 0.4)))
    if kind == 2:
        slices = (np.floor((longitude / 6.2832 + 0.5) * 6) % 2) > 0
        return mixed(first, as_array([0.95, 0.95, 0.95]), as_array(slices))
    if kind == 3:
        return _spotted(rng, px, py, pz)
    if kind == 4:
        seam = np.abs(pz - 0.55 * np.sin(2 * longitude)) < uniform(rng, 0.05, 0.1)
        return mixed(first, as_array([0.95, 0.95, 0.9]), as_array(seam))
    if kind == 5:
        lines = (np.abs(px) < 0.05) | (np.abs(pz) < 0.05) | (np.abs(np.abs(py) - 0.6 + 0.3 * pz**2) < 0.05)
        skin = as_array([0.85, 0.42, 0.16]) if chance(rng, 0.6) else first
        return mixed(skin, as_array([0.1, 0.08, 0.07]), as_array(lines))
    return mixed(first, second, as_array(np.sin(pz * uniform(rng, 5, 11)) > 0))


def _spotted(rng: Rng, px: Array, py: Array, pz: Array) -> Array:
    """Twelve spots at the corners of an icosahedron: a football, or a dotted toy ball."""
    golden = 1.618
    corners = []
    for a in (-1.0, 1.0):
        for b in (-golden, golden):
            corners += [(0.0, a, b), (a, b, 0.0), (b, 0.0, a)]
    points = np.array(corners, np.float32) / np.hypot(1, golden)
    nearest = np.max([px * a + py * b + pz * c for a, b, c in points], axis=0)
    spots = as_array(nearest > uniform(rng, 0.9, 0.95))
    if chance(rng, 0.5):
        return mixed(as_array([0.95, 0.95, 0.95]), as_array([0.08, 0.08, 0.1]), spots)
    return mixed(random_colour(rng, (0.3, 0.9), (0.5, 1)), random_colour(rng, (0.0, 0.9), (0.1, 1)), spots)
