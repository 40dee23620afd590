"""A whole scene as a pure function of its seed: ground, objects with shadows, light, and the camera's faults."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from training.scenes import ball, box, card, coin, cup
from training.scenes.background import clutter, ground
from training.scenes.camera import photographed
from training.scenes.canvas import Array, Light, Rng, Sprite, as_array, chance, paste, uniform

LABELS = ("coin", "ball", "box", "cup", "card")
DRAWERS = (coin.draw, ball.draw, box.draw, cup.draw, card.draw)

MIN_VISIBLE = 0.45
"""An object of which less than this share is visible has no label."""

MIN_CONTRAST = 0.045
"""Mean difference from the ground (0..1, after haze) below which an object has no label."""

MIN_SIDE_PX = 12
"""A visible part whose longer side is shorter than this has no label."""


@dataclass(frozen=True)
class Scene:
    """``image`` uint8 [H, W, 3] RGB; ``boxes`` float32 [n, 4] xyxy in px; ``labels`` int64 [n], indices of LABELS."""

    image: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Spot:
    """Where an object goes: class index (-1 is clutter), centre and longer side in px."""

    label: int
    x: float
    y: float
    side: int


def render(seed: int, size: int | tuple[int, int] = 320) -> Scene:
    """Draws the scene of ``seed``.

    Args:
        seed: any non-negative integer; the same seed and size give the same bytes.
        size: side of a square scene, or (height, width), in px.
    """
    height, width = (size, size) if isinstance(size, int) else size
    rng = np.random.default_rng([seed, height, width])
    return composed(rng, ground(rng, height, width), _layout(rng, height, width), _elevation(rng))


def composed(rng: Rng, canvas: Array, spots: list[Spot], elevation: float, *, clean: bool = False) -> Scene:
    """Draws ``spots`` on ``canvas`` [H, W, 3] (changed in place), then photographs it.

    Args:
        rng: source of everything random.
        canvas: the ground, 0..1.
        spots: objects, in the order they are drawn.
        elevation: of the camera above the ground, radians.
        clean: a good camera: no grey, little noise and blur.
    """
    light = _light(rng)
    before = canvas.copy()
    height, width = canvas.shape[:2]
    whole: list[float] = []
    owner = np.full((height, width), -1, np.int16)
    for index, spot in enumerate(spots):
        tilt = float(np.clip(elevation + rng.normal(0, 0.06), 0.42, 1.57))
        draw = clutter if spot.label < 0 else DRAWERS[spot.label]
        sprite = clutter(rng, spot.side, light) if draw is clutter else DRAWERS[spot.label](rng, spot.side, light, tilt)
        h, w = sprite.alpha.shape
        left, top = round(spot.x - w / 2), round(spot.y - h / 2)
        _cast_shadow(rng, canvas, sprite, (left, top), light)
        owner[paste(canvas, sprite, left, top) > 0.5] = index
        whole.append(float((sprite.alpha > 0.5).sum()))
    haze = uniform(rng, 0.5, 1.0) if chance(rng, 0.25) and not clean else 1.0
    keep = [
        i for i, spot in enumerate(spots) if spot.label >= 0 and _is_seen(canvas, before, owner == i, whole[i], haze)
    ]
    boxes = np.array([_extent(owner == i) for i in keep], np.float32).reshape(-1, 4)
    labels = np.array([spots[i].label for i in keep], np.int64)
    return Scene(photographed(rng, canvas, haze, clean=clean), boxes, labels)


def _elevation(rng: Rng) -> float:
    """Of the camera above the ground, radians: straight down in a third of the scenes."""
    return 1.5 if chance(rng, 0.35) else uniform(rng, 0.5, 1.3)


def _light(rng: Rng) -> Light:
    around, height = uniform(rng, 0, 6.2832), uniform(rng, 0.5, 1.1)
    direction = (np.cos(around) * np.cos(height), -abs(np.sin(around)) * np.cos(height), np.sin(height))
    return Light((float(direction[0]), float(direction[1]), float(direction[2])), uniform(rng, 0.25, 0.5))


def _layout(rng: Rng, height: int, width: int) -> list[Spot]:
    kind = rng.random()
    if kind < 0.03:
        spots: list[Spot] = []
    elif kind < 0.22:
        spots = _grid(rng, height, width)
    else:
        spots = _scatter(rng, height, width)
    extra = int(rng.integers(0, 5)) if chance(rng, 0.6) else 0
    short = min(height, width)
    for _ in range(extra):
        spot = Spot(-1, uniform(rng, 0, width), uniform(rng, 0, height), int(short * uniform(rng, 0.06, 0.3)))
        spots.insert(int(rng.integers(0, len(spots) + 1)) if chance(rng, 0.3) else 0, spot)
    return spots


def _grid(rng: Rng, height: int, width: int) -> list[Spot]:
    """Rows of one class, or of two, as in a collection laid out on a table."""
    across, down = int(rng.integers(2, 7)), int(rng.integers(2, 6))
    pitch_x, pitch_y = width / across, height / down
    side = min(pitch_x, pitch_y)
    # Coins come in such rows more often than the rest, but never alone for long.
    kinds = rng.choice(5, 2, p=[0.36, 0.16, 0.16, 0.16, 0.16])
    mix = uniform(rng, 0.0, 0.6) if chance(rng, 0.5) else 0.0
    spots = []
    for row in range(down):
        for column in range(across):
            if chance(rng, 0.08):
                continue
            x = (column + 0.5 + rng.normal(0, 0.05)) * pitch_x
            y = (row + 0.5 + rng.normal(0, 0.05)) * pitch_y
            label = int(kinds[1] if chance(rng, mix) else kinds[0])
            spots.append(Spot(label, x, y, max(20, int(side * uniform(rng, 0.6, 0.98)))))
    return spots


def _scatter(rng: Rng, height: int, width: int) -> list[Spot]:
    """Objects of all classes thrown down, the nearer (lower) ones in front, few overlapping much."""
    short = min(height, width)
    typical = short * float(np.exp(uniform(rng, np.log(0.13), np.log(0.42))))
    count = int(np.clip(rng.poisson(0.3 * height * width / typical**2) + 1, 1, 14))
    placed: list[Spot] = []
    for _ in range(count):
        side = int(np.clip(typical * np.exp(rng.normal(0, 0.22)), 24, short * 0.6))
        for _ in range(12):
            x, y = uniform(rng, 0.02, 0.98) * width, uniform(rng, 0.02, 0.98) * height
            gaps = [np.hypot(x - s.x, y - s.y) / (side + s.side) for s in placed]
            if min(gaps, default=1.0) > uniform(rng, 0.3, 0.5):
                placed.append(Spot(int(rng.integers(0, 5)), x, y, side))
                break
    return sorted(placed, key=lambda s: s.y)


def _cast_shadow(rng: Rng, canvas: Array, sprite: Sprite, corner: tuple[int, int], light: Light) -> None:
    h, w = sprite.alpha.shape
    pad = max(4, int(0.5 * max(h, w)))
    x, y, z = light.direction
    reach = sprite.lift * h * float(np.hypot(x, y)) / max(z, 0.3) * 0.5
    length = max(float(np.hypot(x, y)), 1e-3)
    dx, dy = -x / length * reach, -y / length * reach * 0.5
    squash = 0.5 if sprite.lift > 0.3 else 1.0
    # The silhouette is squashed towards its foot, then leans away from the light.
    foot = pad + h
    matrix = np.array([[1, -dx / max(h, 1) * 1.2, dx * 1.2 * foot / max(h, 1)], [0, squash, foot * (1 - squash) + dy]])
    if squash == 1.0:
        matrix = np.array([[1, 0, dx], [0, 1, dy + 1]], np.float64)
    padded = np.pad(sprite.alpha, pad)
    shadow = as_array(cv2.warpAffine(padded, matrix, (w + 2 * pad, h + 2 * pad)))
    shadow = as_array(cv2.GaussianBlur(shadow, (0, 0), max(0.7, uniform(rng, 0.01, 0.06) * max(h, w))))
    dark = Sprite(np.zeros((*shadow.shape, 3), np.float32), shadow * uniform(rng, 0.1, 0.65), 0)
    paste(canvas, dark, corner[0] - pad, corner[1] - pad)


def _is_seen(canvas: Array, before: Array, mask: npt.NDArray[np.bool_], whole: float, haze: float) -> bool:
    visible = int(mask.sum())
    if visible < MIN_VISIBLE * whole or visible == 0:
        return False
    box = _extent(mask)
    if max(box[2] - box[0], box[3] - box[1]) < MIN_SIDE_PX:
        return False
    return float(np.abs(canvas[mask] - before[mask]).mean()) * haze >= MIN_CONTRAST


def _extent(mask: npt.NDArray[np.bool_]) -> tuple[float, float, float, float]:
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
