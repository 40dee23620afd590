"""The networks of text to image: HunyuanDiT v1.1, distilled, as diffusers and transformers have them.

Settings from the JSON files of Tencent-Hunyuan/HunyuanDiT-v1.1-Diffusers-Distilled; Li et al., "Hunyuan-DiT: A Powerful
Multi-Resolution Diffusion Transformer with Fine-Grained Chinese Understanding" (2024). The words go through a Chinese
BERT and the encoder of mT5-XL; the picture comes out of the VAE of Stable Diffusion XL.
"""

import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from diffusers.models.attention_processor import Attention, PAGCFGHunyuanAttnProcessor2_0
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.hunyuan_transformer_2d import HunyuanDiT2DModel
from torch import Tensor, nn
from transformers import BertConfig, BertModel, T5Config, T5EncoderModel

from adapters.hunyuan3d.networks.companions import VAE
from adapters.hunyuan3d.networks.config import check_names
from loader.strict import load_strict

PAINTER: Mapping[str, Mapping[str, Any]] = {
    "prompt_encoder": {
        "vocab_size": 47020,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "max_position_embeddings": 512,
    },
    "prompt_encoder_t5": {
        "vocab_size": 250112,
        "d_model": 2048,
        "d_kv": 64,
        "d_ff": 5120,
        "num_layers": 24,
        "num_heads": 32,
        "feed_forward_proj": "gated-gelu",
    },
    "painter": {
        "sample_size": 128,
        "num_layers": 40,
        "hidden_size": 1408,
        "num_attention_heads": 16,
        "attention_head_dim": 88,
        "in_channels": 4,
        "patch_size": 2,
        "mlp_ratio": 4.3637,
        "cross_attention_dim": 1024,
        "cross_attention_dim_t5": 2048,
        "pooled_projection_dim": 1024,
        "text_len": 77,
        "text_len_t5": 256,
    },
    "painter_vae": {**VAE, "scaling_factor": 0.13025},
}
"""Settings by component; what is not said is the class's own default."""


def build_painter(component: str, config: Mapping[str, Any]) -> nn.Module:
    """The library's class with the published settings, but for ``config``, under the library's own names.

    Raises:
        ValueError: a setting the class does not have.
    """
    settings = {**PAINTER[component], **config}
    if component == "prompt_encoder":
        check_names(component, config, sorted(BertConfig().to_dict()))
        return BertModel(BertConfig(**settings))
    if component == "prompt_encoder_t5":
        check_names(component, config, sorted(T5Config().to_dict()))
        encoder = T5EncoderModel(T5Config(**settings))
        # One table under two names: tied here, so that it is one tensor however the model is loaded.
        encoder.encoder.embed_tokens = encoder.shared
        return encoder
    kind = HunyuanDiT2DModel if component == "painter" else AutoencoderKL
    check_names(component, config, [name for name in inspect.signature(kind.__init__).parameters if name != "self"])
    return kind(**settings)


def perturb(transformer: HunyuanDiT2DModel) -> None:
    """Let some self-attention pass the last third of a batch through unattended.

    Perturbed-attention guidance (Ahn et al., 2024): a batch is then unconditional, conditional, perturbed. The blocks
    are those from two fifths to half of the depth, which are upstream's 16 to 19 of 40.
    """
    depth = len(transformer.blocks)
    for block in transformer.blocks[depth * 2 // 5 : depth // 2]:
        # diffusers lists its own processor classes as the only type and forgets this one.
        processor: Any = PAGCFGHunyuanAttnProcessor2_0()
        cast(Attention, block.attn1).set_processor(processor)


def load_painter(module: nn.Module, component: str, state_dict: Mapping[str, Tensor]) -> None:
    """Fill ``module`` strictly; the text encoders' files may name tied or computed tensors or leave them out."""
    what = f"hunyuan3d {component}"
    if component == "prompt_encoder_t5":
        load_strict(module, _tied(state_dict), what=what, allow_missing=("encoder.embed_tokens.weight",))
    elif component == "prompt_encoder":
        load_strict(module, state_dict, what=what, allow_unexpected=("embeddings.position_ids",))
        for name in ("position_ids", "token_type_ids"):
            _fill_numbers(module, name)
    else:
        load_strict(module, state_dict, what=what)


def _tied(state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The word table under the name ``shared``, whichever of its two names the file has."""
    table = state_dict.get("shared.weight", state_dict.get("encoder.embed_tokens.weight"))
    rest = {name: tensor for name, tensor in state_dict.items() if name != "encoder.embed_tokens.weight"}
    return rest if table is None else {**rest, "shared.weight": table}


def _fill_numbers(module: nn.Module, name: str) -> None:
    """BERT's computed buffers, which a module made on meta would keep there."""
    embeddings = module.get_submodule("embeddings")
    buffer = getattr(embeddings, name)
    if buffer.is_meta:
        count = buffer.shape[-1]
        device = next(module.parameters()).device
        numbers = torch.arange(count, device=device) if name == "position_ids" else torch.zeros(count, device=device)
        embeddings.register_buffer(name, numbers.long()[None], persistent=False)


def painter_class(component: str) -> type[nn.Module]:
    """Class of a component's module."""
    classes: Mapping[str, type[nn.Module]] = {
        "prompt_encoder": BertModel,
        "prompt_encoder_t5": T5EncoderModel,
        "painter": HunyuanDiT2DModel,
        "painter_vae": AutoencoderKL,
    }
    return classes[component]
