"""Multi-view diffusion around the networks: schedules, conditions, the loop, and the six views of its picture.

The published models are "lite" (Zero123++ on Stable Diffusion 2.1) and "std" (on SDXL). Facts from
``mvd/*_pipeline.py`` and ``infer/image_to_views.py`` of Tencent/Hunyuan3D-1 (commit af913e6). Each function touches one
network at most, so that the others may sleep. All noise comes from the generator it is given, in upstream's order.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from torch import Generator, Tensor

from adapters.hunyuan3d.sampler import EulerAncestral, Prediction, Spacing, draw, schedule

EMPTY_PROMPT_TOKENS = (49406, 49407, *(0,) * 75)
"""What the tokenizer of "lite" makes of the empty prompt."""
LATENT_CHANNELS, LATENT_FACTOR = 4, 8
Guidance = Callable[[float, Tensor], Tensor | float]
"""``(timestep, latents) -> factor`` of classifier-free guidance."""
Encode = Callable[[Tensor], Tensor]
"""``pixels [B, 3, H, W] -> [B, 8, H / 8, W / 8]``: means and log variances of latents."""


@dataclass(frozen=True, kw_only=True)
class ViewModel:
    """What tells the two published view models apart.

    Attributes:
        width: of the picture that holds the views (two columns), in pixels; ``height`` likewise (three rows).
        order: for each azimuth 0°, 60° … 300°, the row-major tile that shows it.
        vae_edge: side of the condition picture for the VAE; ``vae_deviation`` its normalisation.
        condition_side: side of the condition picture handed on to reconstruction; None leaves it as it is.
        prediction: what the UNet predicts.
        spacing: how its timesteps are spread.
        latents_first: whether the initial latents are drawn before the samples of the VAE.
        guidance: the default one.
    """

    width: int
    height: int
    order: tuple[int, ...]
    vae_edge: int
    vae_deviation: float
    condition_side: int | None
    prediction: Prediction
    spacing: Spacing
    latents_first: bool
    guidance: Guidance


def zoned_guidance(timestep: float, latents: Tensor) -> Tensor:
    """Guidance of "lite": by view and by time, ``[1, 1, h, w]``.

    The zones are 40 × 40 cells whatever the size of the latents, as upstream has them; beyond the six the factor is 1.
    """
    zones = torch.ones_like(latents[:1, :1])
    for tile, strength in enumerate((3.0, 2.5, 2.0, 1.5, 2.0, 2.5)):
        top, left = tile // 2 * 40, tile % 2 * 40
        # The right-hand column has no right edge upstream.
        zones[:, :, top : top + 40, left : left + 40 if left == 0 else None] = strength
    return zones * ((2 + 16 * (timestep / 1000) ** 5) / 3)


def constant_guidance(strength: float) -> Guidance:
    """The same factor everywhere and at all times; "std" uses 2.0."""
    return lambda _timestep, _latents: strength


VIEW_MODELS: Mapping[str, ViewModel] = {
    "lite": ViewModel(
        width=640,
        height=960,
        order=(0, 1, 2, 3, 4, 5),
        vae_edge=640,
        vae_deviation=0.8,
        condition_side=None,
        prediction="v_prediction",
        spacing="linspace",
        latents_first=False,
        guidance=zoned_guidance,
    ),
    "std": ViewModel(
        width=1024,
        height=1536,
        order=(0, 2, 4, 5, 3, 1),
        vae_edge=512,
        vae_deviation=0.5,
        condition_side=512,
        prediction="epsilon",
        spacing="trailing",
        latents_first=True,
        guidance=constant_guidance(2.0),
    ),
}


@dataclass(frozen=True)
class Conditions:
    """What the loop is told of the input picture; batches are unconditional, conditional.

    Attributes:
        reference: ``[2, 4, h, w]`` latents of mid grey and of the picture, without the VAE's scaling factor.
        prompt: ``[2, 77, D]``.
        added: for "std", ``text_embeds [2, 1280]`` and ``time_ids [2, 6]``.
    """

    reference: Tensor
    prompt: Tensor
    added: Mapping[str, Tensor] | None = None


class Denoise(Protocol):
    """The UNet: ``sample`` and the noised ``reference``, both ``[2, 4, h, w]``, to a prediction for the sample."""

    def __call__(self, sample: Tensor, reference: Tensor, timestep: float, conditions: Conditions) -> Tensor: ...


def make_schedule(variant: str, steps: int) -> EulerAncestral:
    """The published schedule of ``variant`` over ``steps`` steps."""
    model = VIEW_MODELS[variant]
    return schedule(steps, model.prediction, model.spacing)


def start(
    variant: str,
    encode: Encode,
    pixels: Tensor,
    sampler: EulerAncestral,
    generator: Generator,
    size: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Reference latents and initial latents, drawn in the order of ``variant``.

    Args:
        variant: "lite" or "std".
        encode: the VAE's encoder; called on the picture and on mid grey.
        pixels: ``[1, 3, edge, edge]`` of the condition picture.
        sampler: gives the noise level to start from.
        generator: of all noise; on the CPU it gives the same picture on every device.
        size: height and width of the picture in pixels; the published one if None.

    Returns:
        Reference ``[2, 4, h, w]`` (mid grey, picture) and latents ``[1, 4, H / 8, W / 8]``, both fp32.
    """
    model = VIEW_MODELS[variant]
    height, width = size or (model.height, model.width)
    shape = (1, LATENT_CHANNELS, height // LATENT_FACTOR, width // LATENT_FACTOR)

    def latents() -> Tensor:
        return draw(shape, pixels.device, generator) * sampler.first_sigma

    def sampled(image: Tensor) -> Tensor:
        return DiagonalGaussianDistribution(encode(image).float()).sample(generator)

    first = latents() if model.latents_first else None
    picture = sampled(pixels)
    grey = sampled(torch.zeros_like(pixels))
    return torch.cat((grey, picture)), latents() if first is None else first


def lite_prompt(text: Tensor, image: Tensor, ramp: Sequence[float]) -> Tensor:
    """Prompt of "lite", ``[2, 77, D]``.

    Args:
        text: ``[1, 77, D]`` states of the empty prompt.
        image: ``[1, D]`` CLIP embedding of the condition picture.
        ramp: 77 coefficients, from ``model_index.json``.
    """
    return torch.cat((text, _ramped(text, image, ramp)))


def std_conditions(
    text: Tensor, pooled: Tensor, images: tuple[Tensor, Tensor], ramp: Sequence[float]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Prompt of "std", ``[2, 77, D]``, and its added conditions.

    Args:
        text: ``[1, 77, D]``, the published ``uc_text_emb``.
        pooled: ``[1, 1280]``, the published ``uc_text_emb_2``.
        images: ``[1, 768]`` and ``[1, 1280]``, embeddings of the two CLIP encoders.
        ramp: 77 coefficients, from ``model_index.json``.
    """
    conditional = _ramped(text, torch.cat(images, dim=-1), ramp)
    model = VIEW_MODELS["std"]
    size = [model.height, model.width]
    time_ids = pooled.new_tensor([[*size, 0, 0, *size]]).repeat(2, 1)
    added = {"text_embeds": torch.cat((torch.zeros_like(pooled), pooled)), "time_ids": time_ids}
    return torch.cat((torch.zeros_like(conditional), conditional)), added


def _ramped(text: Tensor, image: Tensor, ramp: Sequence[float]) -> Tensor:
    return text + image[:, None, :] * image.new_tensor(list(ramp))[:, None]


@dataclass(frozen=True)
class Course:
    """Everything about a denoising run that stays the same from step to step."""

    sampler: EulerAncestral
    conditions: Conditions
    guidance: Guidance


def predict(unet: Denoise, course: Course, index: int, latents: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Unconditional and conditional prediction of step ``index``, each ``[1, 4, H, W]`` in fp32.

    The reference is noised to the level of the latents, its self-attention tokens stored, and the latents attend to
    them.
    """
    sampler, conditions = course.sampler, course.conditions
    noise = draw(conditions.reference.shape, latents.device, generator)
    reference = sampler.scaled(sampler.noised(conditions.reference, noise, index), index)
    sample = sampler.scaled(torch.cat((latents, latents)), index)
    prediction = unet(sample, reference, sampler.timesteps[index], conditions)
    unconditional, conditional = prediction.to(latents).chunk(2)
    return unconditional, conditional


def denoise_step(unet: Denoise, course: Course, index: int, latents: Tensor, generator: Generator) -> Tensor:
    """Latents ``[1, 4, H, W]`` after step ``index``."""
    unconditional, conditional = predict(unet, course, index, latents, generator)
    factor = course.guidance(course.sampler.timesteps[index], latents)
    guided = unconditional + factor * (conditional - unconditional)
    return course.sampler.step(guided, latents, index, generator)


def denoise(unet: Denoise, course: Course, latents: Tensor, generator: Generator) -> Iterator[Tensor]:
    """Latents ``[1, 4, H, W]`` after each step; the last are the result."""
    for index in range(len(course.sampler.timesteps)):
        latents = denoise_step(unet, course, index, latents, generator)
        yield latents


def unscale(latents: Tensor) -> Tensor:
    """From the range the models were trained in to the VAE's."""
    return latents / 0.75 + 0.22


def to_range(decoded: Tensor) -> Tensor:
    """What the VAE decodes, ``[1, 3, H, W]``, as a picture of 0 .. 1 in fp32.

    The models were trained on pictures of five eighths of the VAE's range.
    """
    return (decoded.float() * 1.6 / 2 + 0.5).clamp(0, 1)


def to_picture(decoded: Tensor) -> Image.Image:
    """RGB of ``decoded [1, 3, H, W]`` in 0 .. 1, to the nearest level."""
    levels = (decoded[0].permute(1, 2, 0) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.cpu().numpy())


def split_views(variant: str, picture: Image.Image) -> list[Image.Image]:
    """The six views of the picture, azimuth 0° to 300°."""
    pixels = np.asarray(picture)
    tiles = [tile for row in np.split(pixels, 3, axis=0) for tile in np.split(row, 2, axis=1)]
    return [Image.fromarray(tiles[index]) for index in VIEW_MODELS[variant].order]


def handed_on(variant: str, condition: Image.Image) -> Image.Image:
    """The condition picture as reconstruction gets it, the seventh view."""
    side = VIEW_MODELS[variant].condition_side
    return condition if side is None else condition.resize((side, side))
