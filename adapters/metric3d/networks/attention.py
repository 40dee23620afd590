"""Self-attention with one projection for query, key and value."""

from torch import Tensor, nn

from kit.attention import Attend, attend


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
