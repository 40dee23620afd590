"""The example that ships: a head that was never photographed, and a sound nobody said.

``python -m adapters.aniportrait.rendered`` writes both to ``assets/examples``. The head is a signed distance field
(ellipsoids and capsules, smoothly joined) seen by sphere tracing (Hart, 1996); the sound is a pulse train through the
formants of a few vowels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kit.audio import Sound, write_wav

Floats = NDArray[np.float64]
Rgb = NDArray[np.uint8]
FOLDER = Path(__file__).parents[2] / "assets" / "examples"
PICTURE, SOUND = "portrait_rendered.png", "speech_synthesised.wav"
SIDE, FINER = 400, 2
EYE = np.array([0.0, -0.12, 6.4])
VIEW = 0.265  # half the picture at distance 1
STEPS, FAR, CLOSE = 70, 9.0, 2e-3
LIGHTS = ((-0.45, 0.55, 0.75, 0.78), (0.8, 0.15, 0.5, 0.26), (0.0, 1.0, 0.1, 0.16))  # direction and strength
SKIN, HAIR, LIPS, WHITE, IRIS, PUPIL, CLOTH, BROW = range(8)
COLOURS = np.array(
    [
        (0.86, 0.66, 0.55),
        (0.20, 0.13, 0.09),
        (0.76, 0.43, 0.40),
        (0.93, 0.93, 0.92),
        (0.27, 0.42, 0.36),
        (0.03, 0.03, 0.03),
        (0.22, 0.31, 0.46),
        (0.27, 0.18, 0.13),
    ]
)


class Part(NamedTuple):
    """A surface and what it is made of."""

    distance: Callable[[Floats], Floats]
    material: int


def _ball(p: Floats, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Floats:
    """Distance to an ellipsoid, near enough for tracing."""
    q = (p - centre) / radii
    length = np.linalg.norm(q, axis=-1)
    return np.asarray(length * (length - 1) / np.maximum(np.linalg.norm(q / radii, axis=-1), 1e-9))


def _rod(p: Floats, start: tuple[float, float, float], end: tuple[float, float, float], radius: float) -> Floats:
    """Distance to a capsule."""
    a, b = np.asarray(start), np.asarray(end)
    along = np.clip(((p - a) @ (b - a)) / ((b - a) @ (b - a)), 0, 1)[..., None]
    return np.asarray(np.linalg.norm(p - a - along * (b - a), axis=-1) - radius)


def _join(first: Floats, second: Floats, round_by: float) -> Floats:
    """Union with a rounded seam."""
    share = np.clip(0.5 + 0.5 * (second - first) / round_by, 0, 1)
    return np.asarray(second + (first - second) * share - round_by * share * (1 - share))


def _dig(first: Floats, second: Floats, round_by: float) -> Floats:
    """The first without the second."""
    return -_join(-first, second, round_by)


def _mirrored(p: Floats) -> Floats:
    """Both halves as one."""
    return np.concatenate((np.abs(p[..., :1]), p[..., 1:]), axis=-1)


def _skin(p: Floats) -> Floats:
    m = _mirrored(p)
    head = _join(_ball(p, (0, 0.16, -0.06), (0.78, 0.98, 0.88)), _ball(p, (0, -0.48, 0.14), (0.53, 0.62, 0.60)), 0.25)
    head = _join(head, _ball(m, (0.36, -0.18, 0.42), (0.28, 0.26, 0.28)), 0.18)
    head = _dig(head, _ball(m, (0.30, 0.13, 0.92), (0.20, 0.12, 0.18)), 0.12)
    head = _join(head, _rod(m, (0.12, 0.30, 0.78), (0.42, 0.31, 0.64), 0.05), 0.12)
    nose = _join(
        _rod(p, (0, 0.16, 0.80), (0, -0.16, 0.96), 0.075), _ball(p, (0, -0.20, 0.96), (0.105, 0.085, 0.09)), 0.09
    )
    nose = _join(nose, _ball(m, (0.105, -0.215, 0.86), (0.06, 0.055, 0.07)), 0.07)
    head = _join(head, nose, 0.10)
    head = _join(head, _ball(p, (0, -0.95, 0.50), (0.20, 0.14, 0.16)), 0.16)
    head = _join(head, _rod(p, (0, -0.8, -0.12), (0, -2.2, -0.2), 0.36), 0.16)
    return _join(head, _ball(m, (0.79, 0.03, -0.08), (0.09, 0.22, 0.14)), 0.05)


def _lids(p: Floats) -> Floats:
    m = _mirrored(p)
    ball = _ball(m, (0.30, 0.12, 0.62), (0.185, 0.175, 0.175))
    height, outward = m[..., 1] - 0.12, m[..., 0] - 0.30
    opening = np.maximum(height - 0.062 + 1.2 * outward**2, -height - 0.052 + 1.0 * outward**2)
    return np.maximum(ball, -opening)


def _eyes(p: Floats) -> Floats:
    return _ball(_mirrored(p), (0.30, 0.12, 0.62), (0.17, 0.16, 0.165))


def _lips(p: Floats) -> Floats:
    m = _mirrored(p)
    bow = _ball(m, (0.055, -0.545, 0.742), (0.06, 0.030, 0.05))
    upper = _join(_rod(m, (0.02, -0.553, 0.745), (0.25, -0.588, 0.60), 0.026), bow, 0.04)
    middle = _rod(p, (-0.10, -0.618, 0.722), (0.10, -0.618, 0.722), 0.040)
    lower = _join(middle, _rod(m, (0.08, -0.618, 0.718), (0.24, -0.592, 0.61), 0.022), 0.05)
    return np.minimum(upper, lower)


def _hair(p: Floats) -> Floats:
    cap = _ball(p, (0, 0.30, -0.14), (0.88, 1.0, 0.94))
    cap = _join(cap, _ball(_mirrored(p), (0.74, -0.10, -0.25), (0.17, 0.62, 0.42)), 0.15)
    cap = _dig(cap, _ball(p, (0.06, -0.12, 1.02), (0.74, 0.80, 0.78)), 0.08)
    waves = 0.012 * np.sin(26 * p[..., 0] + 7 * p[..., 1] + 5 * p[..., 2])
    return np.asarray(cap + waves)


def _brows(p: Floats) -> Floats:
    m = _mirrored(p)
    inner = _rod(m, (0.16, 0.365, 0.805), (0.34, 0.405, 0.735), 0.026)
    return _join(inner, _rod(m, (0.34, 0.405, 0.735), (0.49, 0.345, 0.61), 0.018), 0.02)


def _clothes(p: Floats) -> Floats:
    body = _ball(p, (0, -2.25, -0.25), (1.55, 0.72, 0.75))
    return _join(body, _rod(p, (0, -1.5, -0.18), (0, -1.8, -0.2), 0.44), 0.12)


PARTS = (
    Part(_skin, SKIN),
    Part(_lids, SKIN),
    Part(_eyes, WHITE),
    Part(_lips, LIPS),
    Part(_hair, HAIR),
    Part(_brows, BROW),
    Part(_clothes, CLOTH),
)


def _scene(p: Floats) -> Floats:
    return np.asarray(np.min([part.distance(p) for part in PARTS], axis=0))


def _normals(p: Floats) -> Floats:
    steps = np.eye(3) * 1.5e-3
    slopes = np.stack([_scene(p + step) - _scene(p - step) for step in steps], axis=-1)
    return np.asarray(slopes / np.maximum(np.linalg.norm(slopes, axis=-1, keepdims=True), 1e-9))


def _materials(p: Floats) -> NDArray[np.intp]:
    kinds = np.array([part.material for part in PARTS])
    found = kinds[np.argmin([part.distance(p) for part in PARTS], axis=0)]
    away = np.linalg.norm(_mirrored(p)[..., :2] - [0.295, 0.12], axis=-1)
    found[(found == WHITE) & (away < 0.072)] = IRIS
    found[(found == IRIS) & (away < 0.032)] = PUPIL
    return np.asarray(found)


def _shaded(p: Floats, towards: Floats) -> Floats:
    normal, kind = _normals(p), _materials(p)
    colour = COLOURS[kind]
    light = np.full(len(p), 0.26)
    shine = np.zeros(len(p))
    for x, y, z, strength in LIGHTS:
        direction = np.array([x, y, z]) / np.linalg.norm([x, y, z])
        # Light wraps a little around skin.
        light += strength * np.clip((normal @ direction + 0.25) / 1.25, 0, 1)
        half = direction - towards
        half /= np.linalg.norm(half, axis=-1, keepdims=True)
        shine += strength * np.clip((normal * half).sum(axis=-1), 0, 1) ** 40
    gloss = np.array([0.12, 0.16, 0.22, 0.5, 0.7, 0.9, 0.03, 0.05])[kind]
    # What lies in folds gets less light.
    fold = np.clip(_scene(p + 0.09 * normal) / 0.09, 0, 1)
    return np.asarray(colour * (light * (0.55 + 0.45 * fold))[:, None] + (gloss * shine)[:, None])


def render_portrait(side: int = SIDE) -> Rgb:
    """The head as a square picture ``[side, side, 3]``."""
    across = np.linspace(-VIEW, VIEW, side * FINER)
    x, y = np.meshgrid(across, -across)
    rays = np.stack((x, y, -np.ones_like(x)), axis=-1).reshape(-1, 3)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    distance, live = np.full(len(rays), 4.2), np.ones(len(rays), bool)
    hit = np.zeros(len(rays), bool)
    for _ in range(STEPS):
        gap = _scene(EYE + rays[live] * distance[live, None])
        distance[live] += 0.8 * gap
        places = np.flatnonzero(live)
        hit[places[gap < CLOSE]] = True
        live[places[(gap < CLOSE) | (distance[places] > FAR)]] = False
        if not live.any():
            break
    ground = 0.80 - 0.16 * np.linalg.norm(np.stack((x, y), axis=-1).reshape(-1, 2) - [-0.06, 0.08], axis=-1) / VIEW
    picture = ground[:, None] * np.array([0.93, 0.97, 1.0])
    picture[hit] = _shaded(EYE + rays[hit] * distance[hit, None], rays[hit])
    values = (np.clip(picture, 0, 1) ** (1 / 1.15) * 255).astype(np.uint8).reshape(side * FINER, side * FINER, 3)
    return np.asarray(Image.fromarray(values).resize((side, side), Image.Resampling.LANCZOS))


# --- the sound --------------------------------------------------------------------------------------------------

RATE = 16_000
VOWELS = {  # first three formants in hertz (Peterson and Barney, 1952)
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
SAID = "a-o-e-i.u-a-i-o.e-a"
SYLLABLE, PAUSE = 0.22, 0.18


def speech_like() -> Sound:
    """Vowels one after the other, with pauses: it moves a mouth and means nothing."""
    noise = np.random.default_rng(11)
    parts = []
    for index, letter in enumerate(SAID):
        if letter == "-":
            parts.append(0.01 * noise.normal(size=round(0.05 * RATE)))
        elif letter == ".":
            parts.append(np.zeros(round(PAUSE * RATE)))
        else:
            parts.append(_vowel(VOWELS[letter], 118 + 14 * np.sin(index)))
    samples = np.concatenate(parts)
    return Sound((0.5 * samples / np.abs(samples).max()).astype(np.float32), RATE, SOUND)


def _vowel(formants: tuple[int, ...], pitch: float) -> Floats:
    from scipy.signal import lfilter

    count = round(SYLLABLE * RATE)
    t = np.arange(count) / RATE
    phase = np.cumsum(pitch * (1 - 0.15 * t / SYLLABLE)) / RATE
    samples = np.diff(np.floor(phase), prepend=0.0)
    for hertz in formants:
        radius = np.exp(-np.pi * 90 / RATE)
        samples = lfilter([1 - radius], [1, -2 * radius * np.cos(2 * np.pi * hertz / RATE), radius**2], samples)
    return np.asarray(samples * np.sin(np.pi * np.arange(count) / count) ** 0.5)


def main(folder: Path = FOLDER) -> None:
    """Write the example's files."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(render_portrait()).save(folder / PICTURE, optimize=True)
    write_wav(folder / SOUND, speech_like())


if __name__ == "__main__":
    main()
