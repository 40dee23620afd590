"""Coins: flat round metal with a rim, a relief lit from the side, and often a worn or chipped outline."""

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
    shrunk,
    smooth_noise,
    trimmed,
    uniform,
    unit_grid,
    warped,
)

METALS = (
    (0.86, 0.68, 0.30),
    (0.80, 0.80, 0.82),
    (0.72, 0.43, 0.26),
    (0.48, 0.40, 0.28),
    (0.58, 0.58, 0.58),
    (0.36, 0.36, 0.34),
)


def draw(rng: Rng, size: int, light: Light, elevation: float) -> Sprite:
    """A coin whose longer side is about ``size`` px, seen from ``elevation`` radians above its plane."""
    n = max(16, size * SUPERSAMPLE)
    x, y = unit_grid(n, n)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    outline = _outline(rng, angle)
    alpha = np.clip((outline - radius) * n / 2, 0, 1)
    ancient = chance(rng, 0.5)
    height = _relief(rng, n, as_array(radius / outline), angle, ancient)
    colour = _lit_metal(rng, height, light, ancient)
    return _laid_down(rng, colour, as_array(alpha), elevation)


def _outline(rng: Rng, angle: Array) -> Array:
    edge = np.full_like(angle, 0.94)
    if chance(rng, 0.6):
        strength = uniform(rng, 0.005, 0.045)
        for k in (2, 3, 4, 5, 7, 11):
            edge += as_array(strength * rng.normal() / np.sqrt(k) * np.cos(k * angle + uniform(rng, 0, 6.3)))
    if chance(rng, 0.2):
        chip = np.cos(angle - uniform(rng, 0, 6.3))
        edge -= as_array(uniform(rng, 0.03, 0.14) * np.clip((chip - 0.93) / 0.07, 0, 1))
    return np.clip(edge, 0.7, 0.99)


def _relief(rng: Rng, n: int, radius: Array, angle: Array, ancient: bool) -> Array:
    height = _figure(rng, n) * as_array(np.clip((0.8 - radius) * 8, 0, 1)) * uniform(rng, 0.7, 1.3)
    if chance(rng, 0.8):
        where, width = uniform(rng, 0.88, 0.96), uniform(rng, 0.03, 0.07)
        height += as_array(uniform(rng, 0.3, 1.0) * np.exp(-(((radius - where) / width) ** 2)))
    if chance(rng, 0.6):
        letters = smooth_noise(rng, 1, 256, uniform(rng, 30, 90))[0]
        ring = as_array(np.exp(-(((radius - uniform(rng, 0.74, 0.82)) / 0.06) ** 2)))
        marks = letters[((angle / 6.2832 + 0.5) * 255).astype(np.int64).clip(0, 255)] > 0.55
        height += as_array(0.5 * ring * marks)
    wear = fractal_noise(rng, n, n, uniform(rng, 3, 9))
    return as_array(height + wear * (uniform(rng, 0.3, 1.0) if ancient else uniform(rng, 0.0, 0.3)))


def _figure(rng: Rng, n: int) -> Array:
    """A raised shape [n, n] in 0..1: a head in profile, a standing figure, a numeral, a star or a blot."""
    mask = np.zeros((n, n), np.uint8)
    kind = rng.integers(0, 5)
    if kind == 0:
        _head(rng, mask)
    elif kind == 1:
        _standing(rng, mask)
    elif kind == 2:
        text = str(rng.choice(["1", "2", "5", "10", "20", "50", "V", "X", "AE", "II"]))
        scale = n / 45 / len(text) ** 0.7
        (w, h), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, max(1, n // 12))
        cv2.putText(mask, text, ((n - w) // 2, (n + h) // 2), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, max(1, n // 12))
    elif kind == 3:
        x, y = unit_grid(n, n)
        rays = int(rng.integers(4, 13))
        wave = 0.42 + 0.2 * np.cos(rays * np.arctan2(y, x) + uniform(rng, 0, 6))
        mask[np.hypot(x, y) < wave] = 255
    else:
        mask[fractal_noise(rng, n, n, uniform(rng, 3, 5), 3) > uniform(rng, 0.45, 0.6)] = 255
    soft = as_array(cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), max(0.8, n * uniform(rng, 0.012, 0.035))))
    return as_array(soft * (0.75 + 0.5 * fractal_noise(rng, n, n, 5, 3)))


def _head(rng: Rng, mask: "cv2.typing.MatLike") -> None:
    n = mask.shape[0]
    flip = 1 if chance(rng, 0.5) else -1
    turn = uniform(rng, -25, 25)

    def blob(x: float, y: float, a: float, b: float, tilt: float = 0.0) -> None:
        centre = (int(n * (0.5 + flip * x)), int(n * (0.5 + y)))
        cv2.ellipse(mask, centre, (max(1, int(n * a)), max(1, int(n * b))), turn + flip * tilt, 0, 360, 255, -1)

    blob(0, -0.06, 0.16 + rng.random() * 0.05, 0.2 + rng.random() * 0.04, 10)
    blob(-0.05, -0.14, 0.19, 0.13, -15)
    blob(0.17, -0.02, 0.05, 0.035, 30)
    blob(0.1, 0.1, 0.07, 0.05)
    blob(-0.05, 0.2, 0.09, 0.13, 15)


def _standing(rng: Rng, mask: "cv2.typing.MatLike") -> None:
    n = mask.shape[0]
    for _ in range(int(rng.integers(3, 7))):
        centre = (int(n * uniform(rng, 0.34, 0.66)), int(n * uniform(rng, 0.28, 0.72)))
        axes = (max(1, int(n * uniform(rng, 0.03, 0.1))), max(1, int(n * uniform(rng, 0.08, 0.24))))
        cv2.ellipse(mask, centre, axes, uniform(rng, -60, 60), 0, 360, 255, -1)


def _lit_metal(rng: Rng, height: Array, light: Light, ancient: bool) -> Array:
    n = height.shape[0]
    slope = uniform(rng, 0.05, 0.16) * n
    gx = as_array(cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3)) / 8 * slope
    gy = as_array(cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3)) / 8 * slope
    norm = 1 / np.sqrt(1 + gx**2 + gy**2)
    lambert = light.on(-gx * norm, -gy * norm, norm)
    base = as_array(METALS[int(rng.integers(len(METALS)))]) * uniform(rng, 0.75, 1.2)
    shade = light.ambient + (1 - light.ambient) * lambert
    colour = base * shade[..., None]
    if ancient:
        patina = 0.65 + 0.5 * fractal_noise(rng, n, n, uniform(rng, 3, 8))
        colour = colour * patina[..., None]
    else:
        colour = colour + (uniform(rng, 0.1, 0.5) * lambert ** uniform(rng, 6, 20))[..., None]
    return as_array(np.clip(colour, 0, 1))


def _laid_down(rng: Rng, colour: Array, alpha: Array, elevation: float) -> Sprite:
    n = alpha.shape[0]
    squash = float(np.sin(elevation))
    turn = cv2.getRotationMatrix2D((n / 2, n / 2), uniform(rng, 0, 360), 1.0)
    matrix = np.diag([1.0, squash, 1.0]) @ np.vstack([turn, [0, 0, 1]])
    thickness = max(1, int(n * uniform(rng, 0.03, 0.07) * np.cos(elevation)))
    size = (n, int(n * squash) + thickness + 1)
    face, cover = warped(colour, alpha, matrix, size)
    # The edge is the face's own outline, moved down pixel by pixel and darkened.
    edge = cover.copy()
    for step in range(1, thickness + 1):
        edge[step:] = np.maximum(edge[step:], cover[:-step])
    out = as_array(face * cover[..., None] + colour.mean((0, 1)) * uniform(rng, 0.35, 0.7) * (1 - cover)[..., None])
    small, thin = shrunk(out, edge)
    return trimmed(Sprite(small, thin, lift=0.06))
