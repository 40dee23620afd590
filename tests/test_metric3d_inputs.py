"""Metric3D given what nobody should give it, and one picture in every precision this CPU computes in."""

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from adapters import adapter
from adapters.metric3d.camera import CameraWish, camera_of, read_intrinsics
from adapters.metric3d.geometry import metric_depth, prepare
from adapters.metric3d.networks import build, load_published
from adapters.metric3d.pipeline import DepthRequest, Metric3D, clip_of, network_of, shot_of
from kit.exif import camera_tags
from kit.images import open_picture
from loader.errors import InputError
from loader.host import load_host
from loader.outcome import Result
from loader.place import call_guard, place
from loader.plan import Placement, plan
from loader.weights import load_component, open_state
from loader.wishes import Wishes
from tests.machines import ROOT, host_with
from tests.metric3d_preview import FILE, TINY_CONVNEXT, engine_with, tiny_spec, write_tiny

WOOD = ROOT / "assets" / "examples" / "scene_wood.jpg"
PREVIEW = ROOT / "assets" / "weights" / FILE
HEADS = tuple(
    f"depth_model.decoder.{name}" for name in ("depth_regressor", "normal_predictor", "update_block.flow_head")
)
FP32 = Wishes(variant="preview", size=(84, 112), dtype="fp32")


@pytest.fixture
def engine(tmp_path):
    running = engine_with(host_with(), tmp_path, write_tiny(tmp_path / FILE))
    yield running
    running.close()


def result_of(engine, request) -> Result:
    *_, last = engine.run(tiny_spec(engine.folders.own[0] / FILE), request, FP32)
    assert isinstance(last, Result)
    return last


# --- precision ----------------------------------------------------------------------------------------------------


def placed(**changes) -> Placement:
    """The shipped weights on the CPU, as a plan would say it."""
    plain = Placement("depth_model", "cpu", "fp32", "fp32", "resident", "contiguous", "sdpa", "none", 0)
    return replace(plain, **changes)


def depth_of(placement: Placement) -> torch.Tensor:
    """Metres of one example ``[1, 1, H, W]``, by the weights that ship."""
    name, config = network_of(PREVIEW, "vit_small")
    module = load_component(
        lambda: build("depth_model", name, **config), load_published, "depth_model", open_state(PREVIEW)
    )
    islands = {path for path in placement.keep_fp32 if module.get_submodule(path) is not None}
    assert islands == set(placement.keep_fp32)
    images, framing = prepare(open_picture(WOOD).rgb, (112, 140))
    guard = call_guard(place(module, placement, placement.keep_fp32), placement)
    with torch.inference_mode():
        return metric_depth(guard(images).depth.float(), framing, 800.0)


@pytest.fixture(scope="module")
def exact() -> torch.Tensor:
    return depth_of(placed())


@pytest.mark.parametrize(
    ("changes", "least"),
    [
        ({"storage_dtype": "bf16", "compute_dtype": "bf16"}, 1e-5),
        ({"storage_dtype": "bf16", "compute_dtype": "bf16", "keep_fp32": HEADS}, 1e-5),
        ({"storage_dtype": "bf16", "compute_dtype": "fp32"}, 1e-6),
        ({"memory_format": "channels_last"}, 0.0),
    ],
    ids=["bf16", "mixed", "stored in bf16", "channels last"],
)
def test_every_precision_of_this_cpu_says_the_same_within_the_stated_drift(exact, changes, least):
    """The limit is the spec's own: what a run is measured against, and sent back to fp32 beyond."""
    given = depth_of(placed(**changes))
    assert given.dtype == torch.float32
    drift = float(((given - exact).abs() / exact.abs()).mean())
    assert least <= drift < adapter("metric3d").max_drift
    worst = float(((given - exact).abs() / exact.abs()).quantile(0.99))
    assert worst < 0.25, "a few places are far off although the mean is not"


@pytest.mark.parametrize("storage", ["fp16", "bf16"])
def test_a_convnext_stored_narrow_computes_in_fp32(tmp_path, storage):
    """What hosts short of memory without 16-bit arithmetic do; the ViT's is above."""
    wide, narrow = (build("depth_model", "convnext_tiny", **TINY_CONVNEXT) for _ in range(2))
    narrow.load_state_dict(wide.state_dict())
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    placement = placed(storage_dtype=storage, memory_format="channels_last", compute_dtype="fp32")
    guard = call_guard(place(narrow, placement), placement)
    given = guard(images)
    assert {p.dtype for p in narrow.parameters()} == {getattr(torch, {"fp16": "float16", "bf16": "bfloat16"}[storage])}
    with torch.inference_mode():
        expected = wide.eval()(images)
    assert float(((given.depth - expected.depth) / expected.depth).abs().mean()) < 0.01


def test_the_drift_that_is_stated_is_the_one_that_is_measured(exact):
    """``drift`` of a run compares canonical depths; metres are these times a factor, so the ratio is the same."""

    class Seen:
        def __init__(self, depth: torch.Tensor) -> None:
            self.canonical = depth

    low = depth_of(placed(storage_dtype="bf16", compute_dtype="bf16"))
    assert Metric3D().drift((Seen(exact),), (Seen(low),)) == pytest.approx(
        Metric3D().drift((Seen(3 * exact),), (Seen(3 * low),)), rel=1e-4
    )


# --- cameras ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        {"fx": float("nan"), "fy": 800},
        {"fx": 0, "fy": 800},
        {"fx": 800, "fy": 800, "cx": float("inf"), "cy": 200},
        {"K": [[0, 0, 320], [0, 0, 240], [0, 0, 1]]},
        {"K": [[float("nan"), 0, 320], [0, 800, 240], [0, 0, 1]]},
    ],
)
def test_a_calibration_file_with_no_numbers_in_it_is_refused(tmp_path, content):
    path = tmp_path / "camera.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"finite|no focal length|camera\.json"):
        camera_of((480, 640), read_intrinsics(path))


def test_exif_that_lies_changes_no_metre(engine, tmp_path):
    """A focal length no lens has, and a size that is not the picture's: measured as if nothing were said, and told."""
    image = Image.open(WOOD)
    for name, tags in (
        ("huge", {0xA405: 60000, 0xA002: image.width, 0xA003: image.height}),
        ("cropped", {0xA405: 26, 0xA002: 4000, 0xA003: 4000}),
    ):
        exif = image.getexif()
        exif.get_ifd(0x8769).update(tags)
        image.save(tmp_path / f"{name}.jpg", exif=exif, quality=95)
        assert camera_tags(tmp_path / f"{name}.jpg").focal_35mm == tags[0xA405]
    image.save(tmp_path / "plain.jpg", quality=95)
    shots = [shot_of(tmp_path / f"{name}.jpg", CameraWish()) for name in ("plain", "huge", "cropped")]
    assert [shot.camera.doubt for shot in shots] == ["none", "implausible", "cropped"]
    plain, *others = result_of(engine, DepthRequest(tuple(shots))).outputs
    for other in others:
        np.testing.assert_array_equal(other.depth(), plain.depth())


# --- pictures and clips -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(800, 100), (100, 800), (480, 360), (2, 2), (2, 16)])
def test_shapes_at_the_limits_are_measured_in_their_own_size(engine, tmp_path, size):
    path = tmp_path / "a.png"
    Image.effect_noise(size, 80).convert("RGB").save(path)
    (measured,) = result_of(engine, DepthRequest((shot_of(path, CameraWish(fov=60)),))).outputs
    assert measured.depth().shape == (size[1], size[0])
    assert np.isfinite(measured.depth()).all()
    assert measured.depth().min() > 0


def test_a_video_that_changes_its_size_says_where(engine, tmp_path):
    path = tmp_path / "a.ts"
    parts = []
    for number, (height, width) in enumerate(((48, 64), (64, 96))):
        part = tmp_path / f"{number}.h264"
        with av.open(str(part), "w", format="h264") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for _ in range(5):
                frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 90, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        parts.append(Path(part).read_bytes())
    path.write_bytes(b"".join(parts))
    with pytest.raises(InputError, match=r"changes its size at frame 6, from 64×48 to 96×64"):
        result_of(engine, clip_of(path, CameraWish(fov=60), fps=10, max_frames=50))


# --- old cards ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jetson-nano-4g", "gtx1060-6g", "gtx1660-6g", "v100-16g", "t4-16g", "rtx2080ti-11g"])
def test_no_card_before_ampere_is_given_bf16_and_the_reason_is_said(name):
    made = plan(adapter("metric3d"), load_host(name))
    assert made.fits
    placement = made.component("depth_model")
    assert "bf16" not in (placement.compute_dtype, placement.storage_dtype)
    assert any(d.wanted == "bf16" and d.got in ("fp16", "fp32") for d in made.decisions)


def test_the_frames_users_time_on_a_jetson_nano_take_as_long_as_they_say():
    """480×360 pixels: about a second with the small network, 7 to 10 with the large one; ten times between them."""
    host = load_host("jetson-nano-4g")
    small, large = (
        plan(adapter("metric3d"), host, Wishes(variant=v, size=(364, 476))) for v in ("vit_small", "vit_large")
    )
    assert 0.5 <= small.predicted_seconds <= 2
    assert 5 <= large.predicted_seconds <= 14
    assert 5 <= large.predicted_seconds / small.predicted_seconds <= 14
