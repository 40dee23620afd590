"""Metric3D through the engine, on a tiny network: results, batches, precisions, the ladder, own files, clips."""

import gc
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from adapters import adapter
from adapters.metric3d.camera import CameraWish
from adapters.metric3d.geometry import metric_depth, picture_normals, prepare
from adapters.metric3d.networks import build, load_published
from adapters.metric3d.pipeline import (
    ClipRequest,
    DepthRequest,
    Metric3D,
    _which_variant,
    clip_of,
    network_of,
    shot_of,
)
from kit.images import picture_from_array
from kit.video import ClipWriter
from loader.errors import Cancelled, CheckpointMismatchError, InputError, WeightsError
from loader.memory import Shape, activation_bytes
from loader.outcome import Cancel, Result, Step
from loader.weights import metadata, open_state
from loader.wishes import Wishes
from tests.fake_accelerator import fake_accelerator, fake_card
from tests.machines import ROOT, host_with
from tests.metric3d_preview import FILE, TINY, TINY_CONVNEXT, engine_with, tiny_spec, write_tiny

WOOD = ROOT / "assets" / "examples" / "scene_wood.jpg"
COINS = ROOT / "assets" / "examples" / "coins.png"
SIZE = (84, 112)
FP32 = Wishes(variant="preview", size=SIZE, dtype="fp32")
MIB, GIB = 2**20, 2**30


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("weights") / FILE)


@pytest.fixture
def engine(tmp_path, weights):
    running = engine_with(host_with(), tmp_path, weights)
    yield running
    running.close()


def spec_of(engine):
    return tiny_spec(engine.folders.own[0] / FILE)


def shot(path=WOOD, **wish):
    return shot_of(path, CameraWish(**wish))


def result_of(engine, asked, wishes=FP32, **kwargs) -> Result:
    *_, last = engine.run(spec_of(engine), asked, wishes, **kwargs)
    assert isinstance(last, Result)
    return last


def by_hand(weights, rgb, focal, size=SIZE):
    """Depth and normals without pipeline and engine."""
    network = build("depth_model", "vit_small", **TINY)
    load_published(network, "depth_model", open_state(weights))
    images, framing = prepare(rgb, size)
    with torch.inference_mode():
        prediction = network(images)
    depth = metric_depth(prediction.depth, framing, focal)
    return depth[0, 0].numpy(), picture_normals(prediction.normals, framing)[0].numpy()


# --- results ------------------------------------------------------------------------------------------------------


def test_a_run_gives_what_the_network_and_the_geometry_give(engine, weights):
    asked = shot(fx=900.0)
    result = result_of(engine, DepthRequest((asked,)))
    (measured,) = result.outputs
    depth, normals = by_hand(weights, asked.picture.rgb, 900.0)
    assert depth.std() > 0.01 * depth.mean(), "a flat answer would prove nothing"
    np.testing.assert_allclose(measured.depth(), depth, rtol=1e-5)
    assert measured.depth().shape == asked.picture.size == measured.size
    np.testing.assert_allclose(measured.normals(), normals, atol=2e-3)
    assert measured.confidence().shape == asked.picture.size
    assert result.weights == "preview"
    assert result.trace == ()


def test_pictures_of_different_shapes_share_a_batch_and_keep_their_own_framing(engine, weights):
    upright = picture_from_array(np.ascontiguousarray(np.rot90(shot().picture.rgb)), name="upright")
    asked = (shot(fov=60), shot(COINS, fov=60), replace(shot(fov=60), picture=upright))
    together = result_of(engine, DepthRequest(asked), replace(FP32, batch=3))
    assert [m.size for m in together.outputs] == [s.picture.size for s in asked]
    for one, measured in zip(asked, together.outputs, strict=True):
        depth, _ = by_hand(weights, one.picture.rgb, one.camera.focal_px)
        np.testing.assert_allclose(measured.depth(), depth, rtol=1e-4)


def test_metres_follow_from_the_focal_length(engine):
    near, far = result_of(engine, DepthRequest((shot(fx=600.0), shot(fx=1200.0)))).outputs
    np.testing.assert_allclose(far.depth(), 2 * near.depth(), rtol=1e-4)
    np.testing.assert_allclose(near.depth(2.0), far.depth(), rtol=1e-4)


def test_another_size_is_the_same_thing_smaller(engine):
    (measured,) = result_of(engine, DepthRequest((shot(),))).outputs
    small, large = measured.depth(size=(180, 240)), measured.depth()
    assert small.shape == (180, 240)
    assert small.mean() == pytest.approx(large.mean(), rel=0.01)
    assert np.corrcoef(small.ravel(), large[2::4, 2::4].ravel())[0, 1] > 0.95


def test_steps_count_pictures_and_the_result_knows_how_many(engine):
    items = list(engine.run(spec_of(engine), DepthRequest((shot(),) * 3), replace(FP32, batch=2)))
    steps = [(s.index, s.total) for s in items if isinstance(s, Step) and s.stage == "measuring"]
    assert steps == [(2, 3), (3, 3)]
    assert items[-1].items == 3


def test_drift_is_the_mean_relative_difference():
    class Depth:
        def __init__(self, value):
            self.canonical = torch.full((1, 1, 4, 4), value)

    assert Metric3D().drift((Depth(2.0),), (Depth(2.5),)) == pytest.approx(0.25)
    assert Metric3D().drift((Depth(2.0), Depth(4.0)), (Depth(2.0), Depth(5.0))) == pytest.approx(0.125)


def test_bf16_stays_near_fp32_and_is_judged_by_the_sample(tmp_path, weights):
    engine = engine_with(host_with(), tmp_path, weights)
    exact = result_of(engine, DepthRequest((shot(),))).outputs
    low = result_of(engine, DepthRequest((shot(),)), replace(FP32, dtype="bf16", max_drift=0.5))
    assert low.plan.component("depth_model").compute_dtype == "bf16"
    drift = Metric3D().drift(exact, low.outputs)
    assert 0 < drift < 0.2
    # Judged too strictly, the same wish ends in fp32.
    strict = engine_with(host_with(), tmp_path / "strict", weights)
    result = result_of(strict, DepthRequest((shot(),)), replace(FP32, dtype=None, max_drift=1e-9))
    assert result.trace[0].event == "drift"
    assert result.plan.component("depth_model").compute_dtype == "fp32"


# --- the ladder ---------------------------------------------------------------------------------------------------


def test_out_of_memory_halves_the_batch_and_the_depths_agree(tmp_path, weights):
    asked = DepthRequest((shot(),) * 4)
    expected = result_of(engine_with(host_with(), tmp_path / "cpu", weights), asked).outputs
    with fake_accelerator(5 * MIB) as memory:
        engine = engine_with(host_with(fake_card(8 * GIB)), tmp_path, weights)
        result = result_of(engine, asked, replace(FP32, batch=4))
        assert result.plan.device == "fake:0"
        assert any("batch 4 → 2" in entry.plan_change for entry in result.trace)
        assert memory.peak <= 5 * MIB
        engine.close()
    for here, there in zip(expected, result.outputs, strict=True):
        np.testing.assert_allclose(there.depth(), here.depth(), rtol=1e-4)


def test_the_convnext_s_heads_stay_fp32_to_their_very_edges(tmp_path):
    """What leaves them is fp32: rounded to bf16 on the way out, the residual would step by metres."""
    path = write_tiny(tmp_path / "own.safetensors", "convnext_tiny", TINY_CONVNEXT)
    write_tiny(tmp_path / FILE)
    engine = engine_with(host_with(), tmp_path, path)
    wishes = Wishes(variant="convnext_tiny", size=(64, 96), dtype="bf16", max_drift=9.0)
    result = result_of(engine, DepthRequest((shot(),)), wishes, checkpoint=path)
    assert result.plan.component("depth_model").keep_fp32 == Metric3D.own_edges["depth_model"]
    (measured,) = result.outputs
    assert measured.normals() is None
    network = engine._opened["metric3d"].modules()["depth_model"]
    for head in Metric3D.own_edges["depth_model"]:
        assert {p.dtype for p in network.get_submodule(head).parameters()} == {torch.float32}
    canonical = measured.canonical
    assert not torch.equal(canonical, canonical.bfloat16().float())
    assert result.weights == "own file own.safetensors"
    engine.close()


def test_nan_climbs_to_fp32(tmp_path, weights, monkeypatch):
    from loader import place as placing

    original = placing.place

    def place(module, placement, own_edges=(), *rest):
        placed = original(module, placement, own_edges)
        if placement.compute_dtype != "fp32":
            placed.register_forward_hook(lambda m, a, out: out._replace(depth=out.depth * float("nan")))
        return placed

    monkeypatch.setattr("loader.opened.place", place)
    engine = engine_with(host_with(), tmp_path, weights)
    result = result_of(engine, DepthRequest((shot(),)), replace(FP32, dtype=None))
    assert [t.event for t in result.trace] == ["not_finite"]
    assert np.isfinite(result.outputs[0].depth()).all()
    engine.close()


def test_without_the_published_weights_the_preview_runs_and_says_so(engine, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = result_of(engine, DepthRequest((shot(),)), Wishes())
    assert result.plan.variant == "preview"
    assert result.weights == "preview"
    assert result.trace[0].event == "weights_unavailable"


def test_stop_ends_between_batches(engine):
    cancel = Cancel()
    steps = (
        i
        for i in engine.run(spec_of(engine), DepthRequest((shot(COINS),) * 9), FP32, cancel=cancel)
        if i.stage == "measuring"
    )
    next(steps)
    cancel.request()
    with pytest.raises(Cancelled):
        next(steps)


# --- weights ------------------------------------------------------------------------------------------------------


def test_the_network_is_built_as_the_file_s_header_says(tmp_path, weights):
    assert network_of(weights, "vit_large") == ("vit_small", TINY)
    bare = write_tiny(tmp_path / "a.safetensors")
    torch.save({"model_state_dict": open_state(bare)}, tmp_path / "a.pth")
    assert network_of(tmp_path / "a.pth", "vit_large") == ("vit_large", {})


def test_what_ships_is_what_is_announced():
    """The preview's file against its spec: parameters, bytes, activations, and a size it is meant for."""
    variant = adapter("metric3d").variant("preview")
    (announced,) = variant.weights
    path = ROOT / announced.sources[0].location
    assert path.stat().st_size == pytest.approx(announced.bytes, rel=0.01)
    name, config = network_of(path, "none")
    component = variant.component("depth_model")
    assert json.loads(metadata(path)["size"]) == list(variant.sizes[0])
    with fake_accelerator(2**40) as memory:
        network = build("depth_model", name, **config)
        assert sum(p.numel() for p in network.parameters()) == component.n_params
        network.to("fake:0")
        gc.collect()
        images = torch.zeros(1, 3, 112, 140).to("fake:0")
        before = memory.used - images.numel() * 4
        memory.peak = memory.used
        with torch.inference_mode():
            network(images)
        taken = memory.peak - before
        del network, images
        gc.collect()
    assert taken == pytest.approx(activation_bytes(component, Shape((112, 140)), "fp32"), rel=0.05)


@pytest.mark.parametrize("config", ["[1, 2", "3"])
def test_a_header_that_says_nonsense_is_named(tmp_path, config):
    path = write_tiny(tmp_path / "a.safetensors")
    from safetensors.torch import save_file

    save_file(open_state(path), tmp_path / "b.safetensors", {"config": config})
    with pytest.raises(WeightsError, match=r"b\.safetensors: its header's config is not a JSON object"):
        network_of(tmp_path / "b.safetensors", "vit_small")


def test_files_of_other_networks_are_refused_and_recognised(tmp_path, engine):
    other = write_tiny(tmp_path / "other.safetensors")
    state = open_state(other)
    torch.save({"model_state_dict": dict(list(state.items())[:-1])}, tmp_path / "cut.pth")
    with pytest.raises(CheckpointMismatchError):
        result_of(engine, DepthRequest((shot(),)), checkpoint=tmp_path / "cut.pth")
    with torch.device("meta"):
        large = build("depth_model", "vit_large").state_dict()
    assert _which_variant(large) == "vit_large"
    assert _which_variant(state) is None


# --- requests -----------------------------------------------------------------------------------------------------


def test_no_picture_is_an_input_error(engine):
    with pytest.raises(InputError, match="no picture"):
        result_of(engine, DepthRequest(()))


@pytest.mark.parametrize(("mode", "size"), [("P", (60, 40)), ("I;16", (60, 40)), ("RGBA", (60, 40)), ("1", (60, 40))])
def test_unusual_pictures_are_measured(engine, tmp_path, mode, size):
    from PIL import Image

    path = tmp_path / "a.png"
    Image.effect_noise(size, 80).convert("I;16" if mode == "I;16" else mode).save(path)
    (measured,) = result_of(engine, DepthRequest((shot(path),))).outputs
    assert measured.depth().shape == (40, 60)
    assert np.isfinite(measured.depth()).all()


def test_a_strip_is_refused_with_its_shape_and_the_limit(tmp_path):
    from PIL import Image

    path = tmp_path / "strip.png"
    Image.new("RGB", (900, 100)).save(path)
    with pytest.raises(InputError, match=r"900×100 pixels, 9\.0 times as long as wide; the limit is 8: crop"):
        shot(path)
    Image.new("RGB", (800, 100)).save(path)
    assert shot(path).picture.size == (100, 800)


# --- clips --------------------------------------------------------------------------------------------------------


def clip_file(path, count=6, size=(60, 80), rate=10.0):
    rng = np.random.default_rng(1)
    base = rng.integers(0, 255, (*size, 3), np.uint8)
    with ClipWriter(path, fps=rate) as writer:
        for index in range(count):
            writer.write(np.roll(base, 4 * index, axis=1), index / rate)
    return path


def test_a_clip_gives_a_depth_for_each_frame_at_its_time(engine, tmp_path):
    request = clip_of(clip_file(tmp_path / "a.mp4"), CameraWish(fov=50), fps=30, max_frames=100)
    assert isinstance(request, ClipRequest)
    result = result_of(engine, request, replace(FP32, batch=4))
    (clip,) = result.outputs
    assert clip.seconds == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5], abs=1e-3)
    assert {depth.shape for depth in clip.depths} == {(60, 80)}
    assert clip.camera.source == "fov"
    assert result.items == 6
    half = clip_of(tmp_path / "a.mp4", CameraWish(), fps=5, max_frames=2)
    assert half.camera.source == "assumed"
    assert len(result_of(engine, half).outputs[0].depths) == 2


def test_large_clips_keep_small_depths(engine, tmp_path):
    path = clip_file(tmp_path / "a.mp4", count=1, size=(360, 1280))
    (clip,) = result_of(engine, clip_of(path, CameraWish(), fps=30, max_frames=10)).outputs
    assert (clip.depths[0].shape, clip.size) == ((180, 640), (360, 1280))


def test_a_clip_cut_short_ends_with_the_reason(engine, tmp_path):
    path = clip_file(tmp_path / "a.mp4", count=60, size=(120, 160))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="after"):
        result_of(engine, clip_of(path, CameraWish(), fps=30, max_frames=100))
    for fps, frames in ((0, 5), (10, 0)):
        with pytest.raises(InputError, match="at least 1 frame"):
            clip_of(path, CameraWish(), fps=fps, max_frames=frames)
