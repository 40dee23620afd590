"""Boxes: cuboids seen from above a corner, three faces in three brightnesses, with tape, labels, ribbons or planks."""

import cv2
import numpy as np
import numpy.typing as npt

from training.scenes.canvas import (
    SUPERSAMPLE,
    Array,
    Light,
    Rng,
    Sprite,
    as_array,
    chance,
    fractal_noise,
    random_colour,
    shrunk,
    trimmed,
    uniform,
)

TEXTURE = 96

# Corners are numbered bit by bit (x, y, z); each face lists its corners in order and its outward normal.
FACES = (
    ((4, 5, 7, 6), (0, 0, 1)),
    ((1, 3, 7, 5), (1, 0, 0)),
    ((0, 2, 6, 4), (-1, 0, 0)),
    ((2, 3, 7, 6), (0, 1, 0)),
    ((0, 1, 5, 4), (0, -1, 0)),
)


def draw(rng: Rng, size: int, light: Light, elevation: float) -> Sprite:
    """A box whose longer side on screen is ``size`` px, seen from 0.4 to 0.95 radians above the ground."""
    elevation = float(np.clip(elevation, 0.4, 0.95))
    yaw = np.radians(uniform(rng, 18, 72))
    dims = np.array([uniform(rng, 0.6, 1.3), uniform(rng, 0.6, 1.3), uniform(rng, 0.45, 1.3)])
    corners = np.array([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)]) - 0.5
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    world = (corners * dims) @ turn.T
    x, up, depth = _seen(world, elevation)
    near = 1 + uniform(rng, 0.0, 0.12) * depth
    flat = np.stack([x * near, -up * near], 1)
    n = max(24, size * SUPERSAMPLE)
    low, high = flat.min(0), flat.max(0)
    scale = (n - 4) / (high - low).max()
    points = ((flat - low) * scale + 2).astype(np.float32)
    width, height = (int(v) + 4 for v in (high - low) * scale)
    colour, alpha = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    base, kind = _paint(rng), int(rng.integers(0, 5))
    brightness = _brightness(rng, light)
    lit = 0
    for index, (face, normal) in enumerate(FACES):
        _, _, towards = _seen((np.array([normal], float) @ turn.T), elevation)
        if towards[0] <= 0.02:
            continue
        tint = brightness[0] if index == 0 else brightness[1 + lit % 2]
        lit += index > 0
        quad = points[list(face)]
        _fill(colour, alpha, quad, _texture(rng, base, kind, top=index == 0) * tint)
    small, thin = shrunk(colour, alpha)
    return trimmed(Sprite(small, thin, lift=0.6))


def _seen(points: npt.NDArray[np.float64], elevation: float) -> tuple[npt.NDArray[np.float64], ...]:
    """Screen x, screen up and nearness of world points [n, 3] for a camera looking down along +y by ``elevation``."""
    s, c = np.sin(elevation), np.cos(elevation)
    return points[:, 0], points[:, 1] * s + points[:, 2] * c, -points[:, 1] * c + points[:, 2] * s


def _brightness(rng: Rng, light: Light) -> tuple[float, float, float]:
    top = uniform(rng, 0.95, 1.15)
    lighter, darker = uniform(rng, 0.68, 0.85), uniform(rng, 0.35, 0.58)
    return (top, lighter, darker) if light.direction[0] > 0 else (top, darker, lighter)


def _paint(rng: Rng) -> Array:
    if chance(rng, 0.5):
        return as_array([0.74, 0.56, 0.37]) * uniform(rng, 0.75, 1.2)
    return random_colour(rng, (0.1, 0.9), (0.4, 1.0))


def _texture(rng: Rng, base: Array, kind: int, *, top: bool) -> Array:
    t = TEXTURE
    image = np.empty((t, t, 3), np.float32)
    image[:] = base
    image *= (0.88 + 0.2 * fractal_noise(rng, t, t, 6, 3))[..., None]
    other = random_colour(rng, (0.0, 0.9), (0.3, 1.0))
    if kind == 0 and top:
        image[int(t * 0.42) : int(t * 0.58)] = image[int(t * 0.42) : int(t * 0.58)] * 0.5 + 0.4
    elif kind == 1:
        image[int(t * 0.42) : int(t * 0.58)] = other
        image[:, int(t * 0.42) : int(t * 0.58)] = other
    elif kind == 2 and not top:
        y, x = int(rng.integers(10, 40)), int(rng.integers(10, 40))
        image[y : y + 34, x : x + 42] = 0.92
        for row in range(y + 6, y + 30, 7):
            image[row : row + 3, x + 5 : x + int(rng.integers(20, 38))] = 0.2
    elif kind == 3:
        for line in range(0, t, t // 4):
            image[line : line + 3] *= 0.5
    # Edges catch light or dirt, which is what makes the three faces read as three.
    rim = np.zeros((t, t), np.float32)
    rim[:3], rim[-3:], rim[:, :3], rim[:, -3:] = 1, 1, 1, 1
    return as_array(image * (1 - 0.3 * rim)[..., None])


def _fill(colour: Array, alpha: Array, quad: Array, texture: Array) -> None:
    t = TEXTURE
    source = np.array([[0, 0], [t, 0], [t, t], [0, t]], np.float32)
    height, width = alpha.shape
    matrix = cv2.getPerspectiveTransform(source, quad.astype(np.float32))
    mask = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(mask, np.round(quad).astype(np.int32), 255)
    image = as_array(cv2.warpPerspective(texture, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE))
    inside = mask > 0
    colour[inside] = np.clip(image[inside], 0, 1)
    alpha[inside] = 1
