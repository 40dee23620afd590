"""The one attention product of these networks, and how to put another in its place."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(query, key, value) -> output``, each ``[B, heads, tokens, width]``; softmax scaled by ``width ** -0.5``."""


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention of ``[B, heads, tokens, width]``, by whatever kernel torch finds best."""
    return F.scaled_dot_product_attention(query, key, value)


class Attention(nn.Module):
    """Multi-head self-attention with one projection for query, key and value.

    Attributes:
        attend: the product, exchangeable per layer.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attend: Attend = attend
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, N, C]`` to the same."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(self.attend(query, key, value).transpose(1, 2).flatten(2))


def use_attention(module: nn.Module, function: Attend) -> int:
    """Let every attention layer below ``module`` call ``function``; returns how many do."""
    layers = [child for child in module.modules() if isinstance(child, Attention)]
    for layer in layers:
        layer.attend = function
    return len(layers)
