"""How a head moves: from sound, from another person's video, or from a head-pose track; as points per frame.

Implements the glue of ``scripts/{audio2vid,vid2vid,generate_ref_pose}.py`` and ``src/utils/{audio,pose}_util.py`` of
Zejun-Yang/AniPortrait (commit 7f6593f). Different on purpose: sounds shorter than five seconds, or whose last piece is
a whole one, keep all of their frames, and a frame without a face holds the pose before it instead of ending the clip.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from adapters.aniportrait.face_geometry import VERTICES, Floats, Head, pose_matrix, pose_vector, project, smooth
from adapters.aniportrait.landmarker import Face
from kit.audio import Sound
from loader.errors import InputError

RATE, FPS = 16_000, 30
PIECE_SECONDS, PIECE_FRAMES = 5, 150
ANGLE_SHARE = 0.5  # upstream halves the angles that sound suggests
SOUND_SMOOTH, VIDEO_SMOOTH, TRACK_SMOOTH = 7, 3, 5
HEARD_AT_ONCE, MARGIN = 900, 30  # frames: half a minute, and a second of sound at either side beyond it
POSE_VALUES = 6
Track = NDArray[np.float32]


class Piece(NamedTuple):
    """Part of a sound with the frames it is for.

    Attributes:
        samples: of the sound at 16 kHz.
        frames: how many the network is asked for.
        keep: which of them are used.
    """

    samples: slice
    frames: int
    keep: slice


def frames_of(samples: int) -> int:
    """Frames that so many samples at 16 kHz last, at 30 a second."""
    return math.ceil(samples / RATE * FPS)


def waveform(sound: Sound, frames: int) -> Track:
    """A sound as the networks take it: 16 kHz, no longer than its frames, mean 0 and variance 1.

    Args:
        sound: of any rate.
        frames: how many are wanted at most.

    Returns:
        ``[T]`` fp32; ``frames_of(T)`` frames.
    """
    samples = sound.at(RATE).samples[: math.floor(frames / FPS * RATE)].astype(np.float64)
    return ((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)).astype(np.float32)


def pose_pieces(samples: int) -> list[Piece]:
    """Pieces of five seconds, the last one with what remains, in which head poses are made one after the other."""
    size = PIECE_SECONDS * RATE
    count = max(1, math.ceil(samples / size) - 1)
    pieces = [Piece(slice(i * size, (i + 1) * size), PIECE_FRAMES, slice(None)) for i in range(count - 1)]
    start = (count - 1) * size
    return [*pieces, Piece(slice(start, samples), frames_of(samples) - (count - 1) * PIECE_FRAMES, slice(None))]


def mesh_pieces(samples: int) -> list[Piece]:
    """The whole sound at once, as upstream does, up to half a minute; beyond it pieces that overlap by a second."""
    frames = frames_of(samples)
    if frames <= HEARD_AT_ONCE:
        return [Piece(slice(0, samples), frames, slice(None))]
    pieces = []
    for first in range(0, frames, HEARD_AT_ONCE):
        last = min(frames, first + HEARD_AT_ONCE)
        begin, end = max(0, first - MARGIN), min(frames, last + MARGIN)
        cut = slice(begin * RATE // FPS, min(samples, end * RATE // FPS))
        pieces.append(Piece(cut, end - begin, slice(first - begin, last - begin)))
    return pieces


def pose_track(pieces: Sequence[Floats]) -> Floats:
    """Head poses ``[F, 6]`` of a whole sound from the network's answers to its pieces, ``[f, 6]`` each."""
    halves = np.array([ANGLE_SHARE] * 3 + [1.0] * 3)
    return smooth(np.concatenate([np.asarray(piece, np.float64) * halves for piece in pieces]), SOUND_SMOOTH)


def spoken_points(offsets: Track, poses: Floats, head: Head, size: tuple[int, int]) -> Track:
    """Points of a face that speaks.

    Args:
        offsets: ``[F, 468, 3]`` centimetres that sound moves each vertex by.
        poses: ``[F, 6]``, from the portrait's own pose.
        head: the portrait's.
        size: height and width of the clip.

    Returns:
        ``[F, 468, 2]`` as shares of width and height.
    """
    scale = np.array([size[1], size[0]])
    points = np.empty((len(offsets), VERTICES, 2), np.float32)
    for index, (offset, pose) in enumerate(zip(offsets, poses, strict=True)):
        points[index] = project(head.mesh + offset, head.pose @ pose_matrix(pose), size) / scale
    return points


# --- from a video ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Faces:
    """The face of each frame of a video, in frames without one that of the frame before.

    Attributes:
        faces: one for each frame.
        held: frames that had none.
    """

    faces: tuple[Face, ...]
    held: tuple[int, ...]


def hold(found: Sequence[Face | None], name: str) -> Faces:
    """Fill frames without a face; those before the first face take that one.

    Raises:
        InputError: no frame has a face.
    """
    first = next((face for face in found if face is not None), None)
    if first is None:
        raise InputError(
            f"{name}: no face in any of its {len(found)} frames: send a video in which one face is seen from the front"
        )
    filled, last = [], first
    for face in found:
        last = face or last
        filled.append(last)
    return Faces(tuple(filled), tuple(index for index, face in enumerate(found) if face is None))


def driven_points(faces: Sequence[Face], target: Head) -> Track:
    """Points of the portrait's face moved as another's is.

    Expressions are taken over as differences from the frame in which the other face is most neutral, the head's angles
    as they are, its place as the difference from the first frame.

    Args:
        faces: of the driving video.
        target: the portrait's head.

    Returns:
        ``[F, 468, 2]`` as shares of width and height of the video's frames.
    """
    vectors = np.stack([pose_vector(face.head.pose) for face in faces])
    vectors[:, 3:] += target.pose[:3, 3] - vectors[0, 3:]
    poses = smooth(vectors, VIDEO_SMOOTH)
    neutral = min(faces, key=lambda face: float(face.expression.sum())).head.mesh
    size = faces[0].size
    points = [
        project(face.head.mesh - neutral + target.mesh, pose_matrix(pose), size) / np.array([size[1], size[0]])
        for face, pose in zip(faces, poses, strict=True)
    ]
    return np.stack(points).astype(np.float32)


def head_track(faces: Sequence[Face], fps: float) -> Floats:
    """Poses ``[F, 6]`` of a head relative to its first frame, at 30 frames a second, smoothed."""
    start = np.linalg.inv(faces[0].head.pose)
    vectors = np.stack([pose_vector(np.asarray(start @ face.head.pose)) for face in faces])
    return smooth(resampled(vectors, fps), TRACK_SMOOTH)


def resampled(track: Floats, fps: float) -> Floats:
    """``[F, D]`` at ``fps`` as the same seconds at 30 a second, linearly."""
    frames = max(1, int(len(track) * FPS / fps))
    places = np.linspace(0, len(track) - 1, frames)
    return np.stack([np.interp(places, np.arange(len(track)), column) for column in track.T], axis=1)


def there_and_back(track: Floats, frames: int) -> Floats:
    """``[F, D]`` run forwards and backwards until it has ``frames``; it never jumps."""
    if len(track) < 2:
        return np.repeat(track[:1], frames, axis=0)
    loop = np.concatenate((track, track[-2:0:-1]))
    return np.tile(loop, (math.ceil(frames / len(loop)), 1))[:frames]


def read_track(values: object, name: str) -> Floats:
    """A head-pose track ``[F, 6]`` from a file's array.

    Raises:
        InputError: another shape, or no numbers.
    """
    track = np.asarray(values)
    if track.ndim != 2 or track.shape[1] != POSE_VALUES or not len(track):
        raise InputError(
            f"{name} holds an array of shape {list(track.shape)}; a head-pose track is [frames, {POSE_VALUES}]: three "
            "angles in degrees and a translation in centimetres"
        )
    if not np.issubdtype(track.dtype, np.number) or not np.isfinite(track).all():
        raise InputError(f"{name} holds values that are no numbers: write it again")
    return track.astype(np.float64)


def chunks(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of ``size`` that cover ``count``."""
    for start in range(0, count, size):
        yield slice(start, min(count, start + size))
