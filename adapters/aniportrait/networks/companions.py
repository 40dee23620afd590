"""The two networks around the UNets that diffusers and transformers have: the picture's encoder and the latents' codec.

Settings of ``lambdalabs/sd-image-variations-diffusers`` (CLIP ViT-L/14 with its projection) and of
``stabilityai/sd-vae-ft-mse``.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from adapters.aniportrait.networks.config import check_settings, tuples

VISION: Mapping[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
CODEC: Mapping[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
# Files of older libraries hold the vision transformer's place numbers, and the codec's attention under other names.
POSITIONS = "vision_model.embeddings.position_ids"
_OLDER_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def build_image_encoder(overrides: Mapping[str, Any]) -> CLIPVisionModelWithProjection:
    """The published encoder with some settings changed.

    Raises:
        ValueError: a setting that does not exist.
    """
    check_settings(overrides, known=tuple(VISION), fixed={}, what="image_encoder")
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**{**VISION, **overrides}))


def build_vae(overrides: Mapping[str, Any]) -> AutoencoderKL:
    """The published codec with some settings changed.

    Raises:
        ValueError: a setting that does not exist.
    """
    known = tuple(name for name in inspect.signature(AutoencoderKL.__init__).parameters if name != "self")
    check_settings(overrides, known=known, fixed={}, what="vae")
    return AutoencoderKL(**{**CODEC, **tuples(overrides)})


def current_name(name: str) -> str:
    """The name a codec's tensor has today."""
    head, _, tail = name.rpartition(".")
    group, _, layer = head.rpartition(".")
    if ".attentions." in f".{group}" and layer in _OLDER_ATTENTION:
        return f"{group}.{_OLDER_ATTENTION[layer]}.{tail}"
    return name


def fill_positions(module: nn.Module) -> None:
    """Count the places of a transformer that was made on ``meta``: files have not held that buffer for long."""
    for name, buffer in list(module.named_buffers()):
        if name.endswith("position_ids") and buffer.is_meta:
            owner = module.get_submodule(name.rpartition(".")[0])
            numbers = torch.arange(buffer.shape[-1], device=next(module.parameters()).device)
            owner.register_buffer("position_ids", numbers.expand(buffer.shape).clone(), persistent=False)


def current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A codec's tensors under today's names; what older files hold as 1 x 1 convolutions as matrices."""
    named = {current_name(name): tensor for name, tensor in state.items()}
    return {
        name: tensor.squeeze(-1).squeeze(-1) if ".attentions." in name and tensor.ndim == 4 else tensor
        for name, tensor in named.items()
    }
