"""What a user asks of InstantID, checked where it enters: settings as plain data, pictures beside them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from adapters.instantid.schedulers import SCHEDULERS
from adapters.instantid.styles import NONE, STYLES
from kit.images import Picture
from loader.errors import InputError

MAX_PHOTOS, MAX_PROMPTS, MAX_PICTURES, MAX_PROMPT = 8, 8, 8, 6000
MAX_SEED = 2**31 - 1
STRENGTHS = (0.0, 1.5)
REGIONS = ("everywhere", "face", "mask")
BLENDS = ("mean", "sequence")
CONTROLS = ("pose", "canny", "depth")
CONTROL_STRENGTH = 0.4


@dataclass(frozen=True)
class Settings:
    """Everything of a drawing that is not a picture; what is saved with it and can be brought back.

    Attributes:
        prompts: what to draw, each of them ``pictures`` times.
        negative: what to avoid.
        style: name in ``STYLES``.
        identity: strength of IdentityNet, which places the face.
        likeness: strength of the face in the denoiser's attention.
        guidance: how closely the prompt is followed; None is the variant's own.
        scheduler: name in ``SCHEDULERS``; None is the variant's own.
        seed: of the first picture; the next ones count up.
        pictures: for each prompt.
        region: where the face may act: "everywhere", the "face" it has in the picture, or a "mask" that is given.
        change: of a picture to start from, how much is given up.
        enlarge: draw larger than the picture that gives the shape, if the plan allows it.
        guess_mode: ControlNets see the conditional half alone.
        face: which face of the first photo, from 0; None is the largest.
        blend: of several photos: the "mean" of their embeddings, or one token after the other ("sequence").
        controls: strength of the other ControlNets, by kind.
    """

    prompts: tuple[str, ...] = ("",)
    negative: str = ""
    style: str = NONE
    identity: float = 0.8
    likeness: float = 0.8
    guidance: float | None = None
    scheduler: str | None = None
    seed: int = 42
    pictures: int = 1
    region: str = "everywhere"
    change: float = 0.8
    enlarge: bool = False
    guess_mode: bool = False
    face: int | None = None
    blend: str = "mean"
    controls: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        for name in ("identity", "likeness"):
            _within(name, getattr(self, name), *STRENGTHS)
        for kind, strength in self.controls.items():
            _one_of("control", kind, CONTROLS)
            _within(f"strength of {kind}", strength, *STRENGTHS)
        _within("change", self.change, 0.0, 1.0)
        if self.guidance is not None:
            _within("guidance", self.guidance, 0.0, 20.0)
        _within("seed", self.seed, 0, MAX_SEED)
        _within("pictures", self.pictures, 1, MAX_PICTURES)
        _one_of("style", self.style, STYLES)
        _one_of("region", self.region, REGIONS)
        _one_of("blend", self.blend, BLENDS)
        if self.scheduler is not None:
            _one_of("scheduler", self.scheduler, SCHEDULERS)
        _within("number of prompts", len(self.prompts), 1, MAX_PROMPTS)
        for words in (*self.prompts, self.negative):
            if len(words) > MAX_PROMPT:
                raise InputError(
                    f"a prompt has {len(words):,} characters, the limit is {MAX_PROMPT:,}: shorten it; what comes late "
                    "counts least"
                )


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise InputError(f"{name} {value:g} is out of range: choose {low:g} to {high:g}")


def _one_of(kind: str, value: str, choices: Mapping[str, Any] | Sequence[str]) -> None:
    if value not in choices:
        raise InputError(f"no {kind} {value!r}: choose from {', '.join(choices)}")


@dataclass(frozen=True)
class DrawRequest:
    """One drawing.

    Attributes:
        photos: of one person, best first.
        consent: the one who asks may use this person's picture.
        settings: all that is not a picture.
        pose: a picture whose face gives place and pose; the first photo where there is none.
        base: a picture to draw over.
        mask: where the face may act, white for yes; for region "mask".
        control_pictures: for "canny" any picture, for "depth" a depth map (near is bright), for "pose" a skeleton.
        pose_network: an ONNX file that finds a body's joints, to draw the skeleton of the pose picture.
        file_kind: how a job writes the pictures: png, jpg or webp.
    """

    photos: tuple[Picture, ...]
    consent: bool
    settings: Settings = field(default_factory=Settings)
    pose: Picture | None = None
    base: Picture | None = None
    mask: Picture | None = None
    control_pictures: Mapping[str, Picture] = field(default_factory=lambda: MappingProxyType({}))
    pose_network: Path | None = None
    file_kind: str = "png"

    def __post_init__(self) -> None:
        if not 1 <= len(self.photos) <= MAX_PHOTOS:
            raise InputError(f"{len(self.photos)} photos were given: choose 1 to {MAX_PHOTOS} of one person")
        if self.settings.region == "mask" and self.mask is None:
            raise InputError("the region is a mask and none was given: paint one, or choose everywhere or face")
        for kind in self.settings.controls:
            drawn = kind == "pose" and self.pose_network is not None
            if kind != "canny" and kind not in self.control_pictures and not drawn:
                what = "depth map" if kind == "depth" else "skeleton picture, or an ONNX file that finds the joints,"
                raise InputError(f"the {kind} ControlNet needs a {what} and none was given: add it or untick {kind}")

    @property
    def items(self) -> int:
        """How many pictures, for predictions."""
        return len(self.settings.prompts) * self.settings.pictures

    @property
    def guided(self) -> bool:
        """Whether each step asks with and without the words; every variant's own guidance does."""
        return self.settings.guidance is None or self.settings.guidance > 1

    @property
    def teaches(self) -> bool:
        """Whether its time says something of other requests: not where a part of the steps is left out."""
        return self.base is None


@dataclass(frozen=True)
class FacesRequest:
    """Only find the faces of a photo, to choose one."""

    photo: Picture
    consent: bool
    items = 1
    teaches = False
