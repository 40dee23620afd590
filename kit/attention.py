"""The one attention product of all our networks, and how to put another in its place."""

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
