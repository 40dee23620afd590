"""The face projection: one recognition embedding becomes 16 tokens the denoiser can attend to.

Source: InstantID/InstantID @ 2145b67, itself the perceiver resampler of Flamingo (arXiv 2204.14198).
"""

import torch
from torch import Tensor, nn

from kit.attention import Attend, attend, merge_heads, split_heads


class LatentAttention(nn.Module):
    """The learned latents look at the input tokens and at themselves."""

    def __init__(self, dim: int, dim_head: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attend: Attend = attend
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim_head * heads, bias=False)
        self.to_kv = nn.Linear(dim, dim_head * heads * 2, bias=False)
        self.to_out = nn.Linear(dim_head * heads, dim, bias=False)

    def forward(self, tokens: Tensor, latents: Tensor) -> Tensor:
        """Tokens ``[B, N, dim]`` and latents ``[B, Q, dim]`` to ``[B, Q, dim]``."""
        latents = self.norm2(latents)
        context = torch.cat((self.norm1(tokens), latents), dim=1)
        key, value = self.to_kv(context).chunk(2, dim=-1)
        query, key, value = (split_heads(part, self.heads) for part in (self.to_q(latents), key, value))
        return self.to_out(merge_heads(self.attend(query, key, value)))


class ResamplerLayer(nn.ModuleList):
    """Attention and a feed-forward layer, each added to the latents."""

    def __init__(self, dim: int, dim_head: int, heads: int, ff_mult: int) -> None:
        feed_forward = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, dim * ff_mult, bias=False),
            nn.GELU(),
            nn.Linear(dim * ff_mult, dim, bias=False),
        )
        super().__init__((LatentAttention(dim, dim_head, heads), feed_forward))

    def forward(self, tokens: Tensor, latents: Tensor) -> Tensor:
        """Tokens ``[B, N, dim]`` and latents ``[B, Q, dim]`` to ``[B, Q, dim]``."""
        attention, feed_forward = self
        latents = latents + attention(tokens, latents)
        return latents + feed_forward(latents)


class Resampler(nn.Module):
    """Perceiver resampler with the names of ``ip-adapter.bin``'s ``image_proj``.

    Args:
        dim: width of the latents.
        depth: number of layers.
        dim_head: width of an attention head.
        heads: attention heads.
        num_queries: output tokens.
        embedding_dim: width of an input embedding.
        output_dim: width of an output token, the denoiser's cross attention width.
        ff_mult: widening of the feed-forward layers.
    """

    def __init__(  # noqa: PLR0913 - the published configuration
        self,
        *,
        dim: int,
        depth: int,
        dim_head: int,
        heads: int,
        num_queries: int,
        embedding_dim: int,
        output_dim: int,
        ff_mult: int,
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, num_queries, dim) / dim**0.5)
        self.proj_in = nn.Linear(embedding_dim, dim)
        self.proj_out = nn.Linear(dim, output_dim)
        self.norm_out = nn.LayerNorm(output_dim)
        self.layers = nn.ModuleList(ResamplerLayer(dim, dim_head, heads, ff_mult) for _ in range(depth))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Project recognition embeddings to face tokens.

        Args:
            embeddings: ``[B, N, embedding_dim]``, not normalised; N photographs of one person. All zeros stand for
                "no face" in the unconditional half of guidance.

        Returns:
            ``[B, num_queries, output_dim]``, in the module's dtype.
        """
        tokens = self.proj_in(embeddings.to(self.latents.dtype))
        latents = self.latents.expand(len(embeddings), -1, -1)
        for layer in self.layers:
            latents = layer(tokens, latents)
        return self.norm_out(self.proj_out(latents))
