"""From noise to a clip: one loop for short clips (a single window) and long ones (windows that overlap).

Implements the loops of ``src/pipelines/pipeline_pose2vid.py`` and ``pipeline_pose2vid_long.py`` of
Zejun-Yang/AniPortrait (commit 7f6593f). Latents, predictions and their sums are fp32 whatever the networks compute in.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from adapters.aniportrait.schedule import Schedule
from adapters.aniportrait.windows import coverage

LATENT_SCALE = 0.18215
LATENT_CHANNELS = 4
PIXELS_PER_LATENT = 8

Banks = Mapping[str, Tensor]
PoseFeatures = Sequence[Tensor]
PoseOf = Callable[[Sequence[int]], PoseFeatures]
"""Pose features of a window, given the numbers of its frames."""


class Denoiser(Protocol):
    """The denoising UNet's call."""

    def __call__(
        self,
        latents: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        pose_features: PoseFeatures | None,
        banks: Banks | None,
        guided: bool,
    ) -> Tensor: ...


@dataclass(frozen=True)
class Portrait:
    """What the reference picture contributes.

    Attributes:
        token: its CLIP image embedding, ``[1, 1, 768]``.
        banks: its self-attention tokens, ``[1, N_i, C_i]`` by attention block.
    """

    token: Tensor
    banks: Banks


@dataclass(frozen=True)
class Sampling:
    """How a clip is denoised.

    Attributes:
        windows: frame numbers; ``[range(F)]`` is upstream's short pipeline, ``context_windows(F)`` its long one.
        steps: of the schedule, 1 to 1000.
        guidance: above 1, how far to go from the unconditional prediction past the conditional one.
    """

    windows: Sequence[Sequence[int]]
    steps: int = 25
    guidance: float = 3.5


@dataclass(frozen=True)
class DenoiseStep:
    """Progress of the loop: one window of one step is done.

    Attributes:
        step: from 0.
        steps: how many in all.
        window: from 0.
        windows: how many in each step.
        timestep: 999 down.
        latents: the clip after this step, ``[1, 4, F, h, w]`` fp32; None while windows of the step remain.
        clean: what the clip looks like to become, shaped as ``latents``; None as that.
    """

    step: int
    steps: int
    window: int
    windows: int
    timestep: int
    latents: Tensor | None
    clean: Tensor | None = None

    @property
    def done(self) -> int:
        """Windows done in all steps so far."""
        return self.step * self.windows + self.window + 1


@dataclass(frozen=True, eq=False)
class Ask:
    """A prediction that is wanted: of one window in one step.

    Attributes:
        step: from 0.
        window: its number in the step, from 0.
        frames: frame numbers of the window.
        timestep: 999 down.
        latents: of the window, ``[1, 4, len(frames), h, w]`` fp32.
    """

    step: int
    window: int
    frames: tuple[int, ...]
    timestep: int
    latents: Tensor


def initial_noise(frames: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Pure noise, drawn where the generator lives; a seed means the same clip everywhere if that is the CPU.

    Args:
        frames: length of the clip.
        height: of the pictures in pixels, a multiple of 8.
        width: as ``height``.
        generator: seeded by the caller.

    Returns:
        ``[1, 4, frames, height / 8, width / 8]`` fp32.

    Raises:
        ValueError: a side that 8 does not divide.
    """
    if height % PIXELS_PER_LATENT or width % PIXELS_PER_LATENT:
        raise ValueError(f"height and width must be multiples of {PIXELS_PER_LATENT}, got {height} x {width}")
    shape = (1, LATENT_CHANNELS, frames, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT)
    return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32)


def pose_input(pictures: Tensor, *, faithful: bool) -> Tensor:
    """Pose pictures as the pose guider takes them.

    Args:
        pictures: ``[F, H, W, 3]`` uint8, BGR as drawn.
        faithful: 2*v-1, as upstream's inference does, which forgets to divide by 255; else 2*v/255-1.

    Returns:
        ``[1, 3, F, H, W]`` fp32, -1..509 or -1..1.
    """
    values = pictures.permute(3, 0, 1, 2)[None].float().contiguous()
    return 2 * (values if faithful else values / 255) - 1


class PoseWindows:
    """Pose features of windows, computed when asked for.

    The guider's batch statistics make a frame's features depend on the window it is in, so that they cannot be computed
    once for the clip and cut. They do not depend on the step.

    Args:
        guider: the pose guider, ``[1, 3, F, H, W]`` to feature maps; its ``faithful`` must agree.
        pictures: ``[F, H, W, 3]`` uint8 of the whole clip.
        device: where the guider computes.
        faithful: see ``pose_input``.
        keep: hold each window's features for the following steps: in fp32 some 8 MB a frame at 512 x 512.
    """

    def __init__(
        self,
        guider: Callable[[Tensor], PoseFeatures],
        pictures: Tensor,
        *,
        device: torch.device,
        faithful: bool = True,
        keep: bool = True,
    ) -> None:
        self._guider, self._pictures, self._device = guider, pictures, device
        self._faithful, self._keep = faithful, keep
        self._kept: dict[tuple[int, ...], PoseFeatures] = {}

    def __call__(self, window: Sequence[int]) -> PoseFeatures:
        """Feature maps ``[1, C, len(window), h, w]``."""
        key = tuple(window)
        if key in self._kept:
            return self._kept[key]
        pictures = self._pictures[list(window)].to(self._device)
        features = self._guider(pose_input(pictures, faithful=self._faithful))
        if self._keep:
            self._kept[key] = features
        return features


@torch.inference_mode()
def denoise(
    unet: Denoiser, pose_of: PoseOf, portrait: Portrait, noise: Tensor, sampling: Sampling
) -> Iterator[DenoiseStep]:
    """Denoise a clip, one window at a time; stop between two of them by closing the generator.

    Args:
        unet: the denoising UNet.
        pose_of: pose features of a window, such as ``PoseWindows``.
        portrait: of the reference picture.
        noise: ``[1, 4, F, h, w]``, on the device of the networks.
        sampling: windows, steps and guidance.

    Yields:
        Progress after each window. The last one holds the clean latents.

    Raises:
        ValueError: windows that do not cover the clip, or steps out of range.
    """
    predict, rounds = Predictor(unet, portrait, sampling.guidance), denoising(noise, sampling)
    item = next(rounds, None)
    while item is not None:
        if isinstance(item, DenoiseStep):
            yield item
            item = next(rounds, None)
        else:
            item = rounds.send(predict(item.latents, item.timestep, pose_of(item.frames)))


def denoising(
    noise: Tensor, sampling: Sampling, *, first: int = 0
) -> Generator[Ask | DenoiseStep, Tensor | None, Tensor]:
    """The loop itself, which computes no network: it asks for predictions and is sent them.

    Args:
        noise: ``[1, 4, F, h, w]``: pure noise, or latents after ``first`` steps.
        sampling: windows, steps and guidance.
        first: steps that are done already.

    Yields:
        ``Ask``, to be answered with a prediction ``[1, 4, f, h, w]``, and after each ``DenoiseStep``.

    Returns:
        The clean latents.

    Raises:
        ValueError: as ``denoise``.
    """
    schedule, windows, frames = Schedule.of(sampling.steps), sampling.windows, noise.shape[2]
    shares = 1 / torch.tensor(coverage(windows, frames), dtype=torch.float32, device=noise.device)
    places = [torch.tensor(list(window), device=noise.device) for window in windows]
    latents = noise.float()
    for step, timestep in list(enumerate(schedule.timesteps))[first:]:
        total = torch.zeros_like(latents)
        for index, window in enumerate(windows):
            prediction = yield Ask(step, index, tuple(window), timestep, latents[:, :, places[index]])
            assert prediction is not None, "an ask is answered"
            total.index_add_(2, places[index], prediction.to(total))
            if index < len(windows) - 1:
                yield DenoiseStep(step, sampling.steps, index, len(windows), timestep, None)
        velocity = total * shares[:, None, None]
        clean, latents = schedule.clean(velocity, timestep, latents), schedule.step(velocity, timestep, latents)
        yield DenoiseStep(step, sampling.steps, len(windows) - 1, len(windows), timestep, latents, clean)
    return latents


class Predictor:
    """The guided prediction for a window: unconditional and conditional in one call of the network."""

    def __init__(self, unet: Denoiser, portrait: Portrait, guidance: float) -> None:
        self.unet, self.banks, self.guidance = unet, portrait.banks, guidance
        self.guided = guidance > 1
        token = portrait.token
        self.context = torch.cat((torch.zeros_like(token), token)) if self.guided else token

    def __call__(self, latents: Tensor, timestep: int, pose: PoseFeatures) -> Tensor:
        """``[1, 4, F, h, w]`` to the same in fp32."""
        time = torch.tensor(timestep, device=latents.device)
        batch = torch.cat((latents, latents)) if self.guided else latents
        prediction = self.unet(batch, time, self.context, pose, self.banks, self.guided).float()
        if not self.guided:
            return prediction
        unconditional, conditional = prediction.chunk(2)
        return unconditional + self.guidance * (conditional - unconditional)


@torch.inference_mode()
def decode_frames(decode: Callable[[Tensor], Tensor], latents: Tensor) -> Iterator[Tensor]:
    """Pictures of a clip, one at a time so that the VAE needs room for one only.

    Args:
        decode: the VAE's decoder, ``[1, 4, h, w]`` to ``[1, 3, 8h, 8w]`` in -1..1.
        latents: ``[1, 4, F, h, w]``, clean.

    Yields:
        ``[3, 8h, 8w]`` fp32 in 0..1.
    """
    for frame in latents.unbind(2):
        yield (decode(frame / LATENT_SCALE).float() / 2 + 0.5).clamp(0, 1)[0]
