"""What may be asked for, and what comes of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from adapters.aniportrait.face_geometry import Floats
from kit.audio import Sound
from kit.images import Picture
from kit.video import Clip
from loader.errors import InputError

Rgb = NDArray[np.uint8]
HeadWord = Literal["sound", "video", "still"]
HEADS: tuple[HeadWord, ...] = ("sound", "video", "still")
GUIDANCE, SEED = 3.5, 42
MOST_GUIDANCE, MOST_SEED = 20.0, 2**31 - 1
STYLES = 100
HOP = 3  # with interpolation every third frame is made, and two are put between each pair


@dataclass(frozen=True, eq=False)
class Speech:
    """Sound moves the face.

    Attributes:
        sound: what is said.
        head: what moves the head: the "sound", a "video" of another head, or nothing ("still").
        style: whose way of moving it, 0..99; None draws one by the seed.
        head_video: for "video".
        head_track: for "video": poses ``[F, 6]`` instead, at 30 frames a second.
    """

    sound: Sound
    head: HeadWord = "sound"
    style: int | None = None
    head_video: Path | None = None
    head_track: Floats | None = None

    def __post_init__(self) -> None:
        if self.style is not None and not 0 <= self.style < STYLES:
            raise InputError(f"style {self.style}: choose 0 to {STYLES - 1}, or none to have one drawn by the seed")
        if self.head == "video" and self.head_video is None and self.head_track is None:
            raise InputError(
                "the head is to move as in a video, and none was given: give one, or let the sound move it"
            )


@dataclass(frozen=True)
class Driving:
    """Another person's face moves this one."""

    path: Path
    clip: Clip


@dataclass(frozen=True)
class PoseClip:
    """A video of ready pose pictures."""

    path: Path
    clip: Clip


@dataclass(frozen=True, eq=False)
class Still:
    """A single picture: in the pose of another face, or of a ready pose picture if ``drawn``."""

    picture: Picture
    drawn: bool = False


Source = Speech | Driving | PoseClip | Still


@dataclass(frozen=True, eq=False)
class Unfinished:
    """A clip whose denoising was stopped.

    Attributes:
        latents: ``[1, 4, F, h, w]`` after ``step`` steps.
        clean: what they look like to become.
        step: how many are done.
        steps: of how many.
    """

    latents: Tensor
    clean: Tensor
    step: int
    steps: int

    @property
    def frames(self) -> int:
        return int(self.latents.shape[2])


@dataclass(frozen=True)
class Trial:
    """A request cut down, to judge a precision by.

    Attributes:
        frames: made at most.
        steps: of denoising, None for the plan's.
        side: of the square made, None for the plan's size.
        faceless: the pose is a made-up one, so that no face has to be found.
    """

    frames: int
    steps: int | None = None
    side: int | None = None
    faceless: bool = False


@dataclass(frozen=True, eq=False)
class AnimateRequest:
    """A portrait and what moves it. Size, steps and number of frames are the plan's.

    Attributes:
        portrait: the picture.
        source: what moves it.
        folder: where the result is written.
        guidance: how far to go past what is made without the portrait; 1 and less do without that, in half the time.
        seed: of the noise, and of the style where none is given.
        faithful: pose features as upstream makes them; see ``denoise.pose_input``.
        crop: cut the picture to the face first.
        compare: write a second clip with portrait, pose and source beside the result.
        settings: what the file is to say of how it was made.
        labelled: say on it and in it that it was generated.
        language: of the words on it.
        resume: go on from there.
        decode_now: with ``resume``: take it as it is.
        trial: a cut-down request; nothing is written.
    """

    portrait: Picture
    source: Source
    folder: Path
    guidance: float = GUIDANCE
    seed: int = SEED
    faithful: bool = True
    crop: bool = True
    compare: bool = False
    settings: Mapping[str, Any] | None = None
    labelled: bool = True
    language: str = "en"
    resume: Unfinished | None = None
    decode_now: bool = False
    trial: Trial | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.guidance <= MOST_GUIDANCE:
            raise InputError(f"guidance {self.guidance:g}: choose 0 to {MOST_GUIDANCE:g}; 3.5 is usual, 1 is none")
        if not 0 <= self.seed <= MOST_SEED:
            raise InputError(f"seed {self.seed}: choose 0 to {MOST_SEED}")

    @property
    def guided(self) -> bool:
        """Whether each step asks with and without the portrait."""
        return self.guidance > 1

    @property
    def teaches(self) -> bool:
        """Whether its seconds tell what such a clip takes."""
        return self.resume is None and self.trial is None


@dataclass(frozen=True, eq=False)
class Look:
    """What the network is shown: the cropped portrait with the face's contours, and how many faces there were."""

    portrait: Rgb
    contours: Rgb
    faces: int


@dataclass(frozen=True, eq=False)
class Animation:
    """What came of a request.

    Attributes:
        path: the clip, or the picture of a ``Still``; None for a trial.
        compare: the clip with the others beside it.
        frames: in the clip.
        made: of these, by diffusion; the others lie between them.
        fps: frames a second, 0 for a picture.
        size: height and width.
        seed: it was made with.
        style: way of moving the head that was used, None where no sound moved it.
        held: frames of the driving video without a face, as numbers of made frames.
        notes: ids of what should be known: "faces" (several in the portrait), "held", "silent", "cut" (the source is
            longer), "unfinished" (stopped before its last step), "stand_in" (the face was not looked for).
        look: see there.
        windows: of one step.
        pixels: of a trial, ``[F, H, W, 3]`` fp32 0..1.
    """

    path: Path | None
    compare: Path | None
    frames: int
    made: int
    fps: float
    size: tuple[int, int]
    seed: int
    style: int | None
    held: tuple[int, ...]
    notes: tuple[str, ...]
    look: Look | None
    windows: int
    pixels: NDArray[np.float32] | None = None
