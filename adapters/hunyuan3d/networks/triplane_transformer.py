"""Triplane transformer: learned plane tokens that read the image tokens, then unfold into three feature planes.

Implements ``svrm/ldm/modules/{attention,translator/img_to_triplane}.py`` of Tencent/Hunyuan3D-1 (commit af913e6),
after Hong et al., "LRM: Large Reconstruction Model for Single Image to 3D" (2024). Tensor names are the published ones.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kit.attention import Attend, attend, merge_heads, split_heads

PLANES = 3
UPSAMPLING = 4


@dataclass(frozen=True)
class TriplaneTransformerConfig:
    """Settings of the transformer; the defaults are those of the published file.

    Attributes:
        pos_emb_size: side of a plane in tokens; a token becomes 4×4 plane cells.
        context_dim: width of the image tokens.
        triplane_dim: channels of a plane.
    """

    pos_emb_size: int = 64
    pos_emb_dim: int = 1024
    n_heads: int = 16
    d_head: int = 64
    depth: int = 16
    context_dim: int = 768
    triplane_dim: int = 120


class Attention(nn.Module):
    """Attention of ``tokens [B, N, C]`` over ``context [B, M, D]``."""

    def __init__(self, width: int, context_width: int, heads: int, head_width: int) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(context_width, inner, bias=False)
        self.to_v = nn.Linear(context_width, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, width))
        self.attend: Attend = attend

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        query, key, value = (
            split_heads(part, self.heads) for part in (self.to_q(tokens), self.to_k(context), self.to_v(context))
        )
        return self.to_out(merge_heads(self.attend(query, key, value)))


class GatedGelu(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        values, gate = self.proj(tokens).chunk(2, dim=-1)
        return values * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        # The identity stands where upstream's dropout does and keeps the published index of the last layer.
        self.net = nn.Sequential(GatedGelu(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net(tokens)


class TriplaneBlock(nn.Module):
    """Pre-norm block: cross-attention to the image, then self-attention, then feed-forward."""

    def __init__(self, config: TriplaneTransformerConfig) -> None:
        super().__init__()
        width, heads, head_width = config.pos_emb_dim, config.n_heads, config.d_head
        self.attn1 = Attention(width, config.context_dim, heads, head_width)
        self.attn2 = Attention(width, width, heads, head_width)
        self.ff = FeedForward(width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, image: Tensor) -> Tensor:
        tokens = tokens + self.attn1(self.norm1(tokens), image)
        normed = self.norm2(tokens)
        tokens = tokens + self.attn2(normed, normed)
        return tokens + self.ff(self.norm3(tokens))


class TransformerStack(nn.Module):
    def __init__(self, config: TriplaneTransformerConfig) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList(TriplaneBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.pos_emb_dim, eps=1e-6)

    def forward(self, tokens: Tensor, image: Tensor) -> Tensor:
        for block in self.transformer_blocks:
            tokens = block(tokens, image)
        return self.norm(tokens)


class TriplaneTransformer(nn.Module):
    """Image tokens to feature planes.

    ``module(tokens [B, n, 768]) -> planes [B, 3, 120, R, R]`` with R = 4 × ``pos_emb_size``. The image tokens carry no
    order, so the views may be joined in any.
    """

    published_name = "img_to_triplane_decoder"
    component = "triplane_transformer"

    def __init__(self, config: TriplaneTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.pos_emb = nn.Parameter(torch.zeros(1, PLANES * config.pos_emb_size**2, config.pos_emb_dim))
        self.img_to_triplane_decoder = TransformerStack(config)
        self.upsampler = nn.Linear(config.pos_emb_dim, config.triplane_dim * UPSAMPLING**2)

    def forward(self, tokens: Tensor) -> Tensor:
        planes = self.pos_emb.expand(len(tokens), -1, -1)
        planes = self.upsampler(self.img_to_triplane_decoder(planes, tokens))
        side, channels = self.config.pos_emb_size, self.config.triplane_dim
        cells = planes.view(-1, PLANES, side, side, channels, UPSAMPLING, UPSAMPLING)
        return cells.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, PLANES, channels, side * UPSAMPLING, side * UPSAMPLING)
