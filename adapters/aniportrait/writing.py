"""Frames into files as they are made: labelled, with their sound, and others beside them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np

from adapters.aniportrait.posing import Motion, Posed, Size
from adapters.aniportrait.requests import AnimateRequest, Driving, PoseClip, Rgb, Speech, Still
from kit.ai_label import declared, encode_picture, label_clip, mark_for
from kit.audio import add_sound
from kit.exports import free_path, safe_stem, write_bytes
from kit.settings import settings_record
from kit.texts import PROVENANCE_OF
from kit.video import ClipWriter, read_frames
from loader.plan import Plan

GAP = 2  # pixels between pictures that stand side by side
Beside = Callable[[int, Rgb], Rgb]


def settings_of(request: AnimateRequest, plan: Plan, moved: Motion, frames: int) -> dict[str, Any]:
    """What would give this clip again, for the file itself: wishes, options, and what there is to know besides."""
    facts = {
        "portrait": request.portrait.name,
        "source": source_name(request),
        "motion": _motion_word(request),
        "style_used": moved.style,
        "size": f"{plan.size[0]}x{plan.size[1]}",
        "steps": plan.steps,
        "frames": frames,
        "fps": round(moved.fps, 3),
        "precision": {p.name: p.compute_dtype for p in plan.components},
    }
    weights = PROVENANCE_OF.get(plan.provenance, plan.provenance)
    return settings_record(plan, weights, options_of(request)) | facts | dict(request.settings or {})


def options_of(request: AnimateRequest) -> dict[str, Any]:
    """The options of a request under the names the command line and the page have for them."""
    speech = request.source if isinstance(request.source, Speech) else None
    return {
        "seed": request.seed,
        "guidance": request.guidance,
        "style": speech.style if speech and speech.style is not None else -1,
        "head": speech.head if speech else "sound",
        "pose_guider": "faithful" if request.faithful else "clean",
        "crop": request.crop,
        "compare": request.compare,
    }


def source_name(request: AnimateRequest) -> str:
    """The file that moves the portrait."""
    source = request.source
    if isinstance(source, Speech):
        return source.sound.name
    return source.picture.name if isinstance(source, Still) else source.path.name


def _motion_word(request: AnimateRequest) -> str:
    source = request.source
    if isinstance(source, Speech):
        return f"sound, head by {source.head}"
    if isinstance(source, Still):
        return "pose picture" if source.drawn else "pose of a picture"
    return "poses" if isinstance(source, PoseClip) else "video"


def stem_of(request: AnimateRequest) -> str:
    """The name of what is made, without its ending."""
    return f"{safe_stem(request.portrait.name)}-{safe_stem(source_name(request))}"


def write_picture(request: AnimateRequest, rgb: Rgb, settings: Mapping[str, Any]) -> Path:
    """A single picture with its settings, labelled if it is to be.

    Raises:
        OutputError: it cannot be written.
    """
    marked = _marked(rgb, request)
    data = encode_picture(marked, ".png", settings, labelled=request.labelled)
    return write_bytes(free_path(request.folder, stem_of(request), ".png"), data)


def _marked(rgb: Rgb, request: AnimateRequest) -> Rgb:
    return mark_for((rgb.shape[0], rgb.shape[1]), request.language).on(rgb) if request.labelled else rgb


def beside_of(request: AnimateRequest, posed: Posed, moved: Motion, hop: int) -> Beside | None:
    """What puts the others beside a frame, None if that is not asked for.

    Portrait, poses, result; of a driving video portrait, result, video.
    """
    if not request.compare:
        return None
    size = (posed.portrait.shape[0], posed.portrait.shape[1])
    if isinstance(request.source, Driving):
        frames = _source_frames(request.source.path, moved.fps, size)
        return lambda _, rgb: side_by_side(posed.portrait, rgb, next(frames))

    def with_pose(index: int, rgb: Rgb) -> Rgb:
        # Pose pictures are BGR, as the network wants them.
        pose = moved.track.pictures([min(index // hop, len(moved.track) - 1)], size)[0, :, :, ::-1]
        return side_by_side(posed.portrait, np.ascontiguousarray(pose), rgb)

    return with_pose


def _source_frames(path: Path, fps: float, size: Size) -> Iterator[Rgb]:
    """Frames of a video at a clip's size; the last one for ever."""
    last = np.zeros((*size, 3), np.uint8)
    for frame in read_frames(path, fps=fps):
        last = np.asarray(cv2.resize(frame.rgb, (size[1], size[0]), interpolation=cv2.INTER_AREA), np.uint8)
        yield last
    while True:
        yield last


def side_by_side(*pictures: Rgb) -> Rgb:
    """Pictures of one size in a row, two pixels apart."""
    height, width = pictures[0].shape[:2]
    row = np.zeros((height, len(pictures) * (width + GAP) - GAP, 3), np.uint8)
    for index, picture in enumerate(pictures):
        left = index * (width + GAP)
        row[:, left : left + width] = picture
    return row


class Sink:
    """Takes frames in their order; a ``with`` block finishes the files, or leaves none behind.

    Attributes:
        path: the clip.
        compare: the clip with the others beside it, None without.
    """

    def __init__(
        self, request: AnimateRequest, moved: Motion, size: Size, settings: Mapping[str, Any], beside: Beside | None
    ) -> None:
        self._request, self._moved, self._settings, self._beside = request, moved, settings, beside
        stem = stem_of(request)
        self.path = free_path(request.folder, stem, ".mp4")
        self.compare = free_path(request.folder, f"{stem}-beside", ".mp4") if beside is not None else None
        self._mark = mark_for(size, request.language) if request.labelled else None
        self._count = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        said = declared(self._settings, labelled=self._request.labelled)
        self._writers = [
            self._stack.enter_context(ClipWriter(path, fps=self._moved.fps, settings=said)) for path in self._paths()
        ]
        return self

    def add(self, rgb: Rgb) -> None:
        """The next frame ``[H, W, 3]``.

        Raises:
            OutputError: the disk is full.
        """
        seconds = self._count / self._moved.fps
        shown = rgb if self._mark is None else self._mark.on(rgb)
        self._writers[0].write(shown, seconds)
        if self._beside is not None:
            self._writers[1].write(self._beside(self._count, shown), seconds)
        self._count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        if kind is not None:
            return
        for path in self._paths():
            if self._moved.sound is not None:
                add_sound(path, self._moved.sound)
            label_clip(path, self._settings, labelled=self._request.labelled)

    def _paths(self) -> list[Path]:
        return [self.path] if self.compare is None else [self.path, self.compare]
