"""Cups: a round tapered body with an elliptic opening that shows the inside, and a handle."""

import cv2
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
)

DRINKS = ((0.20, 0.11, 0.06), (0.45, 0.27, 0.12), (0.62, 0.45, 0.30), (0.75, 0.35, 0.10), (0.30, 0.12, 0.12))


def draw(rng: Rng, size: int, light: Light, elevation: float) -> Sprite:
    """A cup whose longer side is about ``size`` px, seen from 0.3 to 0.85 radians above the ground."""
    elevation = float(np.clip(elevation, 0.3, 0.85))
    n = max(24, size * SUPERSAMPLE)
    rt = 0.29 * n
    rb = rt * uniform(rng, 0.6, 1.0)
    squash = float(np.sin(elevation))
    body = rt * uniform(rng, 1.5, 2.3) * float(np.cos(elevation)) + 0.08 * n
    cx, top = 0.5 * n, rt * squash + 3
    bottom = top + body
    height = int(bottom + rb * squash + 4)
    paint = random_colour(rng, (0.0, 0.85), (0.45, 1.0))
    colour, alpha = np.zeros((height, n, 3), np.float32), np.zeros((height, n), np.float32)
    _handle(rng, colour, alpha, paint, (cx, top, rt, body))
    ys, xs = np.mgrid[0:height, 0:n].astype(np.float32)
    along = np.clip((ys - top) / body, 0, 1)
    across = (xs - cx) / (rt + (rb - rt) * along)
    inside = np.abs(across) <= 1
    front = np.sqrt(np.clip(1 - across**2, 0, 1))
    inside &= (ys >= top) & (ys - (rt + (rb - rt) * along) * squash * front <= bottom)
    lateral = light.direction[0]
    lambert = np.clip(across * lateral * 1.1 + front * 0.75, 0, 1)
    shade = 0.35 + 0.65 * lambert + 0.25 * np.clip(1 - np.abs(across - 0.5 * np.sign(lateral)) * 6, 0, 1)
    # Height on the wall, bent like the rim, so that stripes run round the body.
    level = as_array((ys - (rt + (rb - rt) * along) * squash * front - top) / body)
    wall = _decorated(rng, paint, level, as_array(np.arcsin(np.clip(across, -1, 1))))
    colour[inside] = (wall * shade[..., None])[inside]
    alpha[inside] = 1
    _opening(rng, colour, alpha, paint, (cx, top, rt, rt * squash, lateral))
    small, thin = shrunk(as_array(np.clip(colour, 0, 1)), alpha)
    return trimmed(Sprite(small, thin, lift=0.7))


def _handle(rng: Rng, colour: Array, alpha: Array, paint: Array, body: tuple[float, float, float, float]) -> None:
    cx, top, rt, length = body
    side = 1 if chance(rng, 0.5) else -1
    centre = (int(cx + side * rt * 0.98), int(top + length * uniform(rng, 0.5, 0.62)))
    axes = (int(rt * uniform(rng, 0.45, 0.62)), int(length * uniform(rng, 0.3, 0.42)))
    mask = np.zeros(alpha.shape, np.uint8)
    width = max(2, int(rt * uniform(rng, 0.16, 0.26)))
    cv2.ellipse(mask, centre, axes, 0, 0, 360, 255, width, cv2.LINE_AA)
    cv2.ellipse(inner := np.zeros_like(mask), centre, axes, 0, 0, 360, 255, max(1, width // 3), cv2.LINE_AA)
    on = mask > 127
    colour[on] = paint * uniform(rng, 0.55, 0.8)
    colour[inner > 127] = paint * uniform(rng, 0.85, 1.1)
    alpha[on] = 1


def _decorated(rng: Rng, paint: Array, level: Array, around: Array) -> Array:
    kind = rng.integers(0, 6)
    other = random_colour(rng, (0.0, 0.9), (0.2, 1.0))
    if kind == 0:
        return mixed(paint, other, as_array((level > 0.35) & (level < uniform(rng, 0.5, 0.7))))
    if kind == 1:
        return mixed(paint, other, as_array(np.sin(level * uniform(rng, 15, 30)) > 0.2))
    if kind == 2:
        return mixed(paint, other, as_array(np.sin(around * uniform(rng, 8, 16)) > 0.3))
    if kind == 3:
        spot = np.hypot(around - uniform(rng, -0.3, 0.3), (level - 0.45) * 2) < uniform(rng, 0.3, 0.5)
        return mixed(paint, other, as_array(spot))
    if kind == 4:
        return mixed(paint, other, as_array(level > uniform(rng, 0.4, 0.6)))
    return as_array(np.broadcast_to(paint, (*level.shape, 3)))


def _opening(
    rng: Rng, colour: Array, alpha: Array, paint: Array, place: tuple[float, float, float, float, float]
) -> None:
    cx, cy, a, b, lateral = place
    height, width = alpha.shape
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    u, v = (xs - cx) / a, (ys - cy) / b
    radius = np.hypot(u, v)
    rim = uniform(rng, 0.84, 0.92)
    lip = radius <= 1
    colour[lip] = np.clip(paint * 1.15 + 0.06, 0, 1)
    alpha[lip] = 1
    hole = radius <= rim
    inner = paint if chance(rng, 0.5) else as_array([0.92, 0.91, 0.88])
    # The inside is lit on the wall away from the light and dark below the near rim.
    inside = np.clip(0.5 - 0.28 * u * np.sign(lateral) - 0.3 * v, 0.12, 0.9)
    colour[hole] = (inner * inside[..., None])[hole]
    if chance(rng, 0.6):
        drop = uniform(rng, 0.15, 0.4)
        surface = hole & (np.hypot(u, v - drop) <= rim * 0.97)
        tone = as_array(DRINKS[int(rng.integers(len(DRINKS)))])
        sheen = 0.85 + 0.5 * np.clip(1 - np.hypot(u - 0.3 * lateral, v - drop) * 2.5, 0, 1)
        colour[surface] = (tone * sheen[..., None])[surface]
