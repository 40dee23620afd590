"""Cards: thin printed rectangles lying flat: playing cards and their backs, bank cards, visiting cards, passes."""

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
    smooth_noise,
    trimmed,
    uniform,
    warped,
    write,
)

RED, BLACK = (0.78, 0.08, 0.10), (0.07, 0.07, 0.09)
LONG, SHORT = 192, 128

Mask = npt.NDArray[np.uint8]


def draw(rng: Rng, size: int, light: Light, elevation: float) -> Sprite:
    """A card whose longer side is about ``size`` px, seen from ``elevation`` radians above its plane."""
    print_on = (_playing, _playing, _back, _bank, _visiting, _pass)[int(rng.integers(0, 6))]
    face = print_on(rng)
    height, width = face.shape[:2]
    alpha = _rounded(height, width, int(min(height, width) * uniform(rng, 0.05, 0.1)))
    gloss = 0.9 + 0.2 * smooth_noise(rng, height, width, 1.5) * light.direction[2]
    colour = as_array(np.clip(face * gloss[..., None], 0, 1))
    turn = np.radians(uniform(rng, 0, 360))
    reach = size * SUPERSAMPLE
    squash = max(0.35, float(np.sin(elevation)))
    corners = np.array([[-width, -height], [width, -height], [width, height], [-width, height]], np.float32)
    spun = corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]], np.float32)
    far = 1 + uniform(rng, 0.0, 0.12) * spun[:, 1] / LONG
    laid = np.stack([spun[:, 0] * far, spun[:, 1] * far * squash], 1)
    low, high = laid.min(0), laid.max(0)
    scale = (reach - 4) / float((high - low).max())
    quad = ((laid - low) * scale + 2).astype(np.float32)
    out_size = (int((high - low)[0] * scale) + 4, int((high - low)[1] * scale) + 4)
    source = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    # Blur before shrinking: a small card warped from a large print would sparkle.
    ratio = width / max(1.0, float(np.linalg.norm(quad[1] - quad[0])))
    if ratio > 1.2:
        colour = as_array(cv2.GaussianBlur(colour, (0, 0), 0.45 * ratio))
    matrix = cv2.getPerspectiveTransform(source, quad)
    small, thin = shrunk(*warped(colour, alpha, matrix, out_size))
    return trimmed(Sprite(small, thin, lift=0.03))


def _rounded(height: int, width: int, radius: int) -> Array:
    mask = np.zeros((height, width), np.uint8)
    cv2.rectangle(mask, (radius, 0), (width - radius - 1, height - 1), 255, -1)
    cv2.rectangle(mask, (0, radius), (width - 1, height - radius - 1), 255, -1)
    for x in (radius, width - radius - 1):
        for y in (radius, height - radius - 1):
            cv2.circle(mask, (x, y), radius, 255, -1)
    return as_array(as_array(mask) / 255)


def pip(kind: int, size: int) -> Mask:
    """One suit sign [size, size] as a mask: heart, diamond, club or spade."""
    mask = np.zeros((size, size), np.uint8)
    s = size

    def disc(x: float, y: float, r: float) -> None:
        cv2.circle(mask, (int(x * s), int(y * s)), max(1, int(r * s)), 255, -1)

    def shape(*points: tuple[float, float]) -> None:
        cv2.fillPoly(mask, [np.array([[int(x * s), int(y * s)] for x, y in points], np.int32)], 255)

    if kind == 0:
        disc(0.3, 0.33, 0.22)
        disc(0.7, 0.33, 0.22)
        shape((0.1, 0.43), (0.9, 0.43), (0.5, 0.95))
    elif kind == 1:
        shape((0.5, 0.03), (0.85, 0.5), (0.5, 0.97), (0.15, 0.5))
    elif kind == 2:
        disc(0.5, 0.25, 0.2)
        disc(0.27, 0.55, 0.2)
        disc(0.73, 0.55, 0.2)
        shape((0.45, 0.4), (0.55, 0.4), (0.65, 0.95), (0.35, 0.95))
    else:
        disc(0.3, 0.57, 0.21)
        disc(0.7, 0.57, 0.21)
        shape((0.1, 0.5), (0.9, 0.5), (0.5, 0.04))
        shape((0.45, 0.6), (0.55, 0.6), (0.65, 0.96), (0.35, 0.96))
    return mask


def _playing(rng: Rng) -> Array:
    face = np.full((LONG, SHORT, 3), uniform(rng, 0.9, 1.0), np.float32)
    suit = int(rng.integers(0, 4))
    ink = as_array(RED if suit < 2 else BLACK)
    count = int(rng.choice([1, 2, 3, 4, 5, 6, 8, 9]))
    large = pip(suit, 62 if count == 1 else 30)
    rows = {1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 6: 3, 8: 4, 9: 3}[count]
    columns = -(-count // rows)
    for i in range(count):
        row, column = i % rows, i // rows
        _stamp(face, large, ink, (column + 1) / (columns + 1), 0.12 + 0.76 * (row + 0.5) / rows)
    small = pip(suit, 18)
    for x, y in ((0.1, 0.15), (0.9, 0.85)):
        _stamp(face, small, ink, x, y)
    write(face, str(count), (5, 20), 0.6, ink)
    return face


def _stamp(face: Array, mask: Mask, ink: Array, x: float, y: float) -> None:
    s = mask.shape[0]
    top, left = int(y * face.shape[0] - s / 2), int(x * face.shape[1] - s / 2)
    top, left = int(np.clip(top, 0, face.shape[0] - s)), int(np.clip(left, 0, face.shape[1] - s))
    face[top : top + s, left : left + s][mask > 0] = ink


def _back(rng: Rng) -> Array:
    face = np.full((LONG, SHORT, 3), 0.95, np.float32)
    ink = random_colour(rng, (0.5, 0.95), (0.3, 0.75))
    ys, xs = np.mgrid[0:LONG, 0:SHORT]
    step = int(rng.integers(12, 22))
    lattice = ((xs + ys) % step < step // 3) | ((xs - ys) % step < step // 3)
    inner = (slice(9, LONG - 9), slice(9, SHORT - 9))
    face[inner] = np.where(lattice[inner][..., None], ink, ink * 0.4 + 0.5)
    return face


def _bank(rng: Rng) -> Array:
    first, second = random_colour(rng, (0.2, 0.9), (0.2, 0.9)), random_colour(rng, (0.2, 0.9), (0.2, 0.9))
    blend = fractal_noise(rng, SHORT, LONG, 2, 2)[..., None]
    face = as_array(first + (second - first) * blend)
    face[40:66, 18:52] = (0.88, 0.75, 0.40)
    face[52:54, 18:52] *= 0.5
    face[40:66, 34:36] *= 0.5
    ink = 0.95 if face.mean() < 0.6 else 0.1
    for group in range(4):
        write(face, str(rng.integers(1000, 9999)), (18 + group * 42, 90), 0.42, as_array([ink, ink, ink]))
    face[104:108, 18 : 18 + int(rng.integers(60, 110))] = ink
    cv2.circle(face, (158, 106), 13, (0.9, 0.2, 0.15), -1)
    cv2.circle(face, (172, 106), 13, (0.95, 0.65, 0.15), -1)
    return face


def _visiting(rng: Rng) -> Array:
    face = np.empty((SHORT, LONG, 3), np.float32)
    face[:] = random_colour(rng, (0.0, 0.12), (0.9, 1.0))
    ink, accent = random_colour(rng, (0.0, 0.5), (0.05, 0.3)), random_colour(rng, (0.4, 0.95), (0.3, 0.8))
    if chance(rng, 0.5):
        face[:, : int(rng.integers(14, 40))] = accent
    else:
        face[: int(rng.integers(14, 34))] = accent
    cv2.circle(face, (158, 66), int(rng.integers(12, 22)), tuple(map(float, accent)), -1)
    for row in range(46, 116, 13):
        face[row : row + 5, 48 : 48 + int(rng.integers(40, 85))] = ink
    return face


def _pass(rng: Rng) -> Array:
    face = np.empty((SHORT, LONG, 3), np.float32)
    face[:] = random_colour(rng, (0.02, 0.25), (0.82, 1.0))
    face[:22] = random_colour(rng, (0.4, 0.95), (0.25, 0.7))
    face[36:106, 14:66] = random_colour(rng, (0.1, 0.5), (0.55, 0.8))
    tone = random_colour(rng, (0.2, 0.6), (0.2, 0.6))
    cv2.circle(face, (40, 62), 14, tuple(map(float, tone)), -1)
    cv2.ellipse(face, (40, 104), (22, 24), 0, 180, 360, tuple(map(float, tone)), -1)
    for row in range(42, 104, 13):
        face[row : row + 5, 78 : 78 + int(rng.integers(50, 100))] = 0.15
    return face
