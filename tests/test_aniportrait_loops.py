"""AniPortrait's schedule, windows, interpolation and denoising loops."""

from functools import cache
from itertools import pairwise

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from adapters.aniportrait.denoise import (
    DenoiseStep,
    Portrait,
    PoseWindows,
    Sampling,
    decode_frames,
    denoise,
    initial_noise,
    pose_input,
)
from adapters.aniportrait.interpolation import insertion_order, interpolate_frames, linear, slerp
from adapters.aniportrait.networks import build
from adapters.aniportrait.schedule import Schedule
from adapters.aniportrait.windows import context_windows, coverage, ordered_halving
from tests.parity.case import HERE, case
from tests.parity.rule import fill

CLIPS = sorted(path.stem.removeprefix("golden_") for path in (HERE / "aniportrait").glob("golden_pose2vid_*.json"))
CPU = torch.device("cpu")


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- schedule


def test_the_schedule_equals_upstream():
    description, expected = case("aniportrait", "ddim_v2")
    for steps, timesteps in description["timesteps"].items():
        assert Schedule.of(int(steps)).timesteps == timesteps
    schedule = Schedule.of(25)
    torch.testing.assert_close(schedule.signal, expected["alphas_cumprod"], atol=1e-6, rtol=0)
    assert schedule.signal[-1] == 0
    sample, velocity = noise(1, 4, 2, 8, 8, seed=3), noise(1, 4, 2, 8, 8, seed=4)
    for timestep in (999, 959, 519, 39):
        stepped = schedule.step(velocity, timestep, sample)
        torch.testing.assert_close(stepped, expected[f"step_t{timestep}"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 7, 16, 30, 48, 97, 333, 999, 1000])
def test_any_number_of_steps_equals_diffusers(steps):
    scheduler = DDIMScheduler(**case("aniportrait", "ddim_v2")[0]["config"])
    scheduler.set_timesteps(steps)
    schedule = Schedule.of(steps)
    assert schedule.timesteps == scheduler.timesteps.tolist()
    sample, velocity = noise(2, 3, seed=3), noise(2, 3, seed=4)
    for timestep in {schedule.timesteps[0], schedule.timesteps[steps // 2], schedule.timesteps[-1]}:
        expected = scheduler.step(velocity, timestep, sample).prev_sample
        torch.testing.assert_close(schedule.step(velocity, timestep, sample), expected, atol=1e-6, rtol=0)


def test_steps_out_of_range_are_refused_and_low_precision_is_raised():
    for steps in (0, 1001):
        with pytest.raises(ValueError, match=f"1 to 1000, got {steps}"):
            Schedule.of(steps)
    schedule, half = Schedule.of(4), noise(2, 3, seed=1).bfloat16()
    stepped = schedule.step(half, 749, half)
    assert stepped.dtype == torch.float32
    assert torch.equal(stepped, schedule.step(half.float(), 749, half.float()))


def test_initial_noise_is_the_seeds():
    _, expected = case("aniportrait", "ddim_v2")
    drawn = initial_noise(60, 512, 512, torch.Generator().manual_seed(42))
    assert drawn.shape == (1, 4, 60, 64, 64)
    assert torch.equal(drawn.flatten()[:32], expected["noise_seed42_float32_first32"])
    with pytest.raises(ValueError, match="multiples of 8, got 60 x 64"):
        initial_noise(1, 60, 64, torch.Generator())


# ---- windows


@pytest.mark.parametrize("index", range(len(case("aniportrait", "context_windows")[0]["cases"])))
def test_windows_equal_upstream(index):
    given_case = case("aniportrait", "context_windows")[0]["cases"][index]
    windows = context_windows(
        given_case["num_frames"],
        given_case["context_size"],
        given_case["context_stride"],
        given_case["context_overlap"],
        closed=given_case["closed_loop"],
        step=given_case["step"],
    )
    assert windows == given_case["windows"]


def test_ordered_halving_equals_upstream():
    for step, value in case("aniportrait", "context_windows")[0]["ordered_halving"].items():
        assert ordered_halving(int(step)) == value


@settings(max_examples=150, deadline=None)
@given(
    frames=st.integers(1, 300),
    size=st.integers(1, 32),
    stride=st.integers(1, 4),
    share=st.floats(0, 1, exclude_max=True),
    closed=st.booleans(),
    step=st.integers(0, 40),
)
def test_windows_cover_every_frame_and_their_shares_sum_to_one(frames, size, stride, share, closed, step):
    overlap = int(share * size)
    windows = context_windows(frames, size, stride, overlap, closed=closed, step=step)
    assert all(len(window) == min(size, frames) for window in windows)
    counts = coverage(windows, frames)
    for frame in range(frames):
        seen = sum(window.count(frame) for window in windows)
        assert seen == counts[frame] >= 1
        assert sum(1 / counts[frame] for window in windows for entry in window if entry == frame) == pytest.approx(1)
    if stride == 1 and frames > size:
        for first, second in pairwise(windows):
            assert first[size - overlap :] == second[:overlap]


def test_strides_that_the_clip_cannot_use_are_cut():
    assert context_windows(20, 16, 9) == context_windows(20, 16, 2) != context_windows(20, 16, 1)
    assert context_windows(64, 16, 9) == context_windows(64, 16, 3) != context_windows(64, 16, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 16, 1, 4), "at least 1, got 0, 16 and 1"),
        ((20, 16, 0, 4), "got 20, 16 and 0"),
        ((20, 16, 1, 16), "overlap must be 0 to 15 for windows of 16 frames, got 16"),
        ((20, 16, 1, -1), "got -1"),
    ],
)
def test_windows_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        context_windows(*arguments)


def test_windows_that_do_not_fit_the_clip_are_refused():
    with pytest.raises(ValueError, match=r"not covered \[1\], beyond \[\]"):
        coverage([[0, 2]], 3)
    with pytest.raises(ValueError, match=r"not covered \[\], beyond \[3\]"):
        coverage([[0, 1, 2, 3]], 3)


# ---- interpolation


def test_latents_between_two_equal_upstream():
    description, expected = case("aniportrait", "latent_interpolation")
    a, b = noise(4, 8, 8, seed=1), noise(4, 8, 8, seed=2)
    t_linear, t_slerp, t_parallel = description["t"]
    near = a * 1.01 + 1e-4 * b
    for output, name in (
        (linear(a, b, t_linear), "linear"),
        (slerp(a, b, t_slerp), "slerp"),
        (slerp(a, near, t_parallel), "slerp_parallel"),
    ):
        torch.testing.assert_close(output, expected[name], atol=1e-6, rtol=0)
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)


@pytest.mark.parametrize("index", range(len(case("aniportrait", "film_order")[0]["cases"])))
def test_pictures_between_two_are_made_in_upstreams_order(index):
    expected = case("aniportrait", "film_order")[0]["cases"][index]
    calls = []

    def between(before: torch.Tensor, after: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        calls.append([round(float(value.flatten()[0]), 4) for value in (before, after, time)])
        assert {before.dtype, after.dtype, time.dtype} == {torch.float16}
        return before.float() + (after.float() - before.float()) * time.float()

    video = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 3, 1, 1).expand(1, 3, 3, 2, 2)
    count = expected["inter_frames"]
    frames = list(interpolate_frames(video, between, count, dtype=torch.float16))
    first_pair = expected["calls_first_pair_x0_x1_dt"]
    assert len(calls) == expected["n_calls"]
    assert len(frames) == expected["out_frames"]
    torch.testing.assert_close(torch.tensor(calls[: len(first_pair)]), torch.tensor(first_pair), atol=1e-4, rtol=0)
    values = torch.stack([frame.mean() for frame in frames])
    torch.testing.assert_close(values, torch.tensor(expected["values"]), atol=1e-4, rtol=0)
    assert {(frame.dtype, frame.shape) for frame in frames} == {(torch.float32, (1, 3, 2, 2))}


@pytest.mark.parametrize("count", [*range(12), 23])
def test_every_picture_is_made_once_between_ones_that_exist(count):
    made = {0, count + 1}
    for insertion in insertion_order(count):
        assert insertion.before < insertion.place < insertion.after
        assert {insertion.before, insertion.after} <= made
        assert insertion.place not in made
        made.add(insertion.place)
        assert insertion.passed == pytest.approx((insertion.place - insertion.before) / (count + 1))
        assert insertion.span == pytest.approx((insertion.after - insertion.before) / (count + 1))
    assert made == set(range(count + 2))


def test_without_pictures_in_between_the_clip_stays():
    video = torch.rand(1, 3, 4, 2, 2)
    assert torch.equal(torch.stack(list(interpolate_frames(video, lambda *_: None, 0, dtype=torch.float32)), 2), video)


# ---- denoising


@cache
def network(component: str, variant: str) -> nn.Module:
    """Every case has the same tiny networks; they are left in eval mode with stored statistics."""
    config = dict(case("aniportrait", "pose2vid_short_64_nocfg")[0]["config"][component])
    config.pop("batchnorm", None)
    module = fill(build(component, variant, **config))
    if component == "pose_guider":
        module.faithful = False
    return module


@cache
def vae() -> AutoencoderKL:
    return fill(AutoencoderKL(**case("aniportrait", "pose2vid_short_64_nocfg")[0]["config"]["vae"])).eval()


def poses(frames: int, height: int = 64, width: int = 64) -> torch.Tensor:
    values = torch.randint(0, 256, (frames, height, width, 3), generator=torch.Generator().manual_seed(81))
    mask = torch.rand(frames, height, width, 1, generator=torch.Generator().manual_seed(82)) < 0.08
    return (values * mask).to(torch.uint8)


def portrait(expected: dict[str, torch.Tensor], dtype: torch.dtype) -> Portrait:
    token = expected["clip_embeds"][:, None]
    with torch.inference_mode():
        banks = network("reference_unet", "sd15")(expected["ref_latents"], 0, token)
    return Portrait(token, {name: bank.to(dtype) for name, bank in banks.items()})


# Upstream rounds the banks to fp16 even in fp32 runs; they are not rounded here unless the networks are fp16.
@pytest.mark.parametrize(
    ("name", "banks"), [*((name, torch.float16) for name in CLIPS), ("pose2vid_short_64_evalBN", torch.float32)]
)
def test_clips_equal_upstream(name, banks):
    description, expected = case("aniportrait", name)
    options = description["call"]
    assert description["config"]["pose_guider"]["batchnorm"] == "eval"
    frames = options["video_length"]
    windows = [range(frames)]
    if "long" in name:
        windows = context_windows(frames, options.get("context_frames", 16), overlap=options.get("context_overlap", 4))
    start = initial_noise(frames, options["height"], options["width"], torch.Generator().manual_seed(42))
    assert torch.equal(start, expected["initial_noise"])
    pose_of = PoseWindows(network("pose_guider", "320"), poses(frames), device=CPU, faithful=True)
    sampling = Sampling(windows, options["num_inference_steps"], options["guidance_scale"])
    progress = list(denoise(network("denoising_unet", "v2"), pose_of, portrait(expected, banks), start, sampling))
    assert len(progress) == len(windows) * options["num_inference_steps"]
    finished = [step for step in progress if step.latents is not None]
    assert [step.timestep for step in finished] == description["scheduler_timesteps"]
    for step in finished:
        torch.testing.assert_close(step.latents, expected[f"latents_after_step{step.step}"], atol=5e-4, rtol=1e-3)
    video = torch.stack(list(decode_frames(lambda z: vae().decode(z).sample, finished[-1].latents)), dim=1)
    if video[None].shape == expected["video"].shape:
        torch.testing.assert_close(video[None], expected["video"], atol=2e-4, rtol=0)
    else:
        count = expected["video"].numel()
        places = torch.linspace(0, video.numel() - 1, count, dtype=torch.float64).round().long()
        torch.testing.assert_close(video.flatten()[places], expected["video"], atol=2e-4, rtol=0)


class Linear:
    """A denoiser whose answer is known: each frame's own latents times a number, plus one per conditional row."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, bool, torch.Tensor]] = []

    def __call__(self, latents, timestep, encoder_hidden_states, pose_features, banks, guided):
        self.calls.append((int(timestep), guided, encoder_hidden_states))
        return 0.5 * latents + encoder_hidden_states.mean(dim=(1, 2))[:, None, None, None, None] + pose_features[0]


def known(windows, *, guidance: float, frames: int = 5) -> tuple[Linear, list[DenoiseStep]]:
    denoiser, blank = Linear(), Portrait(torch.full((1, 1, 3), 2.0), {})
    steps = denoise(denoiser, lambda window: (torch.zeros(1, 1, len(window), 1, 1),), blank,
                    noise(1, 4, frames, 2, 2, seed=9), Sampling(windows, 3, guidance))  # fmt: skip
    return denoiser, list(steps)


@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_frames_seen_by_several_windows_get_the_mean_with_and_without_guidance(guidance):
    """Upstream sums them when there is no guidance; and a frame twice in one window counts for one of its two."""
    _, once = known([range(5)], guidance=guidance)
    denoiser, often = known([[0, 1, 2], [2, 3, 4], [4, 0, 2, 2]], guidance=guidance)
    torch.testing.assert_close(often[-1].latents, once[-1].latents)
    assert [step.latents is None for step in often] == [True, True, False] * 3
    assert [(step.step, step.window) for step in often] == [(i, j) for i in range(3) for j in range(3)]
    assert {(step.steps, step.windows) for step in often} == {(3, 3)}
    assert {guided for _, guided, _ in denoiser.calls} == {guidance > 1}


def test_guidance_goes_past_the_conditional_prediction():
    denoiser, steps = known([range(5)], guidance=3.0)
    context = denoiser.calls[0][2]
    assert context[0].eq(0).all()
    assert context[1].eq(2).all()
    start, schedule = noise(1, 4, 5, 2, 2, seed=9), Schedule.of(3)
    torch.testing.assert_close(steps[0].latents, schedule.step(0.5 * start + 3.0 * 2.0, 999, start))


def test_the_noise_given_is_left_alone_and_closing_stops():
    start = noise(1, 4, 5, 2, 2, seed=9)
    before, denoiser = start.clone(), Linear()
    loop = denoise(denoiser, lambda window: (torch.zeros(1, 1, len(window), 1, 1),),
                   Portrait(torch.ones(1, 1, 3), {}), start, Sampling([range(5)], 10, 1.0))  # fmt: skip
    next(loop)
    loop.close()
    assert len(denoiser.calls) == 1
    assert torch.equal(start, before)
    assert not torch.is_inference_mode_enabled()


def test_pose_features_are_made_per_window_and_kept_if_wanted():
    seen = []

    def guider(pose: torch.Tensor) -> tuple[torch.Tensor]:
        seen.append(pose.shape[2])
        return (pose.mean(dim=(1, 3, 4)),)

    pictures = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 4, 4, 3)
    for keep, calls in ((True, [2, 3]), (False, [2, 3, 2])):
        seen.clear()
        pose_of = PoseWindows(guider, pictures, device=CPU, keep=keep)
        assert pose_of([5, 0])[0].tolist() == [[9.0, -1.0]]
        pose_of(range(3))
        assert pose_of([5, 0])[0].tolist() == [[9.0, -1.0]]
        assert seen == calls


def test_pose_pictures_are_fed_as_upstream_does_or_properly():
    pictures = torch.zeros(2, 3, 5, 3, dtype=torch.uint8)
    pictures[1, 2, 4] = torch.tensor([255, 0, 51], dtype=torch.uint8)
    faithful, clean = pose_input(pictures, faithful=True), pose_input(pictures, faithful=False)
    assert faithful.shape == (1, 3, 2, 3, 5)
    assert faithful.is_contiguous()
    assert faithful[0, :, 1, 2, 4].tolist() == [509.0, -1.0, 101.0]
    torch.testing.assert_close(clean[0, :, 1, 2, 4], torch.tensor([1.0, -1.0, -0.6]))
    assert faithful[0, :, 0].eq(-1).all()


def test_decoded_frames_are_scaled_and_clipped_one_by_one():
    shapes = []

    def decode(latents: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(latents.shape))
        return latents[:, :3].bfloat16()

    latents = torch.tensor([-1.0, 0.0, 0.5, 4.0]).view(1, 1, 4, 1, 1).expand(1, 4, 4, 2, 2) * 0.18215
    frames = torch.stack(list(decode_frames(decode, latents)))
    assert shapes == [(1, 4, 2, 2)] * 4
    assert frames.dtype == torch.float32
    torch.testing.assert_close(frames[:, 0, 0, 0], torch.tensor([0.0, 0.5, 0.75, 1.0]), atol=2e-3, rtol=0)
