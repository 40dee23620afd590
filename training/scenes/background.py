"""Grounds the objects lie on, and clutter that carries no label."""

from collections.abc import Callable

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
    fractal_noise,
    mixed,
    random_colour,
    shrunk,
    smooth_noise,
    trimmed,
    uniform,
    unit_grid,
)


def ground(rng: Rng, height: int, width: int) -> Array:
    """A textured ground [height, width, 3] in 0..1."""
    makers: tuple[Callable[[Rng, int, int], Array], ...] = (plain, plain, mottled, wood, cloth, tiles, grain)
    return as_array(np.clip(makers[int(rng.integers(len(makers)))](rng, height, width), 0.02, 0.98))


def _tone(rng: Rng) -> Array:
    return random_colour(rng, (0.0, 0.6), (0.08, 0.95))


def plain(rng: Rng, height: int, width: int) -> Array:
    first = _tone(rng)
    second = np.clip(first + rng.normal(0, 0.12, 3), 0.05, 0.95)
    return mixed(first, as_array(second), smooth_noise(rng, height, width, uniform(rng, 1, 3)))


def mottled(rng: Rng, height: int, width: int) -> Array:
    first = _tone(rng)
    second = as_array(np.clip(first * uniform(rng, 0.4, 0.9) + rng.normal(0, 0.06, 3), 0.02, 0.95))
    return mixed(first, second, fractal_noise(rng, height, width, uniform(rng, 3, 24)))


def grain(rng: Rng, height: int, width: int) -> Array:
    stones = fractal_noise(rng, height, width, uniform(rng, 20, 60), 2)
    return as_array(_tone(rng) * (0.6 + 0.8 * stones)[..., None])


def wood(rng: Rng, height: int, width: int) -> Array:
    longer = max(height, width)
    x, y = unit_grid(longer, longer)
    bend = fractal_noise(rng, longer, longer, 2, 2)
    rings = 0.5 + 0.5 * np.sin((y + 0.25 * bend + 0.04 * x) * uniform(rng, 20, 60))
    fibre = as_array(cv2.resize(rng.random((longer, 12), dtype=np.float32), (longer, longer)))
    base = as_array([0.62, 0.42, 0.25]) * uniform(rng, 0.5, 1.3)
    image = base * (0.75 + 0.25 * rings + 0.2 * (fibre - 0.5))[..., None]
    boards = longer // int(rng.integers(2, 5))
    image[::boards] *= 0.5
    image = np.rot90(image) if chance(rng, 0.5) else image
    return as_array(image[:height, :width])


def cloth(rng: Rng, height: int, width: int) -> Array:
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    pitch, turn = uniform(rng, 3, 9), uniform(rng, 0, 3.1)
    u, v = xs * np.cos(turn) + ys * np.sin(turn), ys * np.cos(turn) - xs * np.sin(turn)
    weave = 0.5 + 0.25 * np.sin(u * 6.28 / pitch) + 0.25 * np.sin(v * 6.28 / pitch)
    folds = smooth_noise(rng, height, width, uniform(rng, 2, 5))
    return as_array(_tone(rng) * (0.7 + uniform(rng, 0.05, 0.3) * weave + 0.3 * folds)[..., None])


def tiles(rng: Rng, height: int, width: int) -> Array:
    ys, xs = np.mgrid[0:height, 0:width]
    pitch = int(max(height, width) * uniform(rng, 0.12, 0.4))
    first = _tone(rng)
    second = first if chance(rng, 0.5) else as_array(np.clip(first + rng.normal(0, 0.15, 3), 0.03, 0.97))
    dx, dy = int(rng.integers(pitch)), int(rng.integers(pitch))
    image = mixed(first, second, as_array(((xs + dx) // pitch + (ys + dy) // pitch) % 2))
    gap = ((xs + dx) % pitch < max(1, pitch // 30)) | ((ys + dy) % pitch < max(1, pitch // 30))
    image[gap] *= uniform(rng, 0.5, 1.4)
    return as_array(image * (0.9 + 0.2 * fractal_noise(rng, height, width, 8, 3))[..., None])


def clutter(rng: Rng, size: int, light: Light) -> Sprite:
    """Something without a label, ``size`` px long: a pen, a ring, a scrap, a leaf, a screw, a wire or a star."""
    del light
    n = max(16, size * SUPERSAMPLE)
    mask = np.zeros((n, n), np.uint8)
    makers = (_pen, _ring, _scrap, _leaf, _screw, _wire, _star)
    makers[int(rng.integers(len(makers)))](rng, mask)
    turn = cv2.getRotationMatrix2D((n / 2, n / 2), uniform(rng, 0, 360), 0.95)
    alpha = as_array(as_array(cv2.warpAffine(mask, turn, (n, n))) / 255)
    image = random_colour(rng, (0.0, 0.9), (0.05, 1.0)) * (0.75 + 0.4 * smooth_noise(rng, n, n, 3))[..., None]
    inner = as_array(cv2.GaussianBlur(alpha, (0, 0), n * 0.02))
    image = image * (0.7 + 0.4 * np.clip(inner, 0, 1))[..., None]
    small, thin = shrunk(as_array(np.clip(image, 0, 1)), alpha)
    return trimmed(Sprite(small, thin, lift=0.08))


def _pen(rng: Rng, mask: "cv2.typing.MatLike") -> None:
    n = mask.shape[0]
    half = max(1, int(n * uniform(rng, 0.02, 0.06)))
    cv2.rectangle(mask, (int(n * 0.05), n // 2 - half), (int(n * 0.85), n // 2 + half), 255, -1)
    tip = [[int(n * 0.85), n // 2 - half], [int(n * 0.95), n // 2], [int(n * 0.85), n // 2 + half]]
    cv2.fillPoly(mask, [np.array(tip, np.int32)], 255)


def _ring(rng: Rng, mask: "cv2.typing.MatLike") -> None:
    n = mask.shape[0]
    axes = (int(n * 0.4), int(n * uniform(rng, 0.25, 0.4)))
    cv2.ellipse(mask, (n // 2, n // 2), axes, 0, 0, 360, 255, max(1, int(n * uniform(rng, 0.02, 0.06))))


def _scrap(rng: Rng, mask: "cv2.typing.MatLike") -> None:
    n, corners = mask.shape[0], int(rng.integers(3, 6))
    angles = np.sort(rng.random(corners)) * 6.2832
    radii = n * 0.48 * rng.uniform(0.4, 1.0, corners)
    points = np.stack([n / 2 + radii * np.cos(angles), n / 2 + radii * np.sin(angles)], 1)
    cv2.fillPoly(mask, [points.astype(np.int32)], 255)


def _leaf(rng: Rng, mask: "cv2.typing.MatLike") -> None:
    n = mask.shape[0]
    t = np.linspace(0, np.pi, 24)
    fat = n * uniform(rng, 0.1, 0.22)
    x = np.concatenate([n * 0.05 + n * 0.8 * t / np.pi, (n * 0.05 + n * 0.8 * t / np.pi)[::-1]])
    y = np.concatenate([n / 2 - fat * np.sin(t), (n / 2 + fat * np.sin(t))[::-1]])
    cv2.fillPoly(mask, [np.stack([x, y], 1).astype(np.int32)], 255)
    cv2.line(mask, (int(n * 0.85), n // 2), (int(n * 0.97), n // 2), 255, max(1, n // 40))


def _screw(rng: Rng, mask: "cv2.typing.MatLike") -> None:
    n = mask.shape[0]
    half = int(n * uniform(rng, 0.03, 0.06))
    cv2.rectangle(mask, (int(n * 0.1), n // 2 - half * 3), (int(n * 0.2), n // 2 + half * 3), 255, -1)
    for x in range(int(n * 0.2), int(n * 0.9), max(2, half)):
        cv2.line(mask, (x, n // 2 - half), (x + half, n // 2 + half), 255, max(1, half // 2))
    cv2.rectangle(mask, (int(n * 0.2), n // 2 - half // 2), (int(n * 0.9), n // 2 + half // 2), 255, -1)


def _wire(rng: Rng, mask: "cv2.typing.MatLike") -> None:
    n = mask.shape[0]
    t = np.linspace(0, 1, 40)
    wave = n / 2 + n * uniform(rng, 0.1, 0.35) * np.sin(t * uniform(rng, 4, 14) + uniform(rng, 0, 6))
    points = np.stack([n * (0.05 + 0.9 * t), wave], 1).astype(np.int32)
    cv2.polylines(mask, [points], False, 255, max(1, int(n * uniform(rng, 0.01, 0.04))), cv2.LINE_AA)


def _star(rng: Rng, mask: "cv2.typing.MatLike") -> None:
    n, rays = mask.shape[0], int(rng.integers(4, 8))
    angles = np.arange(rays * 2) * np.pi / rays
    radii = n * np.where(np.arange(rays * 2) % 2, uniform(rng, 0.15, 0.25), 0.46)
    points = np.stack([n / 2 + radii * np.cos(angles), n / 2 + radii * np.sin(angles)], 1)
    cv2.fillPoly(mask, [points.astype(np.int32)], 255)
