"""InstantID by diffusers' own SDXL ControlNet pipelines, from text and from a picture: what our loop must reproduce.

The face tokens travel at the end of the prompt embeddings; ``ControlNets`` hands each net the face or the text.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl import StableDiffusionXLControlNetPipeline
from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl_img2img import StableDiffusionXLControlNetImg2ImgPipeline
from torch import Tensor

from adapters.instantid.denoise import Drawing
from adapters.instantid.networks import FACE_TOKENS, attention_masks, confine


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
        nets: Sequence[Any],
        sees_face: Sequence[bool],
        region: Tensor | None = None,
        num_tokens: int = FACE_TOKENS,
    ) -> None:
        super().__init__(list(nets))
        self.sees_face = tuple(sees_face)
        self.region = region
        self.num_tokens = num_tokens

    def forward(  # type: ignore[override]
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
        for net, picture, scale, sees_face in zip(
            self.nets, controlnet_cond, conditioning_scale, self.sees_face, strict=True
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


def draw(nets: dict[str, Any], scheduler: Any, drawing: Drawing, **settings: Any) -> Tensor:
    """Latents of a drawing; with ``image`` (latents) and ``strength`` from a picture."""
    controls = drawing.controls
    absent: Any = None
    picture = settings.pop("picture", None)
    kind = StableDiffusionXLControlNetPipeline if picture is None else StableDiffusionXLControlNetImg2ImgPipeline
    pipeline = kind(
        vae=absent if picture is None else nets["vae"],
        text_encoder=absent,
        text_encoder_2=absent,
        tokenizer=absent,
        tokenizer_2=absent,
        unet=nets["unet"],
        controlnet=ControlNets([nets[c.net] for c in controls], [c.sees_face for c in controls], drawing.region),
        scheduler=scheduler,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    pictures = [c.picture for c in controls]
    given = {"image": pictures} if picture is None else {"image": picture, "control_image": pictures}
    return pipeline(
        **_embeddings(drawing),
        **given,
        controlnet_conditioning_scale=[c.strength for c in controls],
        control_guidance_start=[c.start for c in controls],
        control_guidance_end=[c.end for c in controls],
        guidance_scale=drawing.guidance,
        guess_mode=drawing.guess_mode,
        cross_attention_kwargs={
            "face_scale": drawing.face_scale,
            "face_masks": None if drawing.region is None else attention_masks(drawing.region),
        },
        output_type="latent",
        return_dict=False,
        **settings,
    )[0]


def _embeddings(drawing: Drawing) -> dict[str, Tensor]:
    text, face = drawing.text, drawing.face

    def joined(words: Tensor, tokens: Tensor) -> Tensor:
        return torch.cat((words, tokens.to(words).expand(len(words), -1, -1)), dim=1)

    return {
        "prompt_embeds": joined(text.prompt, face.face),
        "negative_prompt_embeds": joined(text.negative, face.nobody),
        "pooled_prompt_embeds": text.pooled,
        "negative_pooled_prompt_embeds": text.negative_pooled,
    }
