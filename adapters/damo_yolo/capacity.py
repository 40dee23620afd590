"""How many camera streams a machine keeps up with, from what a run really took."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from loader.errors import InputError

STREAM_FPS = 30.0
TEXTS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "several": "{rate:.1f} pictures a second: keeps up with {streams} streams of {fps:g} frames a second",
        "one": "{rate:.1f} pictures a second: keeps up with 1 stream of {fps:g} frames a second",
        "part": "{rate:.1f} pictures a second: too slow for every frame of a stream of {fps:g} a second, "
        "fast enough for one in {every} of them",
    },
    "zh": {
        "several": "每秒 {rate:.1f} 张：可同时处理 {streams} 路每秒 {fps:g} 帧的视频流",
        "one": "每秒 {rate:.1f} 张：可处理 1 路每秒 {fps:g} 帧的视频流",
        "part": "每秒 {rate:.1f} 张：不足以逐帧处理每秒 {fps:g} 帧的视频流，可每 {every} 帧处理一帧",
    },
}


@dataclass(frozen=True)
class Capacity:
    """What a machine keeps up with.

    Attributes:
        rate: pictures a second.
        fps: frames a second of one stream.
        streams: whole streams at that rate, every frame looked at; 0 if not even one.
        every: of one stream, each how-manieth frame can be looked at; 1 if all.
    """

    rate: float
    fps: float
    streams: int
    every: int


def capacity(seconds: float, pictures: int, *, fps: float = STREAM_FPS) -> Capacity:
    """From a measured run: ``seconds`` for ``pictures``, in batches as the plan had them.

    Raises:
        InputError: nothing was measured, or a rate that is none.
    """
    if seconds <= 0 or pictures < 1 or fps <= 0:
        raise InputError(
            f"capacity needs a measured run and a rate above 0, got {pictures} pictures in {seconds:g} s at {fps:g} fps"
        )
    rate = pictures / seconds
    return Capacity(rate=rate, fps=fps, streams=int(rate // fps), every=max(1, ceil(fps / rate)))


def capacity_text(held: Capacity, language: str = "en") -> str:
    """One sentence part: pictures a second and what they suffice for."""
    key = "several" if held.streams > 1 else "one" if held.streams == 1 else "part"
    return TEXTS[language][key].format(rate=held.rate, streams=held.streams, fps=held.fps, every=held.every)
