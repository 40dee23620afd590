"""InstantID's pictures and numbers around the networks: keypoints, sizes, finding and aligning a face."""

import hashlib
import json

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from adapters.instantid.drawing import draw_kps, face_region
from adapters.instantid.face import (
    DETECTION_SIDE,
    Faces,
    align,
    decode,
    detect,
    embed,
    letterbox,
    recognition_blob,
    similarity,
    suppress,
)
from adapters.instantid.resize import resize_img
from loader.errors import InputError
from tests.parity.case import case

KPS_CASE, KPS_EXPECTED = case("instantid", "draw_kps")
RESIZE_CASE, RESIZE_EXPECTED = case("instantid", "resize_img")
FACE_CASE, FACE_EXPECTED = case("instantid", "face")
SIZES = [(json.loads(kwargs), sizes) for kwargs, sizes in RESIZE_CASE["output_sizes_wh"].items()]


def evenly(values: torch.Tensor, count: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Values at rounded, not truncated, positions: how these cases are sampled."""
    flat = values.flatten()
    return flat[torch.linspace(0, flat.numel() - 1, count, dtype=dtype).round().long()]


# Keypoints and region


@pytest.mark.parametrize("name", KPS_CASE["cases"])
def test_keypoints_are_drawn_as_upstream_draws_them(name):
    description = KPS_CASE["cases"][name]
    picture = draw_kps(description["size_wh"], np.array(description["kps"], np.float32))
    pixels = np.asarray(picture)
    assert (picture.mode, list(picture.size)) == ("RGB", description["size_wh"])
    if name in KPS_EXPECTED:
        assert np.array_equal(pixels, KPS_EXPECTED[name].numpy())
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == description["sha256"]


@pytest.mark.parametrize("kps", [np.zeros((4, 2)), np.full((5, 2), np.nan), np.zeros(10)])
def test_other_than_five_finite_keypoints_are_refused(kps):
    with pytest.raises(InputError, match="5 finite keypoints"):
        draw_kps((64, 64), kps)
    with pytest.raises(InputError, match="5 finite keypoints"):
        similarity(kps)


def test_the_region_is_the_part_of_the_box_inside_the_picture():
    region = face_region((20, 10), (-3.5, 2.9, 4.2, 30.0))
    assert region.shape == (10, 20)
    assert region[2:, :4].all()
    assert region.sum() == 8 * 4
    with pytest.raises(InputError, match="outside the 20x10 picture"):
        face_region((20, 10), (20.0, 0.0, 25.0, 5.0))


# Sizes


@pytest.mark.parametrize(("kwargs", "sizes"), SIZES, ids=lambda value: str(value)[:40])
def test_sizes_equal_upstream(kwargs, sizes):
    for source, expected in sizes.items():
        width, height = map(int, source.split("x"))
        assert list(resize_img(Image.new("RGB", (width, height)), **kwargs).size) == expected, source


@pytest.mark.parametrize("name", RESIZE_CASE["pixel_cases"])
def test_pixels_equal_upstream(name):
    description = RESIZE_CASE["pixel_cases"][name]
    seed = 40 + "abcde".index(name[0])
    width, height = map(int, name.split("_")[1].split("x"))
    noise = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(noise, (height, width), mode="bicubic", align_corners=False).clamp(0, 1) * 255
    source = smooth[0].permute(1, 2, 0).round().to(torch.uint8)
    if f"{name}_src" in RESIZE_EXPECTED:
        source = RESIZE_EXPECTED[f"{name}_src"]
    picture = resize_img(Image.fromarray(source.numpy()), **description["kwargs"])
    assert list(picture.size) == description["out_size_wh"]
    pixels = torch.from_numpy(np.array(picture))
    assert abs(pixels.double().mean().item() - description["mean"]) < 0.02
    # These positions were rounded in fp32, in which a few fall on their neighbour depending on the CPU.
    assert (evenly(pixels, 4096, torch.float32) != RESIZE_EXPECTED[name]).float().mean() < 0.005


def test_pictures_that_cannot_be_resized_are_refused_with_the_limit():
    with pytest.raises(InputError, match=r"30x900 picture is too narrow.*under 64; crop it to at most 1 : 20"):
        resize_img(Image.new("RGB", (30, 900)))
    with pytest.raises(InputError, match="does not fit a square of 128"):
        resize_img(Image.new("RGB", (90, 90)), size=(256, 64), max_side=128, pad_to_max_side=True)


# Finding faces


def blocks(seed: int, width: int, height: int) -> np.ndarray:
    noise = np.random.RandomState(seed).randint(0, 256, (12, 9, 3)).astype(np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_NEAREST)


def invented_outputs(seed: int) -> list[np.ndarray]:
    """What the case's detector gave: few certain anchors with a less certain neighbour each, noise elsewhere."""
    random = np.random.RandomState(seed)
    levels = []
    for stride in (8, 16, 32):
        n = (DETECTION_SIDE // stride) ** 2 * 2
        scores = (random.rand(n, 1) * 0.45).astype(np.float32)
        certain = random.choice(n, 10, replace=False)
        scores[certain, 0] = 0.5 + 0.49 * random.rand(10)
        scores[np.minimum(certain + 1, n - 1), 0] = 0.5 + 0.49 * random.rand(10)
        boxes = (2 + 6 * random.rand(n, 4)).astype(np.float32)
        levels.append((scores, boxes, (2 * random.randn(n, 10)).astype(np.float32)))
    return [level[part] for part in range(3) for level in levels]


@pytest.mark.parametrize("name", FACE_CASE["cases"])
def test_faces_equal_upstream(name):
    description = FACE_CASE["cases"][name]
    height, width = map(int, name.split("_")[1].split("x"))
    seen = []

    def detector(blob: np.ndarray) -> list[np.ndarray]:
        seen.append(blob)
        return invented_outputs(description["seed"])

    faces = detect(blocks(description["seed"], width, height), detector)
    blob = torch.from_numpy(seen[0])
    assert blob.shape == (1, 3, 640, 640)
    assert torch.equal(evenly(blob, 2048), FACE_EXPECTED[f"{name}_blob_sub"])
    assert abs(blob.mean().item() - description["blob_mean"]) < 1e-4
    assert abs(blob.std().item() - description["blob_std"]) < 1e-4

    assert len(faces) == description["n"]
    found = np.concatenate((faces.boxes, faces.scores[:, None]), axis=1)
    np.testing.assert_allclose(found, FACE_EXPECTED[f"{name}_det"].numpy(), rtol=0, atol=1e-3)
    np.testing.assert_allclose(faces.keypoints, FACE_EXPECTED[f"{name}_kps"].numpy(), rtol=0, atol=1e-3)
    assert faces.largest == description["largest_index"]


def test_outputs_with_a_batch_dimension_are_the_same_faces():
    outputs = invented_outputs(1)
    plain, batched = decode(outputs, 0.5), decode([output[None] for output in outputs], 0.5)
    assert np.array_equal(plain.boxes, batched.boxes)
    assert np.array_equal(plain.keypoints, batched.keypoints)


def test_outputs_of_another_detector_are_refused():
    with pytest.raises(ValueError, match=r"9 outputs, got 6; is it scrfd_10g_bnkps"):
        decode(invented_outputs(1)[:6], 1.0)
    with pytest.raises(ValueError, match="stride 8 has 3200 anchors, got 12800"):
        decode(invented_outputs(1), 1.0, side=320)


def test_an_empty_scene_has_no_face():
    silent = [np.zeros_like(output) for output in invented_outputs(1)]
    faces = decode(silent, 1.0)
    assert (len(faces), faces.boxes.shape, faces.keypoints.shape) == (0, (0, 4), (0, 5, 2))
    with pytest.raises(InputError, match="no face was found"):
        _ = faces.largest


def test_overlap_counts_the_corner_pixels_and_the_last_of_equals_is_largest():
    # Two boxes of 10 x 10 pixels sharing 10 x 6: 60 / 140 = 0.43 with corner pixels, 0.40 (45 / 117) without.
    boxes = np.array([[0, 0, 9, 9], [4, 0, 13, 9], [30, 30, 39, 39]], np.float32)
    assert suppress(boxes).tolist() == [0, 2]
    assert suppress(boxes, threshold=0.43).tolist() == [0, 1, 2]
    assert Faces(boxes, np.ones(3, np.float32), np.zeros((3, 5, 2), np.float32)).largest == 2


@pytest.mark.parametrize("picture", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_picture_is_refused(picture):
    with pytest.raises(InputError, match="uint8, got"):
        letterbox(picture)


def test_a_picture_too_narrow_to_scale_is_refused():
    with pytest.raises(InputError, match="1x1000 picture is too narrow"):
        letterbox(np.zeros((1000, 1, 3), np.uint8))


# Aligning


@pytest.mark.parametrize("name", FACE_CASE["align"]["points"])
def test_alignment_equals_upstream(name):
    matrix = similarity(FACE_CASE["align"]["points"][name])
    expected = FACE_EXPECTED[f"M_{name}"].numpy()
    np.testing.assert_allclose(matrix[:, :2], expected[:, :2], rtol=0, atol=1e-5)
    np.testing.assert_allclose(matrix[:, 2], expected[:, 2], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["frontal", "tilted"])
def test_crops_equal_upstream(name):
    crop = align(blocks(7, 160, 192), FACE_CASE["align"]["points"][name])
    # OpenCV 4 and 5 interpolate differently by up to 5 levels; either is upstream's.
    differences = [
        np.abs(crop.astype(int) - FACE_EXPECTED[key].numpy().astype(int)).max()
        for key in (f"crop_{name}", f"crop_{name}_cv49")
    ]
    assert crop.shape == (112, 112, 3)
    assert min(differences) <= 1
    assert max(differences) <= 6


def test_the_recognisers_input_equals_upstream():
    blob = torch.from_numpy(recognition_blob(FACE_EXPECTED["crop_frontal"].numpy()))
    torch.testing.assert_close(evenly(blob, 1024), FACE_EXPECTED["arcface_blob_sub"], atol=1e-6, rtol=0)


def test_an_identity_is_the_networks_output_as_it_is():
    picture, keypoints = blocks(7, 160, 192), FACE_CASE["align"]["points"]["frontal"]
    embedding = np.linspace(-30, 30, 512, dtype=np.float32)
    seen = []

    def recogniser(blob: np.ndarray) -> list[np.ndarray]:
        seen.append(blob)
        return [embedding[None]]

    assert np.array_equal(embed(picture, keypoints, recogniser), embedding)
    assert np.array_equal(seen[0], recognition_blob(align(picture, keypoints)))


def test_keypoints_in_one_place_are_refused():
    with pytest.raises(InputError, match="all in one place"):
        similarity(np.full((5, 2), 12.0))
