"""Metric3D's picture geometry: framing, metres, normals, points, against values recorded from upstream."""

import dataclasses
import hashlib
import math
import time

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from adapters.metric3d.geometry import (
    PIXEL_MEAN,
    Intrinsics,
    centred,
    frame,
    metric_depth,
    normalise,
    picture_normals,
    prepare,
    unpad,
    unproject,
)
from adapters.metric3d.visuals import depth_colours, normal_colours, ply
from loader.errors import InputError
from tests.parity.case import case

CAMERA = Intrinsics(520.0, 525.0, 318.5, 241.25)
TABLE = case("metric3d", "prepost")[0]["table"]


def picture(height: int, width: int) -> np.ndarray:
    """The recorded cases' picture: gradients, noise and two patches."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    ramp = torch.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x + y) * 255 // (width + height - 2)], dim=-1)
    noise = torch.randint(0, 64, (height, width, 3), generator=torch.Generator().manual_seed(7))
    image = ramp * 3 // 4 + noise
    image[height // 4 : height // 2, width // 8 : width // 3] = torch.tensor([200, 40, 30])
    image[height // 2 : height * 7 // 8, width // 2 : width * 3 // 4] = torch.tensor([20, 90, 220])
    return image.clamp(0, 255).to(torch.uint8).numpy()


def digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def unnormalised(images: torch.Tensor) -> np.ndarray:
    mean, deviation = torch.tensor(PIXEL_MEAN)[:, None, None], torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    return (images[0] * deviation + mean).round().to(torch.uint8).permute(1, 2, 0).numpy()


def subsample(values: torch.Tensor, count: int) -> torch.Tensor:
    index = torch.linspace(0, values.numel() - 1, count, dtype=torch.float64).round().long()
    return values.flatten()[index]


def recorded_prediction(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(1, 1, height // 28 + 1, width // 28 + 1, generator=generator)
    depth = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True) * 700 - 20
    directions = torch.randn(1, 3, 9, 13, generator=generator)
    directions = F.interpolate(directions, (height, width), mode="bilinear", align_corners=True)
    return depth, F.normalize(directions, dim=1)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row['image']}-{row['input_size']}")
def test_framing_is_the_recorded_one(row):
    framing = frame(tuple(row["image"]), tuple(row["input_size"]))
    assert framing.resized == tuple(row["resized"])
    assert framing.pads == tuple(row["pad_top_bottom_left_right"])
    assert framing.scale == row["scale"]
    fx, fy, *_ = row["K"]
    assert framing.canonical_factor(fx) == pytest.approx(row["hub_depth_factor"], rel=1e-12)
    assert framing.canonical_factor((fx + fy) / 2) == pytest.approx(1 / row["do_test_label_scale_factor"], rel=1e-12)


@pytest.mark.parametrize("row", TABLE[::5], ids=lambda row: f"{row['image']}-{row['input_size']}")
def test_prepared_pixels_are_the_recorded_ones_to_the_bit(row):
    image = picture(*row["image"])
    assert digest(image) == row["image_sha256"]
    images, framing = prepare(image, tuple(row["input_size"]))
    assert images.shape == (1, 3, *framing.network_size)
    assert digest(unnormalised(images)) == row["padded_uint8_sha256"]
    assert images.mean().item() == pytest.approx(row["normalised_mean"], abs=1e-5)
    assert images.std(correction=0).item() == pytest.approx(row["normalised_std"], abs=1e-5)


@pytest.mark.parametrize("size", [(616, 1064), (544, 1216)])
def test_normalised_values_are_the_recorded_ones(size):
    _, expected = case("metric3d", "prepost")
    images, _ = prepare(picture(480, 640), size)
    name = f"pre_{size[0]}x{size[1]}"
    torch.testing.assert_close(subsample(images, 8192), expected[f"{name}.norm.sub"], atol=1e-6, rtol=0)
    assert np.array_equal(unnormalised(images)[300], expected[f"{name}.uint8.row300"].numpy())


@pytest.mark.parametrize("size", [(616, 1064), (544, 1216)])
def test_metres_and_normals_are_the_recorded_ones(size):
    _, expected = case("metric3d", "prepost")
    name = f"post_{size[0]}x{size[1]}"
    framing = frame((480, 640), size)
    canonical, normals = recorded_prediction(*size)
    clamped = metric_depth(canonical, framing, CAMERA.fx)
    zeroed = metric_depth(canonical, framing, CAMERA.focal_px, beyond="zero")
    assert clamped.shape == (1, 1, 480, 640)
    torch.testing.assert_close(subsample(clamped, 8192), expected[f"{name}.hub_depth.sub"], atol=1e-4, rtol=0)
    torch.testing.assert_close(subsample(zeroed, 8192), expected[f"{name}.dotest_depth.sub"], atol=1e-4, rtol=0)
    got = picture_normals(torch.cat([normals, torch.ones_like(canonical)], dim=1), framing)
    torch.testing.assert_close(subsample(got, 8192), expected[f"{name}.dotest_normal.sub"], atol=1e-6, rtol=0)


def test_points_are_the_recorded_ones():
    _, expected = case("metric3d", "prepost")
    points = unproject(expected["pcd.depth"].numpy(), Intrinsics(65.0, 66.0, 40.5, 29.0))
    np.testing.assert_allclose(points, expected["pcd.xyz"].numpy(), atol=1e-4, rtol=0)
    np.testing.assert_array_equal(points[..., 2], expected["pcd.median_blurred"].numpy())
    np.testing.assert_array_equal(
        unproject(expected["pcd.depth"].numpy(), CAMERA, smooth=False)[..., 2], expected["pcd.depth"].numpy()
    )


def test_pictures_and_point_files_are_the_recorded_ones():
    description, expected = case("metric3d", "prepost")
    depth = expected["pcd.depth"].numpy()
    assert np.array_equal(depth_colours(depth), expected["vis.depth_colormap_rainbow"].numpy())
    assert np.array_equal(normal_colours(expected["vis.normal_in"].numpy()), expected["vis.normal_u8"].numpy())
    points = unproject(depth, Intrinsics(65.0, 66.0, 40.5, 29.0))[:3, :2]
    assert ply(points, picture(60, 80)[:3, :2]) == bytes.fromhex(description["ply_hex"])


def test_a_plane_in_space_comes_back_through_canonical_camera_and_unprojection():
    # Whatever the picture's size and focal length: a wall 7 m ahead is 7 m ahead, and its width is right.
    for size, focal in [((480, 640), 500.0), ((333, 517), 1234.0)]:
        framing = frame(size, (616, 1064))
        canonical = torch.full((1, 1, 616, 1064), 7.0) / framing.canonical_factor(focal)
        depth = metric_depth(canonical, framing, focal)
        points = unproject(depth[0, 0].numpy(), centred(size, focal))
        np.testing.assert_allclose(points[..., 2], 7.0, rtol=1e-5)
        assert points[0, -1, 0] - points[0, 0, 0] == pytest.approx(7.0 * (size[1] - 1) / focal, rel=1e-5)


def test_an_answer_of_another_size_is_brought_to_the_inputs_size_before_unpadding():
    framing = frame((100, 200), (154, 210))
    ramp = torch.linspace(0, 1, 208).expand(1, 1, 152, 208)
    whole = F.interpolate(ramp, (154, 210), mode="bilinear", align_corners=False)
    top = framing.pads[0]
    assert torch.equal(unpad(ramp, framing), whole[..., top : top + framing.resized[0], :])


def test_the_border_is_the_rounded_mean():
    images, framing = prepare(np.zeros((100, 1000, 3), np.uint8), (616, 1064))
    border = normalise(np.array([[[124, 116, 104]]], np.uint8))
    assert framing.pads[0] == 255
    assert torch.equal(images[:, :, :1, :1], border)
    assert not torch.allclose(border, torch.zeros_like(border), atol=1e-3)


def test_a_vga_cloud_takes_at_most_50_ms():
    depth = np.random.default_rng(0).uniform(1, 50, (480, 640)).astype(np.float32)

    def once() -> float:
        start = time.perf_counter()
        unproject(depth, CAMERA)
        return time.perf_counter() - start

    assert min(once() for _ in range(5)) <= 0.05


def test_unusable_input_is_refused_with_numbers():
    with pytest.raises(InputError, match=r"uint8, got \[4, 4, 3\] of float64"):
        prepare(np.zeros((4, 4, 3)), (28, 28))
    with pytest.raises(InputError, match="1×5000 shrinks to 0×1064"):
        prepare(np.zeros((1, 5000, 3), np.uint8), (616, 1064))
    with pytest.raises(InputError, match="at least 1 pixel"):
        frame((0, 10), (28, 28))
    with pytest.raises(InputError, match="fx=0"):
        Intrinsics(0.0, 1.0, 0.0, 0.0)
    for focal in (0.0, -1.0, math.nan):
        with pytest.raises(InputError, match="focal length"):
            metric_depth(torch.ones(1, 1, 28, 28), frame((28, 28), (28, 28)), focal)
    with pytest.raises(InputError, match="float64"):
        unproject(np.ones((4, 4)), CAMERA)
    with pytest.raises(InputError, match="colours"):
        ply(np.zeros((2, 3), np.float32), np.zeros((3, 3), np.uint8))


def test_values_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CAMERA.fx = 1.0
