"""The one attention product of all our networks, and the shapes around it. Which product it is, the plan decides."""

from torch import Tensor

from loader.attention import Attend, attend, use_attention

__all__ = ["Attend", "attend", "merge_heads", "split_heads", "use_attention"]


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """``[B, N, heads * width]`` to ``[B, heads, N, width]``."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(tokens: Tensor) -> Tensor:
    """``[B, heads, N, width]`` to ``[B, N, heads * width]``."""
    return tokens.transpose(1, 2).flatten(2)
