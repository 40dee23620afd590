"""Attention and feed-forward layers with diffusers' tensor names."""

from torch import Tensor, nn
from torch.nn import functional as F

from kit.attention import Attend, attend, merge_heads, split_heads


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
