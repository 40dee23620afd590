"""What the tests of whole animations share: a drawn head, sounds, clips, and an engine with the miniature."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from adapters.aniportrait.requests import AnimateRequest, Animation, Speech
from adapters.aniportrait.spec import SPEC
from kit.audio import Sound
from kit.images import Picture, picture_from_array
from kit.video import ClipWriter
from loader.engine import Engine
from loader.outcome import Result, Step
from loader.wishes import Wishes

SMALL = Wishes(variant="miniature", size=(64, 64), steps=2, frames=4, dtype="fp32")


def head(height: int = 160, width: int = 120, x: float = 0.5, *, face: bool = True) -> np.ndarray:
    """A grey picture with an oval in it, which the stand-in takes for a head."""
    picture = np.full((height, width, 3), 200, np.uint8)
    if face:
        cv2.ellipse(picture, (int(x * width), height // 2), (width // 5, height // 3), 0, 0, 360, (180, 120, 90), -1)
    return picture


def portrait(name: str = "head.png", **shape: Any) -> Picture:
    return picture_from_array(head(**shape), name=name)


def tone(seconds: float, rate: int = 16_000, name: str = "said.wav") -> Sound:
    t = np.arange(round(seconds * rate)) / rate
    return Sound((0.4 * np.sin(2 * np.pi * 180 * t) * np.sin(2 * np.pi * 3 * t)).astype(np.float32), rate, name)


def clip(path: Path, frames: Sequence[np.ndarray], times: Sequence[float] | None = None, fps: float = 10) -> Path:
    with ClipWriter(path, fps=fps) as writer:
        for index, frame in enumerate(frames):
            writer.write(frame, times[index] if times else index / fps)
    return path


def request(folder: Path, **changes: Any) -> AnimateRequest:
    return replace(AnimateRequest(portrait(), Speech(tone(1.0)), folder), **changes)


def steps(engine: Engine, asked: AnimateRequest, wishes: Wishes = SMALL) -> Iterator[Step | Result]:
    return engine.run(SPEC, asked, wishes)


def run(engine: Engine, asked: AnimateRequest, wishes: Wishes = SMALL) -> tuple[Animation, Result]:
    *_, result = steps(engine, asked, wishes)
    (made,) = result.outputs
    return made, result
