"""The networks around the view UNets, which diffusers and transformers already have under the published names.

Settings from the JSON files of tencent/Hunyuan3D-1. "lite" reads its picture through CLIP ViT-H/14 and an empty prompt
through the text encoder of Stable Diffusion 2.1; "std" through CLIP ViT-L/14 and bigG/14, its prompt being stored.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from adapters.hunyuan3d.networks.config import check_names
from loader.strict import load_strict

VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}


def _vision(width: int, layers: int, hidden: int, projection: int, activation: str) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "projection_dim": projection,
        "hidden_act": activation,
    }


COMPANIONS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "vae": {
        "lite": {**VAE, "scaling_factor": 0.18215},
        "std": {**VAE, "scaling_factor": 0.13025},
    },
    "vision_encoder": {
        "lite": _vision(1280, 32, 5120, 1024, "gelu"),
        "std": _vision(1024, 24, 4096, 768, "quick_gelu"),
    },
    "vision_encoder_2": {"std": _vision(1664, 48, 8192, 1280, "gelu")},
    "text_encoder": {
        "lite": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 23,
            "num_attention_heads": 16,
            "vocab_size": 49408,
            "max_position_embeddings": 77,
            "hidden_act": "gelu",
        }
    },
}
"""Settings by component, then by variant."""


def build_companion(component: str, variant: str, config: Mapping[str, Any]) -> nn.Module:
    """The library's class with the published settings, but for ``config``, under the library's own names.

    Raises:
        ValueError: a setting the class does not have.
    """
    settings = {**COMPANIONS[component][variant], **config}
    what = f"{component} {variant}"
    if component == "vae":
        check_names(
            what, config, [name for name in inspect.signature(AutoencoderKL.__init__).parameters if name != "self"]
        )
        return AutoencoderKL(**settings)
    if component == "text_encoder":
        check_names(what, config, sorted(CLIPTextConfig().to_dict()))
        return CLIPTextModel(CLIPTextConfig(**settings))
    check_names(what, config, sorted(CLIPVisionConfig().to_dict()))
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**settings))


def load_companion(module: nn.Module, component: str, state_dict: Mapping[str, Tensor]) -> None:
    """Fill ``module`` strictly; files of CLIP may hold its position numbers besides, which are dropped."""
    what = f"hunyuan3d {component}"
    if component == "vae":
        load_strict(module, state_dict, what=what)
        return
    text = component == "text_encoder"
    # The text encoder's file still has a level of names that the class has given up.
    named = nn.ModuleDict({"text_model": module}) if text else module
    excess = f"{'text' if text else 'vision'}_model.embeddings.position_ids"
    load_strict(named, state_dict, what=what, allow_unexpected=(excess,))
    for name, buffer in module.named_buffers():
        # Not in the file, so that a module made on meta would keep them there.
        if buffer.is_meta and name.endswith("position_ids"):
            parent = module.get_submodule(name.rpartition(".")[0])
            numbers = torch.arange(buffer.shape[-1], device=next(module.parameters()).device)[None]
            parent.register_buffer("position_ids", numbers, persistent=False)


def companion_class(component: str) -> type[nn.Module]:
    """Class of a companion's module."""
    match component:
        case "vae":
            return AutoencoderKL
        case "text_encoder":
            return CLIPTextModel
        case _:
            return CLIPVisionModelWithProjection
