"""Drawing a person by face: InstantID's denoising on diffusers' own ControlNet pipeline for SDXL.

The face tokens travel at the end of the prompt embeddings. Guidance, guess mode and several pictures by prompt then
split and repeat them together with the text, and nothing about a face is kept in a network between calls: the region
and the strengths are arguments, and ``ControlNets`` is made anew for every request.

Source: InstantID/InstantID @ 2145b67 (both the plain and the "full" pipeline).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl import StableDiffusionXLControlNetPipeline
from torch import Tensor, nn

from adapters.instantid.networks import DEFAULT_FACE_SCALE, FACE_TOKENS, attention_masks, confine
from adapters.instantid.prompts import TextEmbeds
from loader.errors import InputError

SIZE_MULTIPLE = 8  # pixels of a latent's side


class FaceTokens(NamedTuple):
    """What the denoiser and IdentityNet read of a face.

    Attributes:
        face: ``[1, 16, D]``.
        nobody: ``[1, 16, D]``, for the unconditional half of guidance.
    """

    face: Tensor
    nobody: Tensor


@torch.no_grad()
def project_face(projection: nn.Module, embeddings: Tensor) -> FaceTokens:
    """Project recognition embeddings, where the projection is and in its dtype.

    Args:
        projection: the "face_projection" network.
        embeddings: ``[512]``, or ``[N, 512]`` of several photographs of one person; not normalised.
    """
    weight = next(projection.parameters())
    embeddings = embeddings.reshape(1, -1, embeddings.shape[-1]).to(weight)
    # "Nobody" is the projection of zeros, which is not zero.
    nobody, face = projection(torch.cat((torch.zeros_like(embeddings), embeddings))).chunk(2)
    return FaceTokens(face, nobody)


@dataclass(frozen=True)
class Control:
    """A ControlNet, its picture, and how much and how long it counts.

    Attributes:
        net: IdentityNet, or any ControlNet for SDXL.
        picture: ``[1, 3, H, W]``, RGB 0 to 1.
        sees_face: it attends to the face tokens (IdentityNet) instead of the text.
        strength: factor on its residuals.
        start, end: share of the steps it acts in.
    """

    net: ControlNetModel
    picture: Tensor
    sees_face: bool = False
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True)
class Request:
    """One drawing.

    Attributes:
        text: prompt and what to avoid.
        face: face tokens.
        controls: IdentityNet first, then others; at least one; pictures of one size.
        steps: denoising steps.
        guidance: classifier-free guidance; at most 1 is none and halves the work.
        face_scale: strength of the face in the denoiser's attention.
        region: ``[H, W]`` of 0 to 1 in pixels of the picture; IdentityNet and the face tokens act in it alone.
        guess_mode: ControlNets see the conditional half alone.
        pictures: pictures by prompt.
        generator: randomness of the first latents and of the scheduler.
        latents: first latents ``[pictures, 4, H / 8, W / 8]``, unit normal.
    """

    text: TextEmbeds
    face: FaceTokens
    controls: tuple[Control, ...]
    steps: int = 50
    guidance: float = 5.0
    face_scale: float = DEFAULT_FACE_SCALE
    region: Tensor | None = None
    guess_mode: bool = False
    pictures: int = 1
    generator: torch.Generator | None = None
    latents: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.controls:
            raise InputError("a drawing needs at least one ControlNet: IdentityNet with the keypoints")
        sizes = {tuple(control.picture.shape[-2:]) for control in self.controls}
        if self.region is not None:
            sizes.add(tuple(self.region.shape[-2:]))
        if len(sizes) > 1:
            raise InputError(f"control pictures and region must be of one size, got {sorted(sizes)} (height, width)")
        if any(side % SIZE_MULTIPLE for side in sizes.pop()):
            raise InputError(f"the sides of the control picture must be multiples of {SIZE_MULTIPLE} pixels")


class ControlNets(MultiControlNetModel):
    """ControlNets of one request: each gets the face or the text, IdentityNet within the region, residuals summed.

    Args:
        nets: shared with other requests; nothing is written to them.
        sees_face: for each net, whether it gets the face tokens instead of the text.
        region: ``[H, W]``, 0 to 1, for the nets that see the face.
        num_tokens: face tokens at the end of the context.
    """

    def __init__(
        self,
        nets: Sequence[ControlNetModel],
        sees_face: Sequence[bool],
        region: Tensor | None = None,
        num_tokens: int = FACE_TOKENS,
    ) -> None:
        super().__init__(list(nets))
        self.sees_face = tuple(sees_face)
        self.region = region
        self.num_tokens = num_tokens

    def forward(  # type: ignore[override]  # noqa: PLR0913 - what diffusers' pipeline calls, nothing more
        self,
        sample: Tensor,
        timestep: Tensor | float,
        *,
        encoder_hidden_states: Tensor,
        controlnet_cond: Sequence[Tensor],
        conditioning_scale: Sequence[float],
        added_cond_kwargs: dict[str, Tensor],
        guess_mode: bool = False,
        return_dict: bool = False,
    ) -> tuple[list[Tensor], Tensor]:
        """Residuals of all levels and of the middle, in the sample's dtype whatever that of a net.

        Arguments are those of ``ControlNetModel``, with a picture and a scale for each net.
        """
        if return_dict:
            raise ValueError("these ControlNets give a tuple; pass return_dict=False")
        text, face = encoder_hidden_states.tensor_split((-self.num_tokens,), dim=1)
        total: list[Tensor] = []
        nets = cast("Iterable[ControlNetModel]", self.nets)
        for net, picture, scale, sees_face in zip(
            nets, controlnet_cond, conditioning_scale, self.sees_face, strict=True
        ):
            down, middle = net(
                sample.to(net.dtype),
                timestep,
                encoder_hidden_states=(face if sees_face else text).to(net.dtype),
                controlnet_cond=picture.to(net.dtype),
                conditioning_scale=scale,
                added_cond_kwargs=added_cond_kwargs,
                guess_mode=guess_mode,
                return_dict=False,
            )
            residuals = [residual.to(sample.dtype) for residual in (*down, middle)]
            if sees_face and self.region is not None:
                residuals = [confine(residual, self.region) for residual in residuals]
            total = [a + b for a, b in zip(total, residuals, strict=True)] if total else residuals
        return total[:-1], total[-1]


def draw(
    unet: UNet2DConditionModel,
    scheduler: Any,
    request: Request,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Denoise.

    Args:
        unet: the "unet" network with its face branches.
        scheduler: a diffusers scheduler of this request; schedulers count their steps, so they cannot be shared.
        request: what to draw.
        on_step: called after each step with its number from 0 and the latents; may raise to stop.

    Returns:
        Latents ``[N, 4, H / 8, W / 8]``, for ``decode``.
    """
    controls = request.controls
    pipeline = _pipeline(unet, scheduler, request)

    def step_end(_: object, step: int, __: object, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if on_step is not None:
            on_step(step, tensors["latents"])
        return {}

    return pipeline(
        **_embeddings(request),
        image=[c.picture for c in controls],
        controlnet_conditioning_scale=[c.strength for c in controls],
        control_guidance_start=[c.start for c in controls],
        control_guidance_end=[c.end for c in controls],
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        guess_mode=request.guess_mode,
        num_images_per_prompt=request.pictures,
        generator=request.generator,
        latents=None if request.latents is None else request.latents.to(unet.dtype),
        cross_attention_kwargs=_face_settings(request, unet),
        callback_on_step_end=step_end,
        output_type="latent",
        return_dict=False,
    )[0]


def _pipeline(unet: UNet2DConditionModel, scheduler: Any, request: Request) -> StableDiffusionXLControlNetPipeline:
    """The library's loop around this request's networks; making one costs nothing, it holds references."""
    controls = request.controls
    absent: Any = None  # other stages do their work; the class declares them as required
    pipeline = StableDiffusionXLControlNetPipeline(
        vae=absent,
        text_encoder=absent,
        text_encoder_2=absent,
        tokenizer=absent,
        tokenizer_2=absent,
        unet=unet,
        controlnet=ControlNets([c.net for c in controls], [c.sees_face for c in controls], request.region),
        scheduler=scheduler,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Latents ``[N, 4, h, w]`` to RGB pictures ``[N, 3, 8 h, 8 w]`` of 0 to 1, in the decoder's dtype.

    A published SDXL decoder overflows fp16; it runs in fp32 or bf16 beside a denoiser of any dtype.
    """
    pictures = vae.decode((latents / vae.config["scaling_factor"]).to(vae.dtype), return_dict=False)[0]
    return (pictures / 2 + 0.5).clamp(0, 1)


def _embeddings(request: Request) -> dict[str, Tensor]:
    """Text with the face behind it, for every prompt of the batch."""
    text, face = request.text, request.face

    def joined(words: Tensor, tokens: Tensor) -> Tensor:
        return torch.cat((words, tokens.to(words).expand(len(words), -1, -1)), dim=1)

    return {
        "prompt_embeds": joined(text.prompt, face.face),
        "negative_prompt_embeds": joined(text.negative, face.nobody),
        "pooled_prompt_embeds": text.pooled,
        "negative_pooled_prompt_embeds": text.negative_pooled,
    }


def _face_settings(request: Request, unet: UNet2DConditionModel) -> dict[str, Any]:
    levels = len(unet.config["block_out_channels"])
    # Moved once here, not in each of 70 layers at every step.
    masks = None if request.region is None else attention_masks(request.region.to(unet.device, unet.dtype), levels)
    return {"face_scale": request.face_scale, "face_masks": masks}
