"""First stage: where the portrait's face is, and how it is to move, frame by frame."""

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from adapters.aniportrait import motion
from adapters.aniportrait.face_geometry import VERTICES
from adapters.aniportrait.landmarker import Face, open_landmarker
from adapters.aniportrait.motion import FPS, Track
from adapters.aniportrait.pose_drawing import Bytes, draw_poses, overlay
from adapters.aniportrait.requests import (
    STYLES,
    AnimateRequest,
    Driving,
    Look,
    PoseClip,
    Rgb,
    Speech,
    Still,
)
from adapters.aniportrait.stand_in import StandInFace, stand_in_face
from kit.audio import MIN_SECONDS, Sound, has_sound, read_sound
from kit.images import Picture
from kit.video import Frame, read_frames
from loader.errors import InputError
from loader.outcome import Kept, Step, Unit
from loader.pipeline import Parts

Size = tuple[int, int]
Stage = Generator[Step | Unit | Kept, Any, Any]
FACES_AT_ONCE = 8
CLOSE_UP = 0.15  # share of the picture a face's box takes from which on the whole picture is kept
AROUND = 1.5  # side of a cut around a smaller face, in sides of its box
MOST_FPS = 30.0
NO_FACE = "no face was found: send a picture in which one face is seen from the front, at least 100 pixels tall"


@dataclass(frozen=True)
class Extent:
    """How large and long a clip is to be.

    Attributes:
        size: height and width.
        hop: every how many-th frame is made by diffusion.
        made: how many of these at most.
    """

    size: Size
    hop: int
    made: int

    @property
    def frames(self) -> int:
        """Of the finished clip, at most."""
        return (self.made - 1) * self.hop + 1


class PoseTrack(Protocol):
    """Pose pictures of a clip, made when they are asked for."""

    def __len__(self) -> int: ...

    def pictures(self, frames: Sequence[int], size: Size) -> Bytes:
        """``[len(frames), H, W, 3]`` BGR of the frames with these numbers."""
        ...


@dataclass(frozen=True, eq=False)
class Drawn:
    """Pose pictures drawn from points ``[F, 468, 2]``, which are shares of width and height."""

    points: Track

    def __len__(self) -> int:
        return len(self.points)

    def pictures(self, frames: Sequence[int], size: Size) -> Bytes:
        """See ``PoseTrack``."""
        return draw_poses(list(self.points[list(frames)]), size)


@dataclass(frozen=True, eq=False)
class Ready:
    """Ready pose pictures, kept as PNG: lines on black take a few kilobytes instead of a megabyte."""

    files: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.files)

    def pictures(self, frames: Sequence[int], size: Size) -> Bytes:
        """See ``PoseTrack``."""
        opened = (np.asarray(cv2.imdecode(np.frombuffer(self.files[i], np.uint8), cv2.IMREAD_COLOR)) for i in frames)
        return np.stack([_scaled(np.asarray(picture, np.uint8), size) for picture in opened])


@dataclass(frozen=True, eq=False)
class Posed:
    """The portrait as the networks see it.

    Attributes:
        portrait: ``[H, W, 3]`` RGB, cropped, at the clip's size.
        face: in it.
        look: for the page.
    """

    portrait: Rgb
    face: Face
    look: Look


@dataclass(frozen=True, eq=False)
class Motion:
    """How a clip moves.

    Attributes:
        track: a pose picture for each frame that is made.
        fps: of the finished clip, 0 for a picture.
        sound: of the finished clip.
        style: used for the head's motion.
        held: frames without a face.
        notes: see ``Animation``.
    """

    track: PoseTrack
    fps: float
    sound: Sound | None = None
    style: int | None = None
    held: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


# --- the portrait -----------------------------------------------------------------------------------------------


def pose_portrait(parts: Parts, request: AnimateRequest, size: Size) -> Stage:
    """Find the portrait's face, cut the picture to it and find it again; returns ``Posed``.

    Raises:
        InputError: no face.
    """
    picture = request.portrait
    if request.trial is not None and request.trial.faceless:
        scaled, height, width = _lanczos(picture.rgb, size), *size
        face = stand_in_face(size, (0.2 * width, 0.15 * height, 0.8 * width, 0.9 * height))
        return Posed(scaled, face, Look(scaled, scaled, 1))
    face = yield Unit("the portrait's face", "face_mesh", partial(_face_of, parts, picture.rgb, None))
    if face is None:
        raise InputError(f"{picture.name}: {NO_FACE}")
    cut = cut_out(picture.rgb, crop_region(face, size)) if request.crop else picture.rgb
    portrait = _lanczos(cut, size)
    again = yield Unit("the face in the portrait as cut", "face_mesh", partial(_face_of, parts, portrait, None))
    if again is None:
        if not request.crop:
            raise InputError(f"{picture.name} scaled to {size[1]}×{size[0]} pixels: {NO_FACE}")
        portrait = _lanczos(picture.rgb, size)
        again = yield Unit("the face in the whole portrait", "face_mesh", partial(_face_of, parts, portrait, None))
        if again is None:
            raise InputError(f"{picture.name}: {NO_FACE}")
    look = Look(portrait, overlay(portrait, again.points), 1 + face.others)
    variant = parts.plan.situation.spec.variant(parts.plan.variant)
    yield Step("posing_face", 1, 1, preview=look, detail={"stand_in": int(variant.provenance == "miniature")})
    return Posed(portrait, again, look)


def look_at(picture: Picture, size: Size, file: Path | None) -> Look:
    """Cut and contours of a portrait without a run, by the landmarker in ``file`` or by the stand-in.

    Raises:
        InputError: no face.
        WeightsError: the file cannot be used.
    """
    finder = StandInFace() if file is None else open_landmarker(file)
    with torch.inference_mode():
        face: Face | None = finder(picture.rgb)
        if face is None:
            raise InputError(f"{picture.name}: {NO_FACE}")
        portrait = _lanczos(cut_out(picture.rgb, crop_region(face, size)), size)
        again: Face | None = finder(portrait)
    return Look(portrait, portrait if again is None else overlay(portrait, again.points), 1 + face.others)


def _face_of(parts: Parts, rgb: Rgb, near: tuple[float, float] | None, _: object) -> Face | None:
    face: Face | None = parts.call("face_mesh", rgb, near)
    return face


def crop_region(face: Face, size: Size) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what to keep of a portrait, in the shape of the clip; it may reach outside.

    As upstream's demo: of a close-up the middle, else one and a half times the face's box.
    """
    left, top, right, bottom = face.box
    height, width = face.size
    aspect = size[1] / size[0]
    if (right - left) * (bottom - top) >= CLOSE_UP * width * height:
        keep_width = min(width, round(height * aspect))
        keep_height = min(height, round(width / aspect))
        x, y = (width - keep_width) // 2, (height - keep_height) // 2
        return x, y, x + keep_width, y + keep_height
    side = AROUND * max(right - left, bottom - top)
    half_width, half_height = side * max(1.0, aspect) / 2, side * max(1.0, 1 / aspect) / 2
    across, down = (left + right) / 2, (top + bottom) / 2
    return int(across - half_width), int(down - half_height), int(across + half_width), int(down + half_height)


def cut_out(rgb: Rgb, region: tuple[int, int, int, int]) -> Rgb:
    """``region`` of a picture, black where it reaches outside."""
    left, top, right, bottom = region
    height, width = rgb.shape[:2]
    cut = np.zeros((bottom - top, right - left, 3), np.uint8)
    inside = rgb[max(0, top) : min(height, bottom), max(0, left) : min(width, right)]
    y, x = max(0, -top), max(0, -left)
    cut[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return cut


def _lanczos(rgb: Rgb, size: Size) -> Rgb:
    if rgb.shape[:2] == size:
        return rgb
    return np.asarray(Image.fromarray(rgb).resize((size[1], size[0]), Image.Resampling.LANCZOS))


def _scaled(picture: Bytes, size: Size) -> Bytes:
    return picture if picture.shape[:2] == size else np.asarray(cv2.resize(picture, (size[1], size[0])), np.uint8)


# --- its motion -------------------------------------------------------------------------------------------------


def move(parts: Parts, request: AnimateRequest, posed: Posed, extent: Extent) -> Stage:
    """How ``request`` moves the portrait.

    Returns:
        ``Motion``.

    Raises:
        InputError: a source that cannot be used.
    """
    source = request.source
    if isinstance(source, Speech):
        return (yield from _speech(parts, request, source, posed, extent))
    if isinstance(source, Driving):
        return (yield from _driven(parts, source, posed, extent))
    if isinstance(source, PoseClip):
        return (yield from _ready(source, extent))
    return (yield from _still(parts, source, extent.size))


def _speech(parts: Parts, request: AnimateRequest, source: Speech, posed: Posed, extent: Extent) -> Stage:
    wave, hop = motion.waveform(source.sound, extent.frames), extent.hop
    total = min(extent.frames, motion.frames_of(len(wave)))
    offsets = []
    for piece in motion.mesh_pieces(len(wave)):
        sound = torch.from_numpy(wave[piece.samples])[None]
        name = f"the face's motion by sound, {piece.frames} frames"
        answer = yield Unit(name, "audio2mesh", partial(_listen, parts, "audio2mesh", sound, piece.frames))
        offsets.append(answer[piece.keep])
        yield Step("listening_sound", sum(map(len, offsets)), total)
    style = drawn_style(request.seed) if source.style is None else source.style
    poses, held = yield from _head(parts, source, wave, style, total)
    points = motion.spoken_points(np.concatenate(offsets)[:total:hop], poses[:total:hop], posed.face.head, extent.size)
    notes = ["silent"] * source.sound.silent + ["cut"] * (source.sound.seconds * FPS > total + 1)
    said = source.sound.first(total / FPS)
    used = style if source.head == "sound" else None
    return Motion(Drawn(points), float(FPS), said, used, held, tuple(notes))


def _head(parts: Parts, source: Speech, wave: Track, style: int, total: int) -> Stage:
    """Poses ``[total, 6]`` of the head, and which frames of a head video had no face."""
    if source.head == "still":
        return np.zeros((total, motion.POSE_VALUES)), ()
    if source.head_track is not None and source.head == "video":
        return motion.there_and_back(source.head_track, total), ()
    if source.head == "video":
        assert source.head_video is not None, "checked when the request was made"
        frames = read_frames(source.head_video, fps=float(FPS), max_frames=total)
        faces = yield from _faces(parts, frames, source.head_video.name, total)
        track = motion.head_track(faces.faces, float(FPS))
        return motion.there_and_back(track, total), faces.held
    answers = []
    for piece in motion.pose_pieces(len(wave)):
        sound = torch.from_numpy(wave[piece.samples])[None]
        name = f"the head's motion by sound, {piece.frames} frames"
        answers.append(
            (yield Unit(name, "audio2pose", partial(_listen, parts, "audio2pose", sound, piece.frames, style)))
        )
    return motion.pose_track(answers), ()


def _listen(parts: Parts, component: str, sound: torch.Tensor, frames: int, *args: Any) -> NDArray[np.float32]:
    *style, _ = args
    answer: torch.Tensor = parts.call(component, sound, frames, *style)
    return np.asarray(answer[0].float().cpu().numpy())


def drawn_style(seed: int) -> int:
    """A way of moving the head, by the seed."""
    return int(torch.randint(0, STYLES, (1,), generator=torch.Generator("cpu").manual_seed(seed)))


def _driven(parts: Parts, source: Driving, posed: Posed, extent: Extent) -> Stage:
    fps, hop, frames = clip_rate(source.clip.fps), extent.hop, extent.made
    expected = min(frames, max(1, math.ceil(source.clip.seconds * fps / hop)))
    read = read_frames(source.path, fps=fps / hop, max_frames=frames)
    faces = yield from _faces(parts, read, source.clip.name, expected)
    points = motion.driven_points(faces.faces, posed.face.head)
    made = len(faces.faces)
    notes = ["held"] * bool(faces.held) + ["cut"] * (source.clip.seconds * fps > ((made - 1) * hop + 1) * 1.02 + 1)
    sound = _track_of(source.path, ((made - 1) * hop + 1) / fps)
    return Motion(Drawn(points), fps, sound, None, faces.held, tuple(notes))


def clip_rate(fps: float) -> float:
    """Frames a second to make of a video's: its own, halved until they are 30 or fewer."""
    rate = fps if fps > 0 else MOST_FPS
    while rate > MOST_FPS * 1.01:
        rate /= 2
    return rate


def _faces(parts: Parts, frames: Iterator[Frame], name: str, expected: int) -> Stage:
    """The face of each frame (``motion.Faces``), a few frames a unit; of several the one nearest to the last."""
    found: list[Face | None] = []
    near: tuple[float, float] | None = None
    while chunk := list(islice(frames, FACES_AT_ONCE)):
        label = f"faces of {name}, frames {len(found) + 1} to {len(found) + len(chunk)}"
        faces: list[Face | None] = yield Unit(label, "face_mesh", partial(_follow, parts, chunk, near))
        found += faces
        last = next((face for face in reversed(faces) if face is not None), None)
        near = near if last is None else middle(last)
        yield Step("posing_face", len(found), max(expected, len(found)))
    return motion.hold(found, name)


def _follow(parts: Parts, frames: Sequence[Frame], near: tuple[float, float] | None, _: object) -> list[Face | None]:
    faces: list[Face | None] = []
    for frame in frames:
        face: Face | None = parts.call("face_mesh", frame.rgb, near)
        faces.append(face)
        near = near if face is None else middle(face)
    return faces


def middle(face: Face) -> tuple[float, float]:
    """Of a face's box, as shares of width and height."""
    left, top, right, bottom = face.box
    return (left + right) / 2 / face.size[1], (top + bottom) / 2 / face.size[0]


def _ready(source: PoseClip, extent: Extent) -> Stage:
    fps, hop, frames, size = clip_rate(source.clip.fps), extent.hop, extent.made, extent.size
    files = []
    for frame in read_frames(source.path, fps=fps / hop, max_frames=frames):
        files.append(png(frame.rgb, size))
        yield Step("posing_face", len(files), max(frames, len(files)))
    sound = _track_of(source.path, ((len(files) - 1) * hop + 1) / fps)
    return Motion(Ready(tuple(files)), fps, sound)


def _track_of(path: Path, seconds: float) -> Sound | None:
    """The beginning of a video's sound track; one too short to be heard is none."""
    if not has_sound(path) or seconds < MIN_SECONDS:
        return None
    return read_sound(path, max_seconds=seconds)


def _still(parts: Parts, source: Still, size: Size) -> Stage:
    if source.drawn:
        return Motion(Ready((png(source.picture.rgb, size),)), 0.0)
    face = yield Unit("the face whose pose is taken", "face_mesh", partial(_face_of, parts, source.picture.rgb, None))
    if face is None:
        raise InputError(f"{source.picture.name}: {NO_FACE}")
    notes = ("pose_faces",) if face.others else ()
    return Motion(Drawn(face.points[None, :VERTICES, :2]), 0.0, notes=notes)


def png(rgb: Rgb, size: Size) -> bytes:
    """A pose picture of a file as it is kept: BGR in the file's own sense, at the clip's size."""
    done, data = cv2.imencode(".png", np.ascontiguousarray(_scaled(rgb, size)[:, :, ::-1]))
    assert done, "OpenCV writes PNG"
    return data.tobytes()
