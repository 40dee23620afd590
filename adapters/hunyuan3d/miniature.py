"""Untrained networks of the published classes at tiny widths, to run the whole path without weights.

Values come from the tensors' names, so that every machine makes the same. The reconstruction's are arranged by hand
around a ball, which what it makes of the picture dents: an untrained field would have no surface to speak of.
"""

import zlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from adapters.hunyuan3d.networks import build
from loader.strict import load_strict
from loader.weights import load_component

SEED = 3
SVRM_SIDE = 70
_WIDTH, _TOKENS_SIDE, _CHANNELS = 64, 16, 12
_DENTS = 0.35
"""How far the blocks move the tokens that hold the ball."""
_LOWERED = 2.0
"""Taken from each plane's share of the squared distance."""
_RADIUS2 = 0.4
"""Square of the ball's radius, in units of half the cube."""

_VIEW_UNET: Mapping[str, Any] = {
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
CONFIGS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "svrm": {
        "image_encoder": {"img_size": SVRM_SIDE, "embed_dim": 32, "depth": 2, "num_heads": 4, "pos_emb_dim": 32},
        "triplane_transformer": {
            "pos_emb_size": _TOKENS_SIDE,
            "pos_emb_dim": _WIDTH,
            "n_heads": 4,
            "d_head": 16,
            "depth": 2,
            "context_dim": 32,
            "triplane_dim": _CHANNELS,
        },
        "triplane_decoder": {"triplane_dim": _CHANNELS},
    },
    "lite": {
        "view_unet": {
            **_VIEW_UNET,
            "block_out_channels": (16, 32, 32, 32),
            "attention_head_dim": (2, 4, 4, 4),
            "cross_attention_dim": 24,
        },
        "vision_encoder": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "patch_size": 56,
            "projection_dim": 24,
        },
        "text_encoder": {
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        "vae": {"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4},
    },
    "text": {
        "prompt_encoder": {
            "vocab_size": 200,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 77,
        },
        "prompt_encoder_t5": {
            "vocab_size": 200,
            "d_model": 16,
            "d_kv": 4,
            "d_ff": 32,
            "num_layers": 2,
            "num_heads": 4,
        },
        "painter": {
            "sample_size": 8,
            "num_layers": 4,
            "hidden_size": 16,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "cross_attention_dim": 16,
            "cross_attention_dim_t5": 16,
            "pooled_projection_dim": 16,
        },
        "painter_vae": {"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4},
    },
}
"""Settings that differ from the published ones, by the variant of ``networks.build``, then by component."""


def miniature(component: str, variant: str) -> nn.Module:
    """The network of ``component`` in miniature."""
    make = partial(build, component, variant, **CONFIGS[variant][component])
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in make().state_dict().items()}
    state = {name: _value(f"{component}.{name}", shape) for name, shape in shapes.items()}
    if component == "triplane_transformer":
        _hold_a_ball(state)
    elif component == "triplane_decoder":
        _read_a_ball(state)
    return load_component(make, _fill, component, state)


def _fill(module: nn.Module, component: str, state: Mapping[str, Tensor]) -> None:
    """By the network's own names, where files have the published ones."""
    load_strict(module, state, what=f"hunyuan3d miniature {component}")


def _value(name: str, shape: torch.Size) -> Tensor:
    """Weights of about unit gain; norms and layer scales that change nothing; no biases."""
    if len(shape) < 2:
        return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{SEED} {name}".encode()))
    return torch.randn(shape, generator=generator) / max(1, shape[1:].numel()) ** 0.5


def _hold_a_ball(state: dict[str, Tensor]) -> None:
    """Let each plane token hold, in three channels, the squared distance from the middle and its two slopes.

    A token becomes 4 × 4 cells: the last layer adds the slopes times a cell's place, so that the ball is round.
    """
    ticks = (torch.arange(_TOKENS_SIDE) + 0.5) / _TOKENS_SIDE * 2 - 1
    down, across = torch.meshgrid(ticks, ticks, indexing="ij")
    tokens = torch.ones(_TOKENS_SIDE**2, _WIDTH)
    tokens[:, 1::2] = -1.0
    tokens[:, :3] = torch.stack(((down**2 + across**2) / 2, down, across), dim=-1).flatten(0, 1)
    state["pos_emb"] = tokens.repeat(3, 1)[None]
    for name in state:
        if name.endswith(("to_out.0.weight", "ff.net.2.weight")):
            state[name] *= _DENTS
            state[name][:3] *= 0.2
    cells = (torch.arange(4) + 0.5) / 4 - 0.5
    weight = state["upsampler.weight"].view(_CHANNELS, 4, 4, _WIDTH)
    # A token's cells alike: its colours are patches instead of noise.
    weight[:] = weight[:, :1, :1]
    # Lowered, so that the zeros around the planes are far outside.
    state["upsampler.bias"].view(_CHANNELS, -1)[0] = -_LOWERED
    weight[0] = 0.0
    weight[0, :, :, 0] = 1.0
    weight[0, :, :, 1] = cells[:, None] * (2 / _TOKENS_SIDE)
    weight[0, :, :, 2] = cells[None, :] * (2 / _TOKENS_SIDE)


def _read_a_ball(state: dict[str, Tensor]) -> None:
    """Let the first hidden unit be the squared distance, and the signed distance grow with it."""
    first, second = state["decoder.net.0.weight"], state["decoder.net.2.weight"]
    first[0] = 0.0
    first[0, ::_CHANNELS] = 1.0
    # Kept above the hinge, which would flatten the middle.
    state["decoder.net.0.bias"][0] = 3 * _LOWERED + 2.0
    second[0] *= 0.03
    second[0, 0] = 0.3
    state["decoder.net.2.bias"][0] = -0.3 * (2.0 + _RADIUS2)
    second[1:] *= 2.0
    second[1:, 0] = 0.0
