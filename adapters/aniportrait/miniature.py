"""Untrained networks of the published classes at tiny widths: the whole path, without weights.

Values come from the tensors' names, so that every machine makes the same ones.
"""

import zlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from adapters.aniportrait.networks import COMPONENTS, build, load_published
from loader.weights import load_component

_WIDTHS: Mapping[str, Any] = {
    "block_out_channels": (32, 64, 128, 128),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
}
_SPEECH: Mapping[str, Any] = {
    "latent_dim": 32,
    "wav2vec2": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_dim": (32,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    },
}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "reference_unet": _WIDTHS,
    "denoising_unet": _WIDTHS,
    "pose_guider": {"noise_latent_channels": 32, "use_ca": False},
    "audio2mesh": _SPEECH,
    "audio2pose": _SPEECH,
    "image_encoder": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "patch_size": 56,
        "projection_dim": 16,
    },
    "vae": {"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4},
}
"""Settings that differ from the published ones."""
# What sound moves: untrained outputs would throw the face about.
_QUIET: Mapping[str, float] = {"audio2mesh.out_fn.weight": 0.05, "audio2pose.pose_map_r.weight": 2.0}


def miniature(component: str) -> nn.Module:
    """The network of ``component`` in miniature, fp32."""
    make = partial(build, component, COMPONENTS[component][0], **CONFIGS[component])
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in make().state_dict().items()}
    state = {name: _value(f"{component}.{name}", shape) for name, shape in shapes.items()}
    if component == "pose_guider":
        state["scale"] = torch.full((1,), 0.1)
    return load_component(make, load_published, component, state)


def _value(name: str, shape: torch.Size) -> Tensor:
    """Weights of about unit gain, norms that change nothing, no biases."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    if name.endswith(("bias", "running_mean")):
        return torch.zeros(shape)
    if len(shape) < 2 or name.endswith(("weight_g", "norm.weight")):
        return torch.ones(shape)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator) * _QUIET.get(name, 1.0) / max(1, shape[1:].numel()) ** 0.5
