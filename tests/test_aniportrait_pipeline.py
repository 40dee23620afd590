"""Whole animations on the miniature: every way to move a head, Stop and going on, precisions, memory."""

import json
import warnings
import weakref
from dataclasses import replace
from functools import cache

import av
import numpy as np
import pytest
import torch

from adapters.aniportrait import loading, pipeline
from adapters.aniportrait.denoise import Portrait, PoseWindows, Sampling, decode_frames, denoise, initial_noise
from adapters.aniportrait.interpolator import BlendFrames, Interpolator, open_interpolator
from adapters.aniportrait.miniature import CONFIGS, miniature
from adapters.aniportrait.networks import COMPONENTS, build, load_published
from adapters.aniportrait.painting import clip_input, encode_portrait, glimpse, paint, vae_input
from adapters.aniportrait.pipeline import build_pipeline
from adapters.aniportrait.posing import Drawn, clip_rate, crop_region, cut_out
from adapters.aniportrait.requests import AnimateRequest, Driving, PoseClip, Speech, Still, Trial, Unfinished
from adapters.aniportrait.running import Closeness, Made, Stopped, animate, compare, psnr, ssim
from adapters.aniportrait.spec import MINIATURE, PUBLISHED, SPEC
from adapters.aniportrait.stand_in import stand_in_face
from adapters.aniportrait.windows import context_windows
from adapters.aniportrait.writing import Sink
from kit.audio import read_sound
from kit.running import Asked
from kit.video import probe_clip, read_frames
from loader import cost
from loader.errors import CheckpointMismatchError, InputError, WeightsCorruptError
from loader.host import load_host
from loader.memory import Shape
from loader.outcome import Result, Unit
from loader.place import TORCH_DTYPES, call_guard
from loader.plan import plan
from loader.wishes import Wishes
from tests.aniportrait_runs import SMALL, clip, head, portrait, request, run, steps, tone
from tests.machines import engine_on, host_with


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    made = engine_on(host_with(), tmp_path_factory.mktemp("engine"))
    yield made
    made.close()


@pytest.fixture
def shown(monkeypatch):
    """Frames as they go into the files, clip by clip: what comes out of an encoder differs from run to run."""
    clips, add = {}, Sink.add

    def noting(sink: Sink, rgb: np.ndarray) -> None:
        clips.setdefault(sink.path, []).append(rgb.copy())
        add(sink, rgb)

    monkeypatch.setattr(Sink, "add", noting)
    return lambda path: np.stack(clips[path])


def frames_of(path) -> np.ndarray:
    return np.stack([frame.rgb for frame in read_frames(path)])


# ---- the networks and their figures


def test_the_spec_counts_what_the_networks_have():
    for variant in (PUBLISHED, MINIATURE):
        for component in variant.components:
            if component.name in COMPONENTS:
                config = CONFIGS[component.name] if variant is MINIATURE else {}
                with torch.device("meta"):
                    network = build(component.name, COMPONENTS[component.name][0], **config)
                assert sum(p.numel() for p in network.parameters()) == component.n_params, component.name


def test_a_miniature_is_the_same_everywhere():
    first, second = miniature("vae"), miniature("vae")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    total = sum(float(p.double().abs().sum()) for p in first.parameters())
    assert total == pytest.approx(5497.6, rel=1e-3)


def test_the_estimate_counts_passes_of_windows():
    unet = PUBLISHED.component("denoising_unet")
    for frames, windows in ((16, 1), (20, 2), (60, 5), (100, 9), (300, 25)):
        assert len(context_windows(frames)) == windows
        assert cost.calls(unet, Shape((512, 512), steps=25, frames=frames)) == 25 * 16 * windows
    long, short = (plan(SPEC, load_host("h200-141g"), Wishes(frames=f)).predicted_seconds for f in (300, 60))
    assert long / short == pytest.approx(5, rel=0.1)


def test_old_names_of_the_codec_and_numbers_of_places_are_understood():
    module = miniature("vae")
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, tensor in module.state_dict().items():
        for new, old in older.items():
            if ".attentions." in name and f".{new}." in name:
                name = name.replace(new, old)
                tensor = tensor[:, :, None, None] if name.endswith("weight") else tensor
        state[name] = tensor.clone()
    assert any(".query.weight" in name for name in state)
    load_published(module, "vae", state)
    with pytest.raises(CheckpointMismatchError, match=r"to_q\.bias"):
        load_published(module, "vae", {n: t for n, t in state.items() if "query" not in n})
    encoder = miniature("image_encoder")
    assert not any(buffer.is_meta for buffer in encoder.buffers())
    extra = {**encoder.state_dict(), "vision_model.embeddings.position_ids": torch.arange(17)[None]}
    load_published(encoder, "image_encoder", extra)


@pytest.mark.parametrize("fault", ["", "missing", "unexpected"])
def test_published_files_fill_the_networks_strictly(tmp_path, monkeypatch, fault):
    """The denoising UNet from its two files, at the miniature's widths."""
    monkeypatch.setattr(loading, "build", lambda name, variant: build(name, variant, **CONFIGS[name]))
    state = dict(component("denoising_unet").state_dict())
    if fault == "missing":
        del state["conv_in.bias"]
    if fault == "unexpected":
        state["conv_in.extra"] = torch.zeros(1)
    moving = {name: tensor for name, tensor in state.items() if ".motion_modules." in name}
    files = {"denoising_unet.pth": tmp_path / "a.pth", "motion_module.pth": tmp_path / "b.pth"}
    torch.save({name: tensor for name, tensor in state.items() if name not in moving}, tmp_path / "a.pth")
    torch.save(moving, tmp_path / "b.pth")
    if fault:
        with pytest.raises(CheckpointMismatchError, match=f"1 {fault}: conv_in"):
            loading.load_component_of("denoising_unet", PUBLISHED, files)
        return
    network = loading.load_component_of("denoising_unet", PUBLISHED, files)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in state.items())


# ---- the loop


class Loaded:
    """Miniature components called directly, in fp32."""

    def __init__(self, wishes: Wishes) -> None:
        self.plan = plan(SPEC, host_with(), wishes)
        self._modules = {name: component(name) for name in CONFIGS}

    def call(self, name, *args, **kwargs):
        name, _, method = name.partition(".")
        module = self._modules[name]
        return call_guard(getattr(module, method) if method else module, self.plan.component(name))(*args, **kwargs)

    def seeded(self, seed):
        return torch.Generator().manual_seed(seed)


@cache
def component(name):
    return miniature(name)


def driven(work):
    """The value of a stage whose units are run as they come, and the names of these."""
    names, answer = [], None
    while True:
        try:
            item = work.send(answer)
        except StopIteration as end:
            return end.value, names
        answer = None
        if isinstance(item, Unit):
            names.append(item.name)
            answer = item.run(None)


@pytest.mark.parametrize("guidance", [3.5, 1.0])
def test_units_give_what_the_parity_tested_loop_gives(guidance, tmp_path):
    frames, size = 19, (64, 64)
    parts = Loaded(replace(SMALL, frames=frames))
    rgb = head(64, 64)
    face = stand_in_face(size, (10, 8, 54, 58))
    points = np.stack([face.points[:468, :2] + 0.004 * index for index in range(frames)])
    track = Drawn(points.astype(np.float32))
    asked = request(tmp_path, guidance=guidance)
    encoded, names = driven(encode_portrait(parts, rgb))
    assert [name.removeprefix("the portrait's ") for name in names] == ["latents", "meaning", "features"]
    latents, names = driven(paint(parts, asked, encoded, track, size))
    # Poses once for each of the two windows, predictions for each in each step.
    assert len(names) == 2 + 2 * 2
    windows = context_windows(frames)
    pictures = torch.from_numpy(track.pictures(range(frames), size))
    guider = PoseWindows(component("pose_guider"), pictures, device=torch.device("cpu"))
    noise = initial_noise(frames, *size, torch.Generator().manual_seed(42))
    *_, last = denoise(
        component("denoising_unet"),
        guider,
        Portrait(encoded.token, encoded.banks),
        noise,
        Sampling(windows, 2, guidance),
    )
    torch.testing.assert_close(latents, last.latents, atol=1e-6, rtol=0)
    assert len(list(decode_frames(lambda x: component("vae").decode(x).sample, latents[:, :, :1]))) == 1


def test_poses_of_long_clips_are_not_kept(tmp_path):
    parts = Loaded(replace(SMALL, frames=36, steps=2))
    encoded, _ = driven(encode_portrait(parts, head(64, 64)))
    points = np.stack([stand_in_face((64, 64), (10, 8, 54, 58)).points[:468, :2]] * 36)
    _, names = driven(paint(parts, request(tmp_path), encoded, Drawn(points), (64, 64)))
    assert sum(name.startswith("poses") for name in names) == 2 * 3


def test_what_the_networks_are_given():
    rgb = head(96, 64)
    pixels = vae_input(rgb)
    assert pixels.shape == (1, 3, 96, 64)
    assert float(pixels.max()) <= 1
    assert float(pixels[0, 0, 0, 0]) == pytest.approx(2 * 200 / 255 - 1)
    seen = clip_input(np.full((50, 70, 3), 128, np.uint8))
    assert seen.shape == (1, 3, 224, 224)
    np.testing.assert_allclose(seen[0, :, 5, 5], (128 / 255 - np.array([0.48145466, 0.4578275, 0.40821073])) / [
        0.26862954, 0.26130258, 0.27577711,
    ], rtol=1e-5)  # fmt: skip
    assert glimpse(torch.zeros(4, 8, 6)).shape == (256, 192, 3)


# ---- cropping


def test_a_small_face_is_cut_out_and_a_close_up_is_kept():
    far = stand_in_face((400, 600), (280, 120, 340, 200))
    left, top, right, bottom = crop_region(far, (512, 512))
    box = far.box
    assert right - left == pytest.approx(1.5 * max(box[2] - box[0], box[3] - box[1]), abs=2)
    assert (right - left) == pytest.approx(bottom - top, abs=1)
    wide = crop_region(far, (384, 512))
    assert (wide[2] - wide[0]) / (wide[3] - wide[1]) == pytest.approx(4 / 3, abs=0.05)
    near = stand_in_face((401, 400), (40, 20, 360, 390))
    # Upstream's cut of a picture that is one pixel taller than wide is empty.
    assert crop_region(near, (512, 512)) == (0, 0, 400, 400)
    picture = np.full((20, 30, 3), 7, np.uint8)
    cut = cut_out(picture, (-5, 10, 15, 30))
    assert cut.shape == (20, 20, 3)
    assert (cut[:10, 5:] == 7).all()
    assert not cut[10:].any()
    assert not cut[:, :5].any()


@pytest.mark.parametrize(("fps", "rate"), [(60, 30), (30, 30), (29.97, 29.97), (25, 25), (50, 25), (120, 30), (0, 30)])
def test_rates_above_thirty_are_halved(fps, rate):
    assert clip_rate(fps) == pytest.approx(rate)


# ---- whole clips


def test_sound_makes_a_labelled_clip_with_its_sound(engine, tmp_path):
    made, result = run(engine, request(tmp_path, compare=True, settings={"note": "x"}))
    assert (made.made, made.frames, made.fps, made.size) == (4, 10, 30, (64, 64))
    assert set(made.notes) == {"cut", "stand_in"}
    assert made.style == 42 % 100 or 0 <= made.style < 100
    assert frames_of(made.path).shape == (10, 64, 64, 3)
    assert frames_of(made.compare).shape == (10, 64, 3 * 64 + 4, 3)
    assert read_sound(made.path).seconds == pytest.approx(1 / 3, abs=0.1)
    with av.open(str(made.path)) as container:
        told = json.loads(container.metadata["comment"])
    assert told["ai_generated"]
    assert (told["options"]["seed"], told["note"], told["frames"]) == (42, "x", 10)
    assert (told["motion"], told["wishes"]["steps"]) == ("sound, head by sound", 2)
    assert told["weights"].startswith("untrained miniature")
    assert b"trainedAlgorithmicMedia" in made.path.read_bytes()
    # The label is on it: the lower right corner of an unlabelled one is another.
    bare, _ = run(engine, request(tmp_path, labelled=False))
    corners = [frames_of(path)[0, 48:, 20:].astype(int) for path in (made.path, bare.path)]
    assert np.abs(corners[0] - corners[1]).max() > 30
    assert bare.path != made.path
    assert b"trainedAlgorithmicMedia" not in bare.path.read_bytes()
    assert result.plan.frames == 4
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".mp4"] * 3


def test_the_same_seed_is_the_same_clip_and_another_is_not(engine, tmp_path, shown):
    one, again, other = (run(engine, request(tmp_path, seed=seed))[0] for seed in (5, 5, 6))
    assert np.array_equal(shown(one.path), shown(again.path))
    assert not np.array_equal(shown(one.path), shown(other.path))
    assert one.style == again.style


@pytest.mark.parametrize(
    ("size", "changes"), [((96, 64), {"crop": False}), ((64, 96), {"guidance": 1.0, "faithful": False})]
)
def test_sizes_that_are_no_squares_clean_poses_and_no_guidance(engine, tmp_path, size, changes):
    made, _ = run(engine, request(tmp_path, **changes), replace(SMALL, size=size))
    assert frames_of(made.path).shape[1:3] == size


def test_a_driving_video_holds_faceless_frames(engine, tmp_path):
    shown = [head(x=0.4 + 0.02 * i, face=i not in (2, 6)) for i in range(9)]
    path = clip(tmp_path / "drive.mp4", shown, fps=10)
    made, _ = run(engine, request(tmp_path, source=Driving(path, probe_clip(path)), compare=True))
    # At ten frames a second every third is made: 0, 3 and 6, of which the last has no face.
    assert (made.made, made.frames, made.fps, made.held) == (3, 7, 10, (2,))
    assert "held" in made.notes
    assert probe_clip(made.compare).size == (64, 3 * 64 + 4)
    nobody = clip(tmp_path / "nobody.mp4", [head(face=False)] * 4)
    with pytest.raises(InputError, match=r"nobody\.mp4: no face in any of its 2 frames"):
        run(engine, request(tmp_path, source=Driving(nobody, probe_clip(nobody))))


def test_ready_pose_pictures_from_a_video_or_a_picture(engine, tmp_path):
    from adapters.aniportrait.pose_drawing import draw_pose

    face = stand_in_face((128, 128), (20, 16, 108, 116))
    poses = [np.ascontiguousarray(draw_pose(face.points + 0.01 * i, (128, 128))[:, :, ::-1]) for i in range(4)]
    path = clip(tmp_path / "poses.mp4", poses, fps=30)
    made, _ = run(engine, request(tmp_path, source=PoseClip(path, probe_clip(path))))
    assert made.fps == 30
    assert made.frames == 4
    large = replace(SMALL, size=(128, 128))
    for source in (Still(portrait("pose.png"), drawn=False), Still(portrait("pose.png"), drawn=True)):
        picture, _ = run(engine, request(tmp_path, source=source), large)
        assert picture.path.suffix == ".png"
        assert (picture.frames, picture.fps) == (1, 0)
        assert b"trainedAlgorithmicMedia" in picture.path.read_bytes()
    with pytest.raises(InputError, match=r"1 frame of 64×64 pixels is too little.*clean"):
        run(engine, request(tmp_path, source=Still(portrait())), SMALL)


@pytest.mark.parametrize("way", ["still", "track", "video"])
def test_the_head_may_move_otherwise_than_by_sound(engine, tmp_path, way):
    track = np.zeros((4, 6))
    track[:, 1] = [0, 10, 20, 30]
    path = clip(tmp_path / "nod.mp4", [head(x=0.3 + 0.05 * i) for i in range(6)], fps=30)
    source = {
        "still": Speech(tone(1.0), head="still"),
        "track": Speech(tone(1.0), head="video", head_track=track),
        "video": Speech(tone(1.0), head="video", head_video=path),
    }[way]
    made, _ = run(engine, request(tmp_path, source=source))
    assert made.style is None
    assert made.frames == 10
    with pytest.raises(InputError, match="as in a video, and none was given"):
        Speech(tone(1.0), head="video")


# ---- Stop, going on, taking it as it is


def stopped_after(engine, asked, count):
    """Press Stop when ``count`` windows are done."""
    made = Asked(SMALL)
    for item in animate(engine, asked, made):
        if isinstance(item, Stopped | Made):
            return item
        if item.stage == "denoising_clip" and item.index >= count:
            made.cancel.request()
    raise AssertionError("it ended without an outcome")


def test_stop_keeps_the_clip_which_goes_on_to_the_same_end_or_is_taken_as_it_is(engine, tmp_path, shown):
    whole, _ = run(engine, request(tmp_path / "whole"))
    stopped = stopped_after(engine, request(tmp_path / "rest"), 1)
    assert isinstance(stopped, Stopped)
    assert (stopped.unfinished.step, stopped.unfinished.steps, stopped.unfinished.frames) == (1, 2, 4)
    *_, finished = animate(engine, stopped.again, Asked(SMALL))
    assert np.array_equal(shown(finished.animation.path), shown(whole.path))
    *_, taken = animate(engine, stopped.as_it_is, Asked(SMALL))
    assert "unfinished" in taken.animation.notes
    assert not np.array_equal(shown(taken.animation.path), shown(whole.path))
    assert list((tmp_path / "rest").glob(".*")) == []
    with pytest.raises(InputError, match="has 4 frames of 64×64 in 2 steps, now 6 of 64×64 in 2"):
        run(engine, stopped.again, replace(SMALL, frames=6))


def test_stop_before_the_first_step_leaves_nothing(engine, tmp_path):
    asked = Asked(SMALL)
    asked.cancel.request()
    with pytest.raises(Exception, match="stopped"):
        list(animate(engine, request(tmp_path), asked))
    assert list(tmp_path.iterdir()) == []


def test_only_what_a_request_needs_is_loaded(engine, tmp_path):
    network = build_pipeline()
    made = plan(SPEC, host_with(), SMALL)
    speech = network.uses(request(tmp_path), made)
    assert speech[:3] == ("face_mesh", "audio2mesh", "audio2pose")
    assert speech[-1] == "interpolator"
    still = network.uses(request(tmp_path, source=Still(portrait())), made)
    assert "audio2mesh" not in still
    assert "interpolator" not in still
    unfinished = Unfinished(torch.zeros(1), torch.zeros(1), 1, 2)
    taken = network.uses(request(tmp_path, resume=unfinished, decode_now=True), made)
    assert taken == ("face_mesh", "vae", "interpolator")
    with pytest.raises(InputError, match=r"not one file of weights.*x\.pth"):
        network.load("vae", made, {}, tmp_path / "x.pth")


# ---- precision


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_lower_precision_runs_through_and_says_how_near_it_is(engine, tmp_path, dtype):
    named = dict.fromkeys(("image_encoder", "reference_unet", "denoising_unet", "vae"), dtype)
    wishes = replace(SMALL, dtype=None, component_dtype=named, force=dtype == "fp16", max_drift=1.0, steps=1)
    *_, near = compare(engine, request(tmp_path), Asked(wishes))
    assert isinstance(near, Closeness)
    assert near.frames == 4
    low = {name for name, used in near.dtypes.items() if used == dtype}
    assert low == named.keys()
    assert 0 < near.difference < 0.2
    assert 0 < near.ssim < 1
    assert 10 < near.psnr < 80
    assert min(near.bytes_low, near.bytes_fp32) > 0
    assert list(tmp_path.iterdir()) == []


def test_quality_figures_are_those_of_the_field():
    rng = np.random.default_rng(1)
    frames = rng.random((2, 24, 24, 3)).astype(np.float32)
    assert psnr(frames, frames) == float("inf")
    assert ssim(frames, frames) == pytest.approx(1)
    assert psnr(frames, frames + np.float32(0.1)) == pytest.approx(20, abs=1e-3)
    assert ssim(frames, rng.random((2, 24, 24, 3)).astype(np.float32)) < 0.2


def test_without_native_bf16_the_plan_says_fp32():
    made = plan(SPEC, load_host("cpu-avx2"), Wishes(variant="miniature"))
    assert {placement.compute_dtype for placement in made.components} == {"fp32"}
    on_bf16 = plan(SPEC, load_host("cpu-bf16"), Wishes(variant="miniature"))
    assert on_bf16.component("denoising_unet").compute_dtype == "bf16"
    assert on_bf16.component("pose_guider").compute_dtype == "fp32"
    assert on_bf16.component("audio2mesh").compute_dtype == "fp32"
    assert TORCH_DTYPES["bf16"] is torch.bfloat16


def test_memory_does_not_grow_with_the_clip(engine, tmp_path):
    path = clip(tmp_path / "long.mp4", [head(64, 64, x=0.4 + 0.2 * (i % 9) / 9) for i in range(200)], fps=30)
    source, peaks = PoseClip(path, probe_clip(path)), []
    without = replace(SPEC, variants=(replace(MINIATURE, components=MINIATURE.components[:-1]),), default="miniature")
    without = replace(without, smaller=(), cpu_only=replace(SPEC.cpu_only, variant="miniature"))
    for frames in (20, 200):
        wishes = replace(SMALL, frames=frames, steps=1)
        *_, result = engine.run(without, request(tmp_path, source=source, guidance=1.0), wishes)
        assert result.outputs[0].made == frames
        peaks.append(result.peak_bytes["host"])
    assert peaks[1] <= 1.1 * peaks[0], [f"{peak / 2**20:.0f} MiB" for peak in peaks]


def test_decoded_frames_are_let_go_once_they_are_written(engine, tmp_path, monkeypatch):
    """The heap of a process hides what a few small frames add; they are counted here."""
    decoded, alive = [], []

    def noting(*args, made=pipeline.decode_frame):
        frame = made(*args)
        alive.append(sum(kept() is not None for kept in decoded))
        decoded.append(weakref.ref(frame))
        return frame

    monkeypatch.setattr(pipeline, "decode_frame", noting)
    made, _ = run(engine, request(tmp_path), replace(SMALL, frames=12, steps=1))
    # Those of the warm-up are counted too.
    assert made.made == 10 <= len(decoded)
    assert max(alive) <= 2


# ---- interpolation


class Middle(torch.nn.Module):
    def forward(self, before: torch.Tensor, after: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        assert before.shape[2] % 64 == 0
        assert before.shape[3] % 64 == 0
        return before + (after - before) * time[:, :, None, None]


def test_the_published_program_is_opened_as_one_and_takes_any_size(tmp_path):
    path = tmp_path / "film_net_fp16.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # writing such programs is; reading them goes on
        torch.jit.save(torch.jit.script(Middle().half()), str(path))
    network = open_interpolator(path)
    assert isinstance(network, Interpolator)
    before, after = torch.rand(1, 3, 72, 100), torch.rand(1, 3, 72, 100)
    out = network(before, after, torch.full((1, 1), 0.25))
    torch.testing.assert_close(out, before + 0.25 * (after - before))
    torch.testing.assert_close(out, BlendFrames()(before, after, torch.full((1, 1), 0.25)))
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(WeightsCorruptError, match="no TorchScript program"):
        open_interpolator(path)
    path.write_text("<html>")
    with pytest.raises(WeightsCorruptError, match="no TorchScript file"):
        open_interpolator(path)


def test_the_program_is_a_variant_of_its_own_under_terms():
    film = SPEC.variant("v2_film")
    (program,) = [weights for weights in film.weights if weights.fills == ("interpolator",)]
    assert program.licence.accept
    assert "TorchScript" in program.licence.note
    assert not any(weights.licence.accept for weights in PUBLISHED.weights)
    host = load_host("h200-141g")
    every, third = (plan(SPEC, host, Wishes(variant=name)).predicted_seconds for name in ("v2", "v2_film"))
    assert third < 0.6 * every


def test_trials_are_judged_by_what_they_decode():
    pipeline = build_pipeline()
    sample = pipeline.sample(plan(SPEC, host_with(), SMALL))
    assert isinstance(sample, AnimateRequest)
    assert sample.trial == Trial(2, 1, 256, faceless=True)
    assert sample.teaches is False


def test_previews_and_progress_come_as_it_goes(engine, tmp_path):
    items = list(steps(engine, request(tmp_path)))
    told = [item for item in items if not isinstance(item, Result)]
    stages = list(dict.fromkeys(item.stage for item in told))
    assert stages[-4:] == ["listening_sound", "encoding_portrait", "denoising_clip", "decoding_clip"]
    denoised = [item for item in told if item.stage == "denoising_clip"]
    assert [item.index for item in denoised] == [1, 2]
    assert all(item.preview.ndim == 3 for item in denoised)
    looks = [item.preview for item in told if item.stage == "posing_face"]
    assert looks[0].contours.shape == (64, 64, 3)
