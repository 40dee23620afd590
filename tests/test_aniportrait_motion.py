"""AniPortrait's motion: pieces of sound, head poses, retargeting, frames without a face."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.aniportrait import motion
from adapters.aniportrait.face_geometry import Head, pose_matrix, pose_vector, project
from adapters.aniportrait.landmarker import Face
from adapters.aniportrait.stand_in import stand_in_face, stand_in_mesh
from kit.audio import Sound
from loader.errors import InputError

PIECE = 80_000
RANDOM = np.random.default_rng(3)


def upstream_pieces(samples: int) -> list[tuple[int, int]]:
    """Sizes and frames of upstream's pieces, where they are right: several, the last one not whole."""
    chunks = [min(PIECE, samples - start) for start in range(0, samples, PIECE)]
    frames = [150] * (len(chunks) - 1) + [motion.frames_of(samples) % 150]
    chunks[-2:] = [chunks[-2] + chunks[-1]]
    frames[-2:] = [frames[-2] + frames[-1]]
    return list(zip(chunks, frames, strict=True))


@pytest.mark.parametrize("samples", [80_001, 100_000, 159_000, 160_001, 250_000, 479_000])
def test_pieces_are_upstreams_where_those_are_right(samples):
    pieces = motion.pose_pieces(samples)
    assert [(piece.samples.stop - piece.samples.start, piece.frames) for piece in pieces] == upstream_pieces(samples)


@settings(max_examples=200, deadline=None)
@given(samples=st.integers(1600, 16_000 * 700))
def test_pieces_cover_any_sound_and_lose_no_frame(samples):
    frames = motion.frames_of(samples)
    assert frames == math.ceil(samples * 30 / 16_000)
    pieces = motion.pose_pieces(samples)
    assert sum(piece.frames for piece in pieces) == frames
    assert all(1 <= piece.frames <= 300 for piece in pieces)
    assert [piece.samples.start for piece in pieces] == [PIECE * i for i in range(len(pieces))]
    assert pieces[-1].samples.stop == samples
    kept = []
    for piece in motion.mesh_pieces(samples):
        begin = round(piece.samples.start * 30 / 16_000)
        kept += range(begin + piece.keep.indices(piece.frames)[0], begin + piece.keep.indices(piece.frames)[1])
        assert piece.frames <= 960
        assert piece.samples.stop <= samples
    assert kept == list(range(frames))


@pytest.mark.parametrize("samples", [3200, 79_999, 80_000, 160_000, 240_000])
def test_short_sounds_and_whole_last_pieces_keep_their_frames(samples):
    """Upstream has no previous piece to add to in the first two, and loses 150 frames in the others."""
    assert sum(piece.frames for piece in motion.pose_pieces(samples)) == motion.frames_of(samples)


def test_a_sound_is_normalised_cut_and_resampled():
    t = np.arange(44_100 * 3) / 44_100
    sound = Sound((0.2 + 0.1 * np.sin(2 * np.pi * 200 * t)).astype(np.float32), 44_100)
    wave = motion.waveform(sound, 45)
    assert wave.dtype == np.float32
    assert motion.frames_of(len(wave)) == 45
    assert wave.mean() == pytest.approx(0, abs=1e-3)
    assert wave.std() == pytest.approx(1, abs=1e-3)
    silent = motion.waveform(Sound(np.zeros(16_000, np.float32), 16_000), 300)
    assert motion.frames_of(len(silent)) == 30
    assert np.isfinite(silent).all()


def test_head_poses_are_halved_joined_and_smoothed():
    pieces = [RANDOM.normal(size=(20, 6)), RANDOM.normal(size=(11, 6))]
    track = motion.pose_track(pieces)
    raw = np.concatenate(pieces) * [0.5, 0.5, 0.5, 1, 1, 1]
    assert track.shape == (31, 6)
    np.testing.assert_allclose(track[15], raw[12:19].mean(axis=0))
    np.testing.assert_allclose(track[0], raw[:4].mean(axis=0))


def test_a_mouth_that_opens_moves_its_points_only():
    face = stand_in_face((256, 256), (60, 40, 200, 220))
    offsets = np.zeros((4, 468, 3), np.float32)
    offsets[2, 17] = (0, -1.5, 0)
    points = motion.spoken_points(offsets, np.zeros((4, 6)), face.head, (256, 256))
    assert points.shape == (4, 468, 2)
    assert points.dtype == np.float32
    np.testing.assert_allclose(points[0], face.points[:468, :2], atol=1e-5)
    moved = np.abs(points[2] - points[0]).max(axis=1) > 1e-6
    assert list(np.flatnonzero(moved)) == [17]
    assert points[2, 17, 1] > points[0, 17, 1]


def faces_with(poses: np.ndarray, offsets: np.ndarray, expressions: list[float]) -> list[Face]:
    mesh = stand_in_mesh()
    made = []
    for pose, offset, weight in zip(poses, offsets, expressions, strict=True):
        head = Head(mesh * 1.1 + offset, pose_matrix(pose))
        points = np.zeros((478, 3), np.float32)
        made.append(Face(points, np.full(51, weight, np.float32), head, (360, 640), 1.0))
    return made


def test_a_driving_face_gives_its_angles_and_its_changes_only():
    poses = np.array([[0, 10, 0, 2, 1, -60], [0, 20, 0, 3, 1, -62], [0, 30, 0, 4, 1, -64]], float)
    offsets = np.zeros((3, 468, 3))
    offsets[0, 17], offsets[2, 17] = (0, -1, 0), (0, -2, 0)
    faces = faces_with(poses, offsets, [0.5, 0.1, 0.9])
    target = Head(stand_in_mesh(), pose_matrix(np.array([5.0, 0, 0, -1, 0, -40])))
    points = motion.driven_points(faces, target)
    assert points.shape == (3, 468, 2)
    # The second frame is the neutral one; the place is the portrait's, moved as the video moves; neighbours are mixed.
    smoothed = np.array([[0, 15, 0, -0.5, 0, -41], [0, 20, 0, 0, 0, -42], [0, 25, 0, 0.5, 0, -43]])
    for index in range(3):
        mesh = target.mesh + offsets[index] - offsets[1]
        expected = project(mesh, pose_matrix(smoothed[index]), (360, 640)) / [640, 360]
        np.testing.assert_allclose(points[index], expected, atol=1e-5)


def test_a_frame_without_a_face_holds_the_one_before_and_is_reported():
    first, second = faces_with(np.zeros((2, 6)) - [0, 0, 0, 0, 0, 40], np.zeros((2, 468, 3)), [0, 0])
    held = motion.hold([None, None, first, None, second, None], "clip.mp4")
    assert [face is first for face in held.faces] == [True, True, True, True, False, False]
    assert held.faces[4] is held.faces[5] is second
    assert held.held == (0, 1, 3, 5)
    with pytest.raises(InputError, match=r"clip\.mp4: no face in any of its 3 frames"):
        motion.hold([None] * 3, "clip.mp4")


def test_a_head_track_starts_at_nothing_and_keeps_its_seconds():
    poses = np.zeros((20, 6))
    poses[:, 1], poses[:, 5] = np.linspace(10, 29, 20), -40
    track = motion.head_track(faces_with(poses, np.zeros((20, 468, 3)), [0] * 20), 10.0)
    assert len(track) == 60
    # Smoothing takes the mean of the first three frames, each a third of a degree further.
    assert 0 <= track[0, 1] < 1
    assert track[-1, 1] == pytest.approx(19, abs=1)
    assert np.abs(track[:, [0, 2]]).max() < 1e-6
    single = motion.head_track(faces_with(poses[:1], np.zeros((1, 468, 3)), [0]), 30.0)
    np.testing.assert_allclose(single, 0, atol=1e-9)


def test_a_track_runs_there_and_back_as_long_as_needed():
    track = np.arange(4.0)[:, None]
    assert motion.there_and_back(track, 10)[:, 0].tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3]
    assert motion.there_and_back(track, 2)[:, 0].tolist() == [0, 1]
    assert motion.there_and_back(track[:1], 3)[:, 0].tolist() == [0, 0, 0]
    # As upstream's template of 165 poses: 328 until it repeats.
    assert len(np.unique(motion.there_and_back(np.arange(165.0)[:, None], 328), axis=0)) == 165


def test_tracks_of_files_are_checked():
    assert motion.read_track(np.zeros((5, 6), np.float32), "a.npy").dtype == np.float64
    for wrong in (np.zeros((5, 3)), np.zeros(6), np.zeros((0, 6))):
        with pytest.raises(InputError, match=r"a\.npy holds an array of shape .* is \[frames, 6\]"):
            motion.read_track(wrong, "a.npy")
    with pytest.raises(InputError, match="no numbers"):
        motion.read_track(np.full((5, 6), np.nan), "a.npy")
    assert pose_vector(pose_matrix(np.arange(6.0)))[0] == pytest.approx(0)
