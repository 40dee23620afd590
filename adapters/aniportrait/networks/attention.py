"""The one attention product of these networks, how to put another in its place, and the layers built on it."""

from collections.abc import Iterator
from typing import Protocol, cast

from torch import Tensor, nn
from torch.nn import functional as F


class Attend(Protocol):
    """Softmax attention scaled by ``width ** -0.5``.

    ``query [B, heads, Q, width]``, ``key`` and ``value [B, heads, K, width]``, ``bias`` broadcastable to
    ``[B, heads, Q, K]`` and added before the softmax; returns ``[B, heads, Q, width]``.
    """

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor: ...


class _HoldsAttend(Protocol):
    attend: Attend


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention by torch's fused kernels, as ``Attend`` describes."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """``[B, N, heads * width]`` to ``[B, heads, N, width]``."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(tokens: Tensor) -> Tensor:
    """``[B, heads, N, width]`` to ``[B, N, heads * width]``."""
    return tokens.transpose(1, 2).flatten(2)


def _holders(module: nn.Module) -> Iterator[_HoldsAttend]:
    for child in module.modules():
        for candidate in (child, getattr(child, "processor", None)):
            if hasattr(candidate, "attend"):
                yield cast(_HoldsAttend, candidate)


def use_attention(module: nn.Module, function: Attend) -> int:
    """Let every attention layer below ``module`` call ``function``; returns how many do."""
    holders = list(_holders(module))
    for holder in holders:
        holder.attend = function
    return len(holders)


class Attention(nn.Module):
    """Multi-head attention with diffusers' tensor names: no bias on queries, keys and values."""

    def __init__(self, width: int, heads: int, head_width: int, context_width: int | None = None) -> None:
        super().__init__()
        inner, source = heads * head_width, width if context_width is None else context_width
        self.heads = heads
        self.attend: Attend = attend
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(source, inner, bias=False)
        self.to_v = nn.Linear(source, inner, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])

    def query(self, x: Tensor) -> Tensor:
        """``[B, N, width]`` to ``[B, heads, N, head_width]``."""
        return split_heads(self.to_q(x), self.heads)

    def key_value(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of ``source [B, M, context_width]``, each ``[B, heads, M, head_width]``."""
        return split_heads(self.to_k(source), self.heads), split_heads(self.to_v(source), self.heads)

    def output(self, heads: Tensor) -> Tensor:
        """``[B, heads, N, head_width]`` to ``[B, N, width]``."""
        return self.to_out[0](merge_heads(heads))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Attention of ``x [B, N, width]`` over ``context [B, M, context_width]``, or over itself; shaped as ``x``."""
        key, value = self.key_value(x if context is None else context)
        return self.output(self.attend(self.query(x), key, value))


class _GatedGelu(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Gated linear unit with exact GELU, four times as wide inside (Shazeer, arXiv 2002.05202)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # The gap in the numbering is upstream's dropout, which has no tensors.
        self.net = nn.ModuleList([_GatedGelu(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        """``[..., width]`` to the same."""
        for layer in self.net:
            x = layer(x)
        return x
