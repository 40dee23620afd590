"""Attention of the denoiser: text and face tokens attended apart, summed with a strength.

Source: InstantID/InstantID @ 2145b67, after IP-Adapter (arXiv 2308.06721).
The layers are those of diffusers' ``BasicTransformerBlock``.
"""

from collections.abc import Mapping
from typing import Any

from diffusers.models.attention_processor import Attention
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from kit.attention import Attend, attend, merge_heads, split_heads
from loader.errors import InputError

DEFAULT_FACE_SCALE = 0.5
FACE_TOKENS = 16

# Number of queries of an attention layer -> weight of the face at each of them, [1, queries, 1].
FaceMasks = Mapping[int, Tensor]


class PlainAttention:
    """Self attention, or cross attention over all of the context; what the layers without a face branch do.

    Attributes:
        attend: the attention product; the plan may put another in its place.
    """

    def __init__(self) -> None:
        self.attend: Attend = attend

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        face_scale: float | None = None,  # noqa: ARG002 - for the layers that look at the face
        face_masks: FaceMasks | None = None,  # noqa: ARG002
    ) -> Tensor:
        """One layer's attention: ``[B, N, C]`` and a context ``[B, T, D]`` (None: itself) to ``[B, N, C]``."""
        _refuse_mask(attention_mask)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            split_heads(layer(tokens), attn.heads)
            for layer, tokens in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        return attn.to_out[0](merge_heads(self.attend(query, key, value)))


class FaceAttention(nn.Module):
    """Cross attention in which text and face tokens do not compete: two attentions of one query, summed.

    The face tokens are the last ``num_tokens`` of the context. The strength and the region are values given to the
    call of the network (``cross_attention_kwargs={"face_scale": ..., "face_masks": ...}``), so that two requests can
    share one network; without them the strength is ``scale`` and the region everything.

    Attributes:
        scale: strength of the face when the call names none; the published loader's default is 0.5.
        attend: the attention product of both branches; the plan may put another in its place.
    """

    def __init__(
        self, width: int, token_width: int, num_tokens: int = FACE_TOKENS, scale: float = DEFAULT_FACE_SCALE
    ) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.scale = scale
        self.attend: Attend = attend
        self.to_k_ip = nn.Linear(token_width, width, bias=False)
        self.to_v_ip = nn.Linear(token_width, width, bias=False)

    # Not ``forward``: diffusers reads the settings a processor takes from the signature of its ``__call__``.
    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        face_scale: float | None = None,
        face_masks: FaceMasks | None = None,
    ) -> Tensor:
        """One layer's attention.

        Args:
            attn: the layer whose projections are used.
            hidden_states: ``[B, N, C]``.
            encoder_hidden_states: ``[B, T + num_tokens, D]``, text first, face last.
            attention_mask: must be None; every token counts.
            face_scale: strength of the face, 0 for none.
            face_masks: weight of the face by position, see ``region.attention_masks``.

        Returns:
            ``[B, N, C]``.

        Raises:
            InputError: the masks were made for another picture size.
        """
        _refuse_mask(attention_mask)
        text, face = encoder_hidden_states.tensor_split((-self.num_tokens,), dim=1)
        query = split_heads(attn.to_q(hidden_states), attn.heads)
        from_text, from_face = (
            merge_heads(self.attend(query, split_heads(key, attn.heads), split_heads(value, attn.heads)))
            for key, value in (
                (attn.to_k(text), attn.to_v(text)),
                (self.to_k_ip(face), self.to_v_ip(face)),
            )
        )
        if face_masks is not None:
            from_face = from_face * _mask_for(face_masks, hidden_states)
        scale = self.scale if face_scale is None else face_scale
        return attn.to_out[0](from_text + scale * from_face)


def _refuse_mask(attention_mask: Tensor | None) -> None:
    if attention_mask is not None:
        raise ValueError("these attention layers take no attention mask: every text and face token counts; pass None")


def _mask_for(masks: FaceMasks, hidden_states: Tensor) -> Tensor:
    queries = hidden_states.shape[1]
    if queries not in masks:
        raise InputError(
            f"the face region was made for layers of {', '.join(map(str, masks))} positions, this one has {queries}; "
            "make it for the size of the picture being drawn"
        )
    return masks[queries].to(hidden_states)


def use_plain_attention(network: UNet2DConditionModel | ControlNetModel) -> None:
    """Route every transformer block of a network through an ``attend`` of its own."""
    processors: dict[str, Any] = dict(network.attn_processors)
    blocks = [name for name in processors if name.endswith((".attn1.processor", ".attn2.processor"))]
    processors.update({name: PlainAttention() for name in blocks})
    network.set_attn_processor(processors)


def add_face_attention(unet: UNet2DConditionModel, num_tokens: int) -> None:
    """Give every cross attention of ``unet`` a face branch with fresh weights, the others plain attention."""
    use_plain_attention(unet)
    processors: dict[str, Any] = dict(unet.attn_processors)
    for name, layer in unet.named_modules():
        if isinstance(layer, Attention) and name.endswith(".attn2"):
            processors[f"{name}.processor"] = FaceAttention(layer.to_q.out_features, layer.to_k.in_features, num_tokens)
    unet.set_attn_processor(processors)


def face_layers(unet: UNet2DConditionModel) -> nn.ModuleDict:
    """The face branches of a UNet under their published numbers.

    A number is the position among all attention layers in the order down, up, middle; self attention, which has no
    weights here, takes the even ones: "1", "3", ... "139".
    """
    return nn.ModuleDict(
        {
            str(position): processor
            for position, processor in enumerate(unet.attn_processors.values())
            if isinstance(processor, FaceAttention)
        }
    )
