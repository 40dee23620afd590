"""InstantID's networks at tiny widths with seeded weights: the same classes and the same path, nothing learned.

For a dry run without downloads. What comes out is texture, not a person.
"""

import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from adapters.instantid.networks import build

_DENOISER: Mapping[str, Any] = MappingProxyType(
    {
        "block_out_channels": (32, 64, 64),
        "transformer_layers_per_block": (1, 1, 1),
        "attention_head_dim": (2, 4, 4),
        "cross_attention_dim": 64,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 80,  # 6 sizes of 8, and the pooled text of 32
    }
)
_CONTROL: Mapping[str, Any] = MappingProxyType({**_DENOISER, "conditioning_embedding_out_channels": (8, 16, 16, 32)})
_TEXT: Mapping[str, Any] = MappingProxyType(
    {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 32,
        # The tokenizer's; the marks of begin and end are its last two.
        "vocab_size": 49408,
    }
)
CONFIGS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "face_projection": ("face_projection", {"dim": 64, "depth": 2, "dim_head": 16, "heads": 4, "output_dim": 64}),
        "text_encoder": ("text_encoder", _TEXT),
        "text_encoder_2": ("text_encoder_2", _TEXT),
        "identity_net": ("identity_net", _CONTROL),
        "canny_net": ("identity_net", _CONTROL),
        "depth_net": ("identity_net", _CONTROL),
        "pose_net": ("identity_net", _CONTROL),
        "unet": ("unet", {**_DENOISER, "sample_size": 32}),
        "vae": (
            "vae",
            {"block_out_channels": (16, 16, 32, 32), "layers_per_block": 1, "norm_num_groups": 8, "sample_size": 128},
        ),
    }
)


def miniature(component: str) -> nn.Module:
    """A tiny network with weights that are the same everywhere, on the CPU in fp32.

    Raises:
        KeyError: no such component.
    """
    kind, config = CONFIGS[component]
    return seeded(build(kind, "sdxl", **config), component)


def seeded(module: nn.Module, name: str) -> nn.Module:
    """Fill a network from its name: products keep the size of what goes in, norms change nothing."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim < 2:
                continue  # norms begin as ones and zeros, biases small
            spread = (parameter.numel() / parameter.shape[0]) ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
        for key, parameter in module.named_parameters():
            if key.endswith("bias"):
                parameter.zero_()
    return module
