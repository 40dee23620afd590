"""Published configurations: the SDXL base networks and InstantID's two additions."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from adapters.instantid.networks.attention import FACE_TOKENS

Config = Mapping[str, Any]

FACE_PROJECTION: Config = MappingProxyType(
    {
        "dim": 1280,
        "depth": 4,
        "dim_head": 64,
        "heads": 20,
        "num_queries": FACE_TOKENS,
        "embedding_dim": 512,
        "output_dim": 2048,
        "ff_mult": 4,
    }
)

_DENOISER: Config = MappingProxyType(
    {
        "in_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "block_out_channels": (320, 640, 1280),
        "layers_per_block": 2,
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),  # number of heads, in spite of the name
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }
)

UNET: Config = MappingProxyType(
    {
        **_DENOISER,
        "sample_size": 128,
        "out_channels": 4,
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    }
)

IDENTITY_NET: Config = MappingProxyType(
    {
        **_DENOISER,
        "conditioning_channels": 3,
        "conditioning_embedding_out_channels": (16, 32, 96, 256),
        "controlnet_conditioning_channel_order": "rgb",
    }
)

VAE: Config = MappingProxyType(
    {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "sample_size": 1024,
        "scaling_factor": 0.13025,
        "force_upcast": True,
    }
)

TEXT_ENCODER: Config = MappingProxyType(
    {
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": 768,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
)

TEXT_ENCODER_2: Config = MappingProxyType(
    {
        **TEXT_ENCODER,
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "hidden_act": "gelu",
        "projection_dim": 1280,
    }
)
