"""AniPortrait's faces: TFLite files on torch, the landmarker around them, the head in space, pose pictures."""

import struct
import zipfile

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from adapters.aniportrait.face_geometry import (
    FAR,
    HALF_VIEW,
    NEAR,
    HeadModel,
    head_of,
    pose_matrix,
    pose_vector,
    project,
    read_head_model,
    similarity,
    smooth,
    transform,
)
from adapters.aniportrait.landmarker import EXPRESSIVE, GEOMETRY, MEMBERS, FaceLandmarker, anchors, open_landmarker
from adapters.aniportrait.pose_drawing import CONTOURS, draw_pose, lines, overlay
from adapters.aniportrait.stand_in import StandInFace, stand_in_mesh
from adapters.aniportrait.tflite import TfliteNetwork, read_graph
from loader.errors import InputError, WeightsCorruptError, WeightsError
from tests.tflite_bytes import Network

RANDOM = np.random.default_rng(5)
SAME, VALID, RELU = 0, 1, 1


def run(network: Network, given: int, outputs: list[int], x: np.ndarray) -> list[np.ndarray]:
    module = TfliteNetwork(read_graph(network.file([given], outputs)))
    with torch.inference_mode():
        return [output.numpy() for output in module(torch.from_numpy(x))]


def values(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


# ---- TFLite


@pytest.mark.parametrize(("side", "stride", "padding"), [(8, 1, SAME), (8, 2, SAME), (7, 2, SAME), (9, 2, VALID)])
def test_convolutions_pad_as_tensorflow_does(side, stride, padding):
    network, kernel = Network(), values(5, 3, 3, 2)
    given = network.tensor((1, side, side, 2))
    bias = values(5)
    left = side if padding == VALID else side + max((-(-side // stride) - 1) * stride + 3 - side, 0)
    count = (left - 3) // stride + 1
    made = network.operation(
        3,
        [given, network.half(kernel), network.constant(bias)],
        (1, count, count, 5),
        _0=("b", padding),
        _1=("i", stride),
        _2=("i", stride),
        _3=("b", RELU),
    )
    x = values(1, side, side, 2)
    (got,) = run(network, given, [made], x)
    total = left - side
    padded = np.pad(x, ((0, 0), (total // 2, total - total // 2), (total // 2, total - total // 2), (0, 0)))
    want = np.zeros((1, count, count, 5))
    stored = kernel.astype(np.float16).astype(np.float64)
    for row in range(count):
        for column in range(count):
            patch = padded[0, row * stride : row * stride + 3, column * stride : column * stride + 3]
            want[0, row, column] = np.maximum((patch[None] * stored).sum(axis=(1, 2, 3)) + bias, 0)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_block_of_the_landmark_network():
    """Depthwise, pooling, channels added, a slope per channel, the sum of both ways, a joined and reshaped output."""
    network, x = Network(), values(1, 6, 6, 2)
    given = network.tensor((1, 6, 6, 2))
    kernel, slope = values(1, 3, 3, 2), np.abs(values(1, 1, 4))
    same = {"_0": ("b", SAME), "_1": ("i", 2), "_2": ("i", 2)}
    deep = network.operation(
        4, [given, network.constant(kernel), network.constant(values(2) * 0)], (1, 3, 3, 2), **same
    )
    pooled = network.operation(17, [given], (1, 3, 3, 2), **same, _3=("i", 2), _4=("i", 2))
    pads = network.constant(np.array([[0, 0], [0, 0], [0, 0], [0, 2]], np.int32))
    wide = [network.operation(34, [part, pads], (1, 3, 3, 4)) for part in (deep, pooled)]
    total = network.operation(0, wide, (1, 3, 3, 4))
    bent = network.operation(54, [total, network.constant(slope)], (1, 3, 3, 4))
    flat = network.operation(22, [bent, network.constant(np.array([1, 36], np.int32))], (1, 36))
    joined = network.operation(2, [flat, flat], (1, 72), _0=("i", -1))
    logistic = network.operation(14, [joined], (1, 72))
    got = run(network, given, [joined, logistic], x)
    t = torch.from_numpy(x).permute(0, 3, 1, 2)
    depth = F.conv2d(F.pad(t, (0, 1, 0, 1)), torch.from_numpy(kernel).permute(3, 0, 1, 2), stride=2, groups=2)
    both = F.pad(depth + F.max_pool2d(t, 2, 2), (0, 0, 0, 0, 0, 2)).permute(0, 2, 3, 1)
    want = torch.where(both >= 0, both, both * torch.from_numpy(slope)).reshape(1, 36).repeat(1, 2)
    np.testing.assert_allclose(got[0], want.numpy(), atol=1e-5)
    np.testing.assert_allclose(got[1], want.sigmoid().numpy(), atol=1e-6)


def test_a_layer_norm_of_the_expression_network():
    """Mean, squared difference, root, slices: the way these networks spell a norm."""
    network, x = Network(), values(1, 5, 4) + 3
    given = network.tensor((1, 5, 4))
    axis = network.constant(np.array(2, np.int32))
    keep = {"_0": ("b", 1)}
    mean = network.operation(40, [given, axis], (1, 5, 1), **keep)
    squares = network.operation(99, [given, mean], (1, 5, 4))
    variance = network.operation(40, [squares, axis], (1, 5, 1), **keep)
    inverse = network.operation(76, [variance], (1, 5, 1))
    centred = network.operation(41, [given, mean], (1, 5, 4))
    normed = network.operation(18, [centred, inverse], (1, 5, 4))
    turned = network.operation(39, [normed, network.constant(np.array([0, 2, 1], np.int32))], (1, 4, 5))
    numbers = [network.constant(np.array(part, np.int32)) for part in ([0, 0, 1], [0, 0, 4], [1, 1, 1])]
    cut = network.operation(45, [turned, *numbers], (1, 4, 3), _0=("i", 3), _1=("i", 3))
    length = network.operation(75, [network.operation(74, [squares, axis], (1, 5, 1), **keep)], (1, 5, 1))
    ratio = network.operation(42, [network.operation(59, [centred], (1, 5, 4)), length], (1, 5, 4))
    got = run(network, given, [cut, ratio], x)
    middle = x - x.mean(axis=2, keepdims=True)
    want = (middle / x.std(axis=2, keepdims=True)).transpose(0, 2, 1)
    np.testing.assert_allclose(got[0], want[:, :, 1:4], atol=1e-4)
    np.testing.assert_allclose(got[1], -middle / np.sqrt((middle**2).sum(axis=2, keepdims=True)), atol=1e-5)


def test_files_that_are_none_damaged_or_of_another_kind_are_refused():
    network = Network()
    given = network.tensor((1, 4))
    data = network.file([given], [network.operation(19, [given], (1, 4))])
    with pytest.raises(WeightsCorruptError, match="no TFLite file"):
        read_graph(b"<!doctype html>", "a.tflite")
    for cut in (12, len(data) // 2, len(data) - 40):
        with pytest.raises(WeightsCorruptError, match="damaged or cut short"):
            read_graph(data[:cut], "a.tflite")
    other = Network()
    given = other.tensor((1, 4))
    with pytest.raises(WeightsError, match="operation 32, only 0, 2, 3"):
        read_graph(other.file([given], [other.operation(32, [given], (1, 4))]), "a.tflite")
    module = TfliteNetwork(read_graph(data))
    with pytest.raises(InputError, match=r"takes \(\(1, 4\),\), got \(\(1, 5\),\)"):
        module(torch.zeros(1, 5))


def test_constants_are_cast_and_moved_with_the_module():
    network = Network()
    given = network.tensor((1, 4))
    added = network.operation(0, [given, network.half(values(4))], (1, 4))
    module = TfliteNetwork(read_graph(network.file([given], [added])))
    assert {buffer.dtype for buffer in module.buffers()} == {torch.float32}
    assert module.double()(torch.zeros(1, 4, dtype=torch.float64))[0].dtype == torch.float64


# ---- the head in space

MODEL = HeadModel(stand_in_mesh(), np.linspace(0, 1, 468))
POSE = pose_matrix(np.array([8.0, -20.0, 5.0, 3.0, -2.0, -45.0]))


def landmarks_of(mesh: np.ndarray, pose: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What a landmarker sees of a head: the reverse of its geometry."""
    seen = transform(pose, mesh)
    away = -seen[:, 2]
    height, width = 2 * np.tan(HALF_VIEW), 2 * np.tan(HALF_VIEW) * size[1] / size[0]
    x = (seen[:, 0] / away + width / 2) / width
    y = 1 - (seen[:, 1] / away + height / 2) / height
    return np.stack((x, y, away / away.mean() / width), axis=1)


@pytest.mark.parametrize("size", [(512, 512), (360, 640), (640, 360)])
def test_a_head_is_found_where_it_stands(size):
    face = MODEL.mesh + 0.3 * RANDOM.normal(size=MODEL.mesh.shape)
    head = head_of(landmarks_of(face, POSE, size), size, MODEL)
    expected = similarity(MODEL.mesh, transform(POSE, face), MODEL.weights)
    np.testing.assert_allclose(head.pose, expected, atol=0.35)
    np.testing.assert_allclose(head.mesh, transform(np.linalg.inv(expected), transform(POSE, face)), atol=0.1)
    assert np.linalg.det(head.pose[:3, :3]) > 0


def test_a_similarity_is_found_and_never_a_mirror():
    points, weights = RANDOM.normal(size=(50, 3)), RANDOM.uniform(size=50)
    matrix = pose_matrix(np.array([30.0, 40.0, -50.0, 1.0, 2.0, 3.0]))
    matrix[:3, :3] *= 1.7
    np.testing.assert_allclose(similarity(points, transform(matrix, points), weights), matrix, atol=1e-9)
    mirrored = similarity(points, points * [-1, 1, 1], weights)
    assert np.linalg.det(mirrored[:3, :3]) > 0


@pytest.mark.parametrize("size", [(512, 512), (384, 512)])
def test_projection_is_upstreams_matrix_from_the_wrong_side(size):
    height, width = size
    focal = 1 / np.tan(HALF_VIEW)
    perspective = np.zeros((4, 4))
    perspective[0, 0], perspective[1, 1] = focal * height / width, -focal
    perspective[2, 2], perspective[3, 2] = (NEAR + FAR) / (NEAR - FAR), -1
    perspective[2, 3] = FAR * NEAR / (NEAR - FAR)
    mesh = stand_in_mesh()
    clip = np.concatenate((mesh, np.ones((468, 1))), axis=1) @ POSE.T @ perspective
    expected = (clip[:, :2] / clip[:, 3:] + 1) / 2 * [width, height]
    np.testing.assert_allclose(project(mesh, POSE, size), expected, atol=1e-9)
    # It is the picture that was seen, but for a hundredth of a percent.
    seen = landmarks_of(mesh, POSE, size)[:, :2] * [width, height]
    assert np.abs(project(mesh, POSE, size) - seen).max() < 0.05


def test_angles_come_back_and_tracks_are_smoothed_at_their_ends_too():
    vector = np.array([12.0, -33.0, 7.5, 1.0, 2.0, -40.0])
    scaled = pose_matrix(vector)
    scaled[:3, :3] *= 1.3
    np.testing.assert_allclose(pose_vector(scaled), vector, atol=1e-9)
    track = np.arange(6.0)[:, None] ** 2
    np.testing.assert_allclose(smooth(track, 3)[:, 0], [0.5, 5 / 3, 14 / 3, 29 / 3, 50 / 3, 41 / 2])


def geometry_bytes(mesh: np.ndarray, weights: dict[int, float]) -> bytes:
    def varint(value: int) -> bytes:
        octets = b""
        while value > 127:
            octets, value = octets + bytes([value & 127 | 128]), value >> 7
        return octets + bytes([value])

    def field(number: int, kind: int, data: bytes) -> bytes:
        return varint(number << 3 | kind) + (varint(len(data)) + data if kind == 2 else data)

    vertices = np.concatenate((mesh, np.zeros((len(mesh), 2))), axis=1).astype("<f4")
    body = field(1, 0, b"\0") + field(2, 0, b"\0")
    body += b"".join(field(3, 5, value.tobytes()) for value in vertices.flatten())
    body += b"".join(field(4, 0, varint(index)) for index in (0, 1, 300))
    basis = (field(1, 0, varint(place)) + field(2, 5, struct.pack("<f", weight)) for place, weight in weights.items())
    return field(1, 2, body) + b"".join(field(2, 2, entry) for entry in basis)


def test_the_canonical_head_is_read_from_its_file():
    model = read_head_model(geometry_bytes(stand_in_mesh(), {4: 0.5, 300: 0.25}))
    np.testing.assert_allclose(model.mesh, stand_in_mesh(), atol=1e-5)
    assert {place: model.weights[place] for place in np.flatnonzero(model.weights)} == {4: 0.5, 300: 0.25}
    for broken in (b"", b"\x0a\xff\x01", geometry_bytes(stand_in_mesh()[:4], {4: 0.5})):
        with pytest.raises(WeightsCorruptError, match=r"face_landmarker\.task again"):
            read_head_model(broken)


# ---- the landmarker


class SeesBrightness(nn.Module):
    """A detector whose box is the bright part of what it is shown, at the anchors in its middle."""

    def forward(self, patch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        boxes, scores = torch.zeros(1, 896, 16), torch.full((1, 896, 1), -20.0)
        at = torch.from_numpy(anchors())
        for number, share in ((1, 242 / 127.5 - 1), (2, 180 / 127.5 - 1), (3, 120 / 127.5 - 1)):
            rows, columns = torch.nonzero((patch[0, :, :, 0] - share).abs() < 0.01, as_tuple=True)
            if len(rows) == 0:
                continue
            low = torch.tensor([columns.min(), rows.min()]).double()
            high = torch.tensor([columns.max(), rows.max()]).double() + 1
            centre, extent = (low + high) / 2, high - low
            eyes = torch.stack((centre + extent * torch.tensor([-0.2, 0]), centre + extent * torch.tensor([0.2, 0])))
            # Two anchors each, which agree: their mean is the box again.
            for anchor in (10 * number, 10 * number + 1):
                origin = at[anchor] * 128
                values = torch.cat((centre - origin, extent, (eyes - origin).flatten(), torch.zeros(8)))
                boxes[0, anchor] = values.float()
                scores[0, anchor] = 4.0 - number + 0.5 * (anchor % 2)
        return boxes, scores


class SeesCorners(nn.Module):
    """A landmark network that puts points on a grid of the patch it is given, and sees a face in bright ones."""

    def forward(self, patch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        grid = torch.stack(torch.meshgrid(torch.linspace(64, 192, 24), torch.linspace(64, 192, 20), indexing="ij"), -1)
        points = torch.cat((grid.reshape(-1, 2)[:478], torch.full((478, 1), 25.6)), dim=1)
        return points.reshape(1, 1, 1, -1), 200 * (patch.mean() - 0.25).reshape(1, 1, 1, 1)


class Counts(nn.Module):
    def forward(self, points: torch.Tensor) -> tuple[torch.Tensor]:
        assert points.shape == (1, len(EXPRESSIVE), 2)
        return (torch.linspace(0, 1, 52) * float(points.max()) / 1000,)


def landmarker() -> FaceLandmarker:
    return FaceLandmarker(SeesBrightness(), SeesCorners(), Counts(), MODEL)


def scene(height: int, width: int, *boxes: tuple[int, int, int, int, int]) -> np.ndarray:
    picture = np.zeros((height, width, 3), np.uint8)
    for left, top, right, bottom, value in boxes:
        picture[top:bottom, left:right] = value
    return picture


@pytest.mark.parametrize("size", [(400, 400), (300, 500), (500, 300)])
def test_a_face_is_found_whatever_the_picture_s_shape(size):
    box = (110, 60, 210, 160)
    face = landmarker()(scene(*size, (*box, 242)))
    assert face is not None
    assert face.size == size
    assert face.others == 0
    # Looked at is a square of one and a half boxes, of which the points fill the middle half.
    np.testing.assert_allclose(face.box, (122.5, 72.5, 197.5, 147.5), atol=6)
    np.testing.assert_allclose(face.points[:, 2], 0.1 * 150 / size[1], atol=0.01)
    assert face.expression.shape == (51,)
    assert face.score == pytest.approx(1 / (1 + np.exp(-3.5)))


def test_of_two_faces_the_largest_or_the_nearest_is_taken_and_said():
    picture = scene(400, 600, (40, 60, 180, 200, 242), (400, 100, 500, 200, 180))
    face = landmarker()(picture)
    assert face.others == 1
    assert face.box[2] < 250
    near = landmarker()(picture, (0.75, 0.35))
    assert near.box[0] > 350
    assert [round(found.score, 3) for found in landmarker().detect(picture)] == [0.971, 0.924]


def test_no_face_is_none_and_neither_is_one_the_second_network_does_not_see():
    assert landmarker()(scene(300, 300)) is None
    dim = scene(300, 300, (100, 100, 200, 200, 120))
    assert len(landmarker().detect(dim)) == 1
    assert landmarker()(dim) is None


def test_the_file_is_a_zip_of_networks_and_what_is_missing_is_said(tmp_path):
    network = Network()
    given = network.tensor((1, 4))
    data = network.file([given], [network.operation(19, [given], (1, 4))])
    path = tmp_path / "face_landmarker.task"
    with zipfile.ZipFile(path, "w") as archive:
        for name in MEMBERS:
            archive.writestr(name, data)
        archive.writestr(GEOMETRY, geometry_bytes(stand_in_mesh(), {4: 0.5}))
    assert isinstance(open_landmarker(path), FaceLandmarker)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBERS[0], data)
    with pytest.raises(WeightsCorruptError, match="face_landmarks_detector"):
        open_landmarker(path)
    path.write_text("<html>not found</html>")
    with pytest.raises(WeightsCorruptError, match="no face landmarker"):
        open_landmarker(path)


# ---- pose pictures


def test_lines_are_those_of_upstream():
    drawn = lines()
    assert len(drawn) == 114
    assert [sum(len(path) - 1 for path in contour.paths) for contour in CONTOURS] == [26, 16, 8, 16, 8, *[5] * 8]
    assert len({(start, end) for start, end, _ in drawn}) == 114
    assert [contour.colour for contour in CONTOURS][:3] == [(10, 200, 10), (180, 200, 10), (180, 220, 10)]
    # The left eye is on the right of the picture, and no eye shares a point with the other.
    eyes = [{place for path in CONTOURS[index].paths for place in path} for index in (1, 3)]
    assert not eyes[0] & eyes[1]
    assert all(len(eye) == 16 for eye in eyes)


def points_at(x: float = 0.25, y: float = 0.25) -> np.ndarray:
    return np.full((468, 2), (x, y))


def test_a_line_is_two_pixels_thick_and_stays_inside():
    points = points_at(2.0)
    points[78], points[95] = (0.5, 0.5), (0.75, 0.5)
    picture = draw_pose(points, (512, 512))
    painted = (picture != 0).any(axis=2)
    rows, columns = np.nonzero(painted)
    assert (columns.min(), columns.max()) in {(255, 385), (256, 384), (255, 384), (256, 385)}
    assert 2 <= len(set(rows)) <= 3
    assert set(map(tuple, picture[painted])) == {(100, 100, 30)}
    # Points at the very edge still count, those beyond it do not.
    points[95] = (1.0, 0.5)
    assert (draw_pose(points, (512, 512)) != 0).any()
    points[95] = (1.001, 0.5)
    assert not (draw_pose(points, (512, 512)) != 0).any()
    points[95] = (-0.001, 0.5)
    assert not (draw_pose(points, (512, 512)) != 0).any()


def test_later_groups_lie_over_earlier_ones_and_sizes_are_scaled():
    points = points_at(0.25)
    points[[78, 13]] = ((0.2, 0.5), (0.8, 0.5))
    points[[95, 82]] = points[[13, 78]]
    picture = draw_pose(points, (512, 512))
    # The inner upper lip is drawn last.
    assert tuple(picture[256, 256]) in {(120, 100, 200), (100, 100, 30)}
    small = draw_pose(points, (128, 256))
    assert small.shape == (128, 256, 3)
    assert (small != 0).any()


def test_contours_show_on_the_portrait():
    picture = np.full((300, 400, 3), 90, np.uint8)
    face = StandInFace()(scene(300, 400, (120, 40, 280, 260, 200)))
    shown = overlay(picture, face.points)
    assert (picture == 90).all()
    assert (shown != 90).any()
    assert shown.shape == picture.shape


# ---- the stand-in


def test_the_stand_in_lies_over_what_stands_out():
    face = StandInFace()(scene(400, 300, (80, 100, 220, 340, 220)))
    left, top, right, bottom = face.box
    assert 70 <= left < right <= 230
    assert 95 <= top < bottom <= 345
    np.testing.assert_allclose(project(face.head.mesh, face.head.pose, face.size)[0] / [300, 400], face.points[0, :2])
    assert StandInFace()(scene(400, 300)) is None
    mesh = stand_in_mesh()
    assert mesh.shape == (468, 3)
    assert mesh[263, 0] > 0 > mesh[33, 0]
    assert mesh[152, 1] < mesh[17, 1] < mesh[13, 1] < mesh[159, 1] < mesh[105, 1] < mesh[10, 1]
