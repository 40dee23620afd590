"""Multi-view diffusion UNets with reference attention.

A pass over the (noised) latents of the input picture stores what enters the keys and values of every self-attention;
the pass over the latents of the views lets its queries attend to its own tokens and the stored ones. The method is that
of Zhang, "Reference-only control" (2023), and Shi et al., "Zero123++" (2023); implements ``mvd/*_pipeline.py`` of
Tencent/Hunyuan3D-1 (commit af913e6). No weights are added: tensor names are those of diffusers' UNet.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from adapters.hunyuan3d.networks.config import check_names
from kit.attention import Attend, attend, merge_heads, split_heads

Bank = dict[str, Tensor]
"""Stored tokens ``[B, N, C]`` by the name of their self-attention layer."""

_CROSS_DOWN, _CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
# attention_head_dim holds the number of heads: an old quirk of this class that published files rely on.
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "lite": {
        "sample_size": 96,
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": (_CROSS_DOWN, _CROSS_DOWN, _CROSS_DOWN, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", _CROSS_UP, _CROSS_UP, _CROSS_UP),
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "std": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", _CROSS_DOWN, _CROSS_DOWN),
        "up_block_types": (_CROSS_UP, _CROSS_UP, "UpBlock2D"),
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}


class ReferenceAttention:
    """Attention processor of one layer.

    The mode and the stored tokens are attributes, set by ``ViewUNet`` around a pass, rather than call arguments: an
    argument that differs per layer would make a compiled block specialise to each layer.
    """

    def __init__(self) -> None:
        self.mode: Literal["plain", "write", "read"] = "plain"
        self.tokens: Tensor | None = None
        self.attend: Attend = attend

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Attention of ``hidden_states [B, N, C]`` over the prompt ``[B, M, D]``, or over itself when there is none."""
        if attention_mask is not None:
            raise ValueError("the view UNets know no attention mask; pass none")
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if self.mode == "write":
            self.tokens = context
        elif self.mode == "read" and self.tokens is not None:
            context = torch.cat((context, self.tokens), dim=1)
        query = split_heads(attn.to_q(hidden_states), attn.heads)
        key = split_heads(attn.to_k(context), attn.heads)
        value = split_heads(attn.to_v(context), attn.heads)
        return attn.to_out[0](merge_heads(self.attend(query, key, value)))


class ViewUNet(UNet2DConditionModel):  # type: ignore[misc]
    """diffusers' UNet with ``write`` (store the reference) and ``read`` (attend to it).

    Shapes: ``sample [B, 4, h, w]``; ``timestep`` a number or tensor; ``prompt [B, 77, D]``; ``added`` for "std" only:
    ``{"text_embeds": [B, 1280], "time_ids": [B, 6]}``. Batches are ordered unconditional, conditional. Sides that the
    UNet's downsampling (8 for "lite", 4 for "std") does not divide are handled as diffusers does.
    """

    def install(self) -> None:
        """Put the reference processors in place; ``build`` has done so."""
        # diffusers lists its own processor classes as the only type, though any callable with their arguments serves.
        self.set_attn_processor({name: cast(Any, ReferenceAttention()) for name in self.attn_processors})

    def _self_attention(self) -> dict[str, ReferenceAttention]:
        return {
            name: cast(ReferenceAttention, processor)
            for name, processor in self.attn_processors.items()
            if name.endswith("attn1.processor")
        }

    @contextmanager
    def _mode(self, mode: Literal["write", "read"], bank: Bank) -> Iterator[None]:
        layers = self._self_attention()
        check_bank(bank, layers)
        for name, layer in layers.items():
            layer.mode, layer.tokens = mode, bank.get(name)
        try:
            yield
            if mode == "write":
                bank.update({name: layer.tokens for name, layer in layers.items() if layer.tokens is not None})
        finally:
            for layer in layers.values():
                layer.mode, layer.tokens = "plain", None

    def write(
        self, sample: Tensor, timestep: Tensor | float, prompt: Tensor, added: Mapping[str, Tensor] | None = None
    ) -> Bank:
        """Store the self-attention tokens of the reference latents ``sample``."""
        bank: Bank = {}
        with self._mode("write", bank):
            self(sample, timestep, prompt, added_cond_kwargs=added, return_dict=False)
        return bank

    def read(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        prompt: Tensor,
        bank: Bank,
        added: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Predict for ``sample``, attending to ``bank`` as well; ``[B, 4, h, w]``.

        Raises:
            ValueError: the bank is not one that ``write`` of such a UNet returned.
        """
        check_bank(bank, self._self_attention(), complete=True)
        with self._mode("read", bank):
            return self(sample, timestep, prompt, added_cond_kwargs=added, return_dict=False)[0]


def check_bank(bank: Bank, layers: Mapping[str, ReferenceAttention], *, complete: bool = False) -> None:
    """Raise ``ValueError`` unless the names of ``bank`` are layers (all of them, where ``complete``)."""
    unknown, missing = sorted(bank.keys() - layers.keys()), sorted(layers.keys() - bank.keys())
    if unknown or (complete and missing):
        raise ValueError(
            f"the bank of stored tokens is not this UNet's: {len(unknown)} unknown layers {unknown[:3]}, "
            f"{len(missing)} missing {missing[:3]}; pass what write() returned"
        )


def build_view_unet(variant: str, **config: Any) -> ViewUNet:
    """The UNet of ``variant`` ("lite" or "std"), with settings of diffusers' ``UNet2DConditionModel`` overridden.

    Raises:
        ValueError: a setting that class does not have.
    """
    known = [name for name in inspect.signature(UNet2DConditionModel.__init__).parameters if name != "self"]
    check_names(f"view_unet {variant}", config, known)
    unet = ViewUNet(**{**CONFIGS[variant], **config})
    unet.install()
    return unet
