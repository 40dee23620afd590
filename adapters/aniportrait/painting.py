"""The stages after the pose: what the portrait contributes, the denoising loop, and frames from latents."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from adapters.aniportrait.denoise import (
    LATENT_SCALE,
    Ask,
    DenoiseStep,
    Portrait,
    PoseFeatures,
    Predictor,
    Sampling,
    denoising,
    initial_noise,
    pose_input,
)
from adapters.aniportrait.interpolation import insertion_order
from adapters.aniportrait.posing import PoseTrack, Size, Stage
from adapters.aniportrait.requests import AnimateRequest, Rgb, Unfinished
from adapters.aniportrait.windows import context_windows
from loader.errors import InputError
from loader.outcome import Kept, Step, Unit
from loader.pipeline import Parts

Floats = NDArray[np.float32]
CLIP_SIDE = 224
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
KEPT_WINDOWS = 2  # pose features of longer clips are made again in each step: 130 MB a window at 512 x 512
# Red, green and blue that latents of Stable Diffusion 1 stand for, fitted by the community; enough to see a face.
LATENT_COLOURS = (
    (0.298, 0.207, 0.208),
    (0.187, 0.286, 0.173),
    (-0.158, 0.189, 0.264),
    (-0.184, -0.271, -0.473),
)
PREVIEW_SIDE = 256
COARSEST = 64  # pixels a value of the coarsest pose features stands for


# --- the portrait -----------------------------------------------------------------------------------------------


def encode_portrait(parts: Parts, portrait: Rgb) -> Stage:
    """What the portrait contributes (``denoise.Portrait``), from its pixels at the clip's size."""
    latents = yield Unit("the portrait's latents", "vae", partial(_latents_of, parts, vae_input(portrait)))
    token = yield Unit("the portrait's meaning", "image_encoder", partial(_token_of, parts, clip_input(portrait)))
    banks = yield Unit("the portrait's features", "reference_unet", partial(_banks_of, parts, latents, token))
    yield Step("encoding_portrait", 1, 1)
    return Portrait(token, banks)


def vae_input(rgb: Rgb) -> Tensor:
    """``[H, W, 3]`` bytes as ``[1, 3, H, W]`` in -1..1."""
    return torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1)[None].contiguous() / 127.5 - 1


def clip_input(rgb: Rgb) -> Tensor:
    """``[H, W, 3]`` bytes as ``[1, 3, 224, 224]``, squeezed to a square as upstream does, in CLIP's normalisation."""
    small = Image.fromarray(rgb).resize((CLIP_SIDE, CLIP_SIDE), Image.Resampling.BICUBIC)
    values = (np.asarray(small, np.float32) / 255 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    return torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)[None].contiguous()


def _latents_of(parts: Parts, pixels: Tensor, _: object) -> Tensor:
    return _host(parts.call("vae.encode", pixels).latent_dist.mean) * LATENT_SCALE


def _token_of(parts: Parts, pixels: Tensor, _: object) -> Tensor:
    return _host(parts.call("image_encoder", pixels).image_embeds)[:, None]


def _banks_of(parts: Parts, latents: Tensor, token: Tensor, _: object) -> Mapping[str, Tensor]:
    banks: Mapping[str, Tensor] = parts.call("reference_unet", latents, torch.zeros((), dtype=torch.long), token)
    return banks


def _host(tensor: Tensor) -> Tensor:
    """fp32 on the CPU."""
    return tensor.float().cpu()


# --- the clip ---------------------------------------------------------------------------------------------------


def paint(parts: Parts, request: AnimateRequest, portrait: Portrait, track: PoseTrack, size: Size) -> Stage:
    """Denoise a clip, one window of one step a unit; returns its latents ``[1, 4, F, h, w]``.

    After each step latents and step are kept, so that a stopped clip can go on or be taken as it is.

    Raises:
        InputError: the clip to go on with is another one.
    """
    steps = request.trial.steps if request.trial and request.trial.steps else parts.plan.steps
    noise, first = _start(request, len(track), size, steps, parts.seeded(request.seed))
    windows = context_windows(len(track))
    _check_statistics(request, len(windows[0]), size)
    rounds = denoising(noise, Sampling(windows, steps, request.guidance), first=first)
    kept: dict[tuple[int, ...], Sequence[Tensor]] = {}
    latents, item = noise, next(rounds, None)
    while item is not None:
        if isinstance(item, DenoiseStep):
            if item.latents is not None and item.clean is not None:
                latents = item.latents
                yield Kept("denoising", Unfinished(latents, item.clean, item.step + 1, steps))
            yield _told(item)
            item = next(rounds, None)
            continue
        features = kept.get(item.frames)
        if features is None:
            name = f"poses of window {item.window + 1} of {len(windows)}"
            draw = partial(_features_of, parts, track, item.frames, size, request.faithful)
            features = yield Unit(name, "pose_guider", draw)
            if len(windows) <= KEPT_WINDOWS:
                kept[item.frames] = features
        name = f"step {item.step + 1} of {steps}, window {item.window + 1} of {len(windows)}"
        predict = partial(_predict, parts, portrait, request.guidance, features, item)
        item = rounds.send((yield Unit(name, "denoising_unet", predict)))
    return latents


def _check_statistics(request: AnimateRequest, frames: int, size: Size) -> None:
    """Leave if a window is too small for pose features from its own statistics."""
    coarsest = frames * math.prod(math.ceil(side / COARSEST) for side in size)
    if request.faithful and coarsest < 2:
        raise InputError(
            f"{frames} frame of {size[1]}×{size[0]} pixels is too little for pose features as published: choose a side "
            f"above {COARSEST} pixels, more frames, or pose features independent of neighbouring frames "
            "(pose_guider=clean)"
        )


def _start(
    request: AnimateRequest, frames: int, size: Size, steps: int, generator: torch.Generator
) -> tuple[Tensor, int]:
    """Latents to begin with and how many steps they are past."""
    if request.resume is None:
        return initial_noise(frames, *size, generator), 0
    held = request.resume
    check_resumable(held, frames, size, steps)
    return held.latents, held.step


def check_resumable(held: Unfinished, frames: int, size: Size, steps: int) -> None:
    """Leave if a stopped clip is not the one that is asked for.

    Raises:
        InputError: it has other frames, another size or other steps.
    """
    height, width = (8 * side for side in held.latents.shape[-2:])
    if (held.frames, height, width, held.steps) != (frames, *size, steps):
        raise InputError(
            f"the stopped clip has {held.frames} frames of {width}×{height} in {held.steps} steps, now {frames} of "
            f"{size[1]}×{size[0]} in {steps} are asked for: take the settings it was begun with, or begin anew"
        )


def _features_of(
    parts: Parts, track: PoseTrack, frames: tuple[int, ...], size: Size, faithful: bool, _: object
) -> list[Tensor]:
    pictures = torch.from_numpy(track.pictures(frames, size))
    return list(parts.call("pose_guider", pose_input(pictures, faithful=faithful)))


def _predict(parts: Parts, portrait: Portrait, guidance: float, features: PoseFeatures, ask: Ask, _: object) -> Tensor:
    predict = Predictor(partial(parts.call, "denoising_unet"), portrait, guidance)
    return predict(ask.latents, ask.timestep, features).cpu()


def _told(item: DenoiseStep) -> Step:
    detail = {"step": item.step + 1, "steps": item.steps, "window": item.window + 1, "windows": item.windows}
    preview = None if item.clean is None else glimpse(item.clean[0, :, item.clean.shape[2] // 2])
    return Step("denoising_clip", item.done, item.steps * item.windows, preview=preview, detail=detail)


def glimpse(latents: Tensor) -> Rgb:
    """Latents ``[4, h, w]`` of a frame as a rough picture ``[H, W, 3]``, without the decoder."""
    colours = torch.einsum("chw,cr->hwr", latents.float(), torch.tensor(LATENT_COLOURS))
    values = ((colours / 2 + 0.5).clamp(0, 1) * 255).to(torch.uint8).numpy()
    enlarge = max(1, PREVIEW_SIDE // max(values.shape[:2]))
    size = (values.shape[1] * enlarge, values.shape[0] * enlarge)
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BICUBIC))


# --- frames -----------------------------------------------------------------------------------------------------


def decode_frame(parts: Parts, latents: Tensor, _: object) -> Floats:
    """Latents ``[4, h, w]`` of a frame to ``[H, W, 3]`` 0..1."""
    decoded = _host(parts.call("vae.decode", latents[None] / LATENT_SCALE).sample)
    return np.asarray((decoded[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy())


def between(parts: Parts, first: Floats, second: Floats, count: int, _: object) -> list[Floats]:
    """``count`` frames between two, in their order in time, by the interpolation network."""
    made: dict[int, Tensor] = {0: _frame(first), count + 1: _frame(second)}
    for insertion in insertion_order(count):
        time = torch.full((1, 1), insertion.passed / insertion.span)
        picture = parts.call("interpolator", made[insertion.before], made[insertion.after], time)
        made[insertion.place] = _host(picture).clamp(0, 1)
    return [np.asarray(made[place][0].permute(1, 2, 0).numpy()) for place in range(1, count + 1)]


def _frame(pixels: Floats) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()


def to_bytes(pixels: NDArray[Any]) -> Rgb:
    """0..1 as bytes, cut off rather than rounded, as upstream does."""
    return np.asarray((pixels * 255).astype(np.uint8))
