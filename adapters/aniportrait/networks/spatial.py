"""Transformer over the pixels of one picture, whose self-attention may also read a reference picture's tokens."""

import torch
from torch import Tensor, nn

from adapters.aniportrait.networks.attention import Attention, FeedForward


def _join_bank(own: Tensor, bank: Tensor) -> Tensor:
    """Append ``bank [R, heads, M, d]`` to ``own [R*k, heads, N, d]``, the same for each k; ``[R*k, heads, N+M, d]``."""
    grouped = own.unflatten(0, (bank.shape[0], -1))
    return torch.cat((grouped, bank[:, None].expand(-1, grouped.shape[1], -1, -1, -1)), dim=-2).flatten(0, 1)


class BasicTransformerBlock(nn.Module):
    """Self-attention, attention to the reference picture's CLIP token (if ``context_width`` is given), feed-forward."""

    def __init__(self, width: int, heads: int, head_width: int, context_width: int | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, heads, head_width)
        self.attn2 = None if context_width is None else Attention(width, heads, head_width, context_width)
        self.norm2 = None if context_width is None else nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def _self_attention(self, x: Tensor, bank: Tensor | None, guided: bool) -> Tensor:
        if bank is None:
            return self.attn1(x)
        query, (key, value) = self.attn1.query(x), self.attn1.key_value(x)
        # One projection of the bank serves all frames.
        bank_key, bank_value = self.attn1.key_value(bank.to(x.dtype))
        plain = x.shape[0] // 2 if guided else 0
        parts = [self.attn1.attend(query[:plain], key[:plain], value[:plain])] if guided else []
        parts.append(
            self.attn1.attend(query[plain:], _join_bank(key[plain:], bank_key), _join_bank(value[plain:], bank_value))
        )
        return self.attn1.output(torch.cat(parts) if guided else parts[0])

    def _cross_attention(self, x: Tensor, context: Tensor, frames: int) -> Tensor:
        assert self.attn2 is not None
        assert self.norm2 is not None
        if context.shape[1] == 1:
            # The softmax over a single token is 1, whatever the query: what is left is the token's value.
            return self.attn2.to_out[0](self.attn2.to_v(context)).repeat_interleave(frames, dim=0)
        return self.attn2(self.norm2(x), context.repeat_interleave(frames, dim=0))

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        frames: int = 1,
        bank: Tensor | None = None,
        guided: bool = False,
    ) -> Tensor:
        """One block.

        Args:
            x: ``[B*F, N, width]``.
            context: ``[B, T, context_width]``, for blocks that have ``attn2``.
            frames: F.
            bank: tokens ``[R, M, width]`` that the self-attention reads beside its own; R divides the rows that do.
            guided: the first half of the rows does not read the bank.

        Returns:
            ``[B*F, N, width]``.
        """
        x = x + self._self_attention(self.norm1(x), bank, guided)
        if self.attn2 is not None and context is not None:
            x = x + self._cross_attention(x, context, frames)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """``BasicTransformerBlock`` between 1x1 convolutions, with a residual (diffusers' ``Transformer2DModel``)."""

    def __init__(
        self, channels: int, heads: int, head_width: int, *, context_width: int | None = None, groups: int = 32
    ) -> None:
        super().__init__()
        inner = heads * head_width
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, inner, 1)
        self.transformer_blocks = nn.ModuleList([BasicTransformerBlock(inner, heads, head_width, context_width)])
        self.proj_out = nn.Conv2d(inner, channels, 1)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        frames: int = 1,
        bank: Tensor | None = None,
        guided: bool = False,
    ) -> Tensor:
        """``x [B*F, C, h, w]`` to the same; the rest as ``BasicTransformerBlock``."""
        tokens = self.proj_in(self.norm(x))
        height, width = tokens.shape[-2:]
        tokens = tokens.flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, context, frames, bank, guided)
        return x + self.proj_out(tokens.transpose(1, 2).unflatten(2, (height, width)))
