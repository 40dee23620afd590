"""The reference UNet: Stable Diffusion 1.5's, run once on the portrait to collect its self-attention tokens.

Implements the writing half of ``src/models/mutual_self_attention.py`` and ``src/models/unet_2d_condition.py`` of
Zejun-Yang/AniPortrait (commit 7f6593f): diffusers' own UNet without its output layers, which nothing reads.
"""

from collections.abc import Mapping
from typing import Any, cast

from diffusers.models.attention_processor import Attention as DiffusersAttention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from adapters.aniportrait.networks.config import check_settings, tuples
from adapters.aniportrait.networks.layers import make_entry
from kit.attention import Attend, attend, merge_heads, split_heads

_CROSS_DOWN, _CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
SD15: Mapping[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "layers_per_block": 2,
    "block_out_channels": (320, 640, 1280, 1280),
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "cross_attention_dim": 768,
    # The number of heads, in spite of its name.
    "attention_head_dim": 8,
    "down_block_types": (_CROSS_DOWN, _CROSS_DOWN, _CROSS_DOWN, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", _CROSS_UP, _CROSS_UP, _CROSS_UP),
}


class Recorder:
    """Attention processor that keeps what enters its layer.

    It keeps it in an attribute, collected by ``ReferenceUNet`` after the pass, rather than in a call argument: an
    argument that differs per layer would make a compiled block specialise to each layer.
    """

    def __init__(self) -> None:
        self.tokens: Tensor | None = None
        self.attend: Attend = attend

    def __call__(
        self,
        attn: DiffusersAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Attention of ``hidden_states [B, N, C]`` over the CLIP token ``[B, 1, D]``, or over itself without one."""
        if attention_mask is not None:
            raise ValueError("the reference UNet knows no attention mask; pass none")
        if encoder_hidden_states is None:
            self.tokens = source = hidden_states
        else:
            source = encoder_hidden_states.to(hidden_states.dtype)
        query = split_heads(attn.to_q(hidden_states), attn.heads)
        key, value = split_heads(attn.to_k(source), attn.heads), split_heads(attn.to_v(source), attn.heads)
        return attn.to_out[0](merge_heads(self.attend(query, key, value)))


class ReferenceUNet(UNet2DConditionModel):  # type: ignore[misc]
    """diffusers' UNet whose call returns the self-attention tokens instead of a prediction."""

    def strip(self) -> None:
        """Drop the output layers, install the recorders and let the input take any dtype; ``build`` has done so."""
        self.conv_norm_out = None  # type: ignore[assignment]
        self.set_submodule("conv_out", nn.Identity())
        # diffusers lists its own processor classes as the only type, though any callable with their arguments serves.
        self.set_attn_processor({name: cast(Any, Recorder()) for name in self.attn_processors})
        make_entry(self.conv_in)
        make_entry(self.time_embedding.linear_1)

    def record(self, latents: Tensor, timestep: Tensor | float, context: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """As the call, with the last up block's output ``[B, C0, h, w]`` beside the banks."""
        recorders = {
            name.removesuffix(".attn1.processor"): cast(Recorder, processor)
            for name, processor in self.attn_processors.items()
            if name.endswith(".attn1.processor")
        }
        try:
            features = super().forward(latents, timestep, context, return_dict=False)[0]
            return features, {name: cast(Tensor, recorder.tokens) for name, recorder in recorders.items()}
        finally:
            for recorder in recorders.values():
                recorder.tokens = None

    def forward(self, latents: Tensor, timestep: Tensor | float, encoder_hidden_states: Tensor) -> dict[str, Tensor]:
        """Self-attention tokens of the portrait.

        Args:
            latents: ``[B, 4, h, w]``; the portrait's, without noise.
            timestep: 0 in all of upstream's uses.
            encoder_hidden_states: ``[B, T, 768]``; upstream passes the CLIP image embedding, T = 1.

        Returns:
            ``[B, h_i*w_i, C_i]`` by the path of the transformer block: what leaves its ``norm1``.
        """
        return self.record(latents, timestep, encoder_hidden_states)[1]


def build_reference_unet(overrides: Mapping[str, Any]) -> ReferenceUNet:
    """Stable Diffusion 1.5's configuration with some settings changed.

    Raises:
        ValueError: a setting that does not exist.
    """
    check_settings(overrides, known=tuple(SD15), fixed={}, what="reference_unet")
    unet = ReferenceUNet(**{**SD15, **tuples(overrides)})
    unet.strip()
    return unet
