"""The encoder of the second generation: a DINOv2 vision transformer with register tokens.

Sources: "DINOv2", arXiv 2304.07193; "Vision Transformers Need Registers", arXiv 2309.16588; github.com/YvanYin/Metric3D
at eb5b6fa, ``mono/model/backbones/ViT_DINO_reg.py``, whose tensor names these modules carry.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.metric3d.networks.attention import Attention
from adapters.metric3d.networks.config import VitConfig
from adapters.metric3d.networks.layers import PictureConv
from adapters.metric3d.networks.precision import resize_to

PATCH = 14
LAYER_NORM_EPS = 1e-6
# DINO adds a tenth of a patch before dividing, against rounding; the published weights were trained with the shift
# that this brings into the sampling positions.
GRID_OFFSET = 0.1


class Tokens(NamedTuple):
    """What the decoder reads.

    Attributes:
        levels: four tensors ``[B, 1 + registers + h * w, C]``: class token, registers, patches row by row.
        grid: patches per column and row, ``(h, w)``.
    """

    levels: Sequence[Tensor]
    grid: tuple[int, int]


class PatchEmbed(nn.Module):
    """One token for every 14×14 patch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = PictureConv(3, width, PATCH, stride=PATCH)

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, 14h, 14w]`` of any floating dtype to ``[B, h * w, C]`` of the weights'."""
        return self.proj(images).flatten(2).transpose(1, 2)


class Mlp(nn.Module):
    """Two layers with an exact GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, N, C]`` to the same."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class SwiGlu(nn.Module):
    """A gated layer of about as many weights as the ``Mlp`` of the same ``hidden`` (arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        gated = (int(hidden * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(width, 2 * gated)
        self.w3 = nn.Linear(gated, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, N, C]`` to the same."""
        gate, value = self.w12(tokens).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, N, C]`` to the same."""
        return tokens * self.gamma.to(tokens.dtype)


class Block(nn.Module):
    """A pre-norm transformer block; the repeated block for regional compilation."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        width, hidden = config.embed_dim, int(config.embed_dim * config.mlp_ratio)
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = Attention(width, config.num_heads)
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(width, hidden) if config.ffn_layer == "mlp" else SwiGlu(width, hidden)
        self.ls2 = LayerScale(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, N, C]`` to the same."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


def position_embedding(learned: Tensor, grid: tuple[int, int]) -> Tensor:
    """The learned position embedding resampled to another grid, in fp32.

    Bicubic without antialiasing; the scale, not the size, is prescribed, so that ``GRID_OFFSET`` reaches the sampling
    positions. Only the grid it was learned on gets it unchanged.

    Args:
        learned: ``[1, 1 + side², C]``, the class token's first.
        grid: ``(h, w)``, at least 1 each.

    Returns:
        ``[1, 1 + h * w, C]`` fp32.
    """
    learned = learned.float()
    side = math.isqrt(learned.shape[1] - 1)
    if grid == (side, side):
        return learned
    scale = [(cells + GRID_OFFSET) / side for cells in grid]
    square = learned[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    resampled = F.interpolate(square, scale_factor=scale, mode="bicubic", align_corners=False)
    return torch.cat([learned[:, :1], resampled.flatten(2).transpose(1, 2)], dim=1)


class VisionTransformer(nn.Module):
    """DINOv2 with registers, giving the same normalised tokens four times or raw ones from four depths."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.multi_output = config.multi_output
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + (config.img_size // PATCH) ** 2, width) * 0.02)
        self.register_tokens = nn.Parameter(torch.zeros(1, config.num_register_tokens, width))
        # Read by DINO's pre-training only; held because published files may have it.
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embed = PatchEmbed(width)
        # Published names have one more level: the blocks were once split in chunks, of which there is one.
        self.blocks = nn.ModuleList([nn.ModuleList([Block(config) for _ in range(config.depth)])])
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, images: Tensor) -> Tokens:
        """Encode pictures.

        Args:
            images: ``[B, 3, H, W]`` normalised RGB. Sides that are no multiple of 14 are resized up to the next one.

        Returns:
            four levels of tokens and the grid ``(ceil(H / 14), ceil(W / 14))``.
        """
        grid = (math.ceil(images.shape[-2] / PATCH), math.ceil(images.shape[-1] / PATCH))
        tokens = self._embed(resize_to(images, (grid[0] * PATCH, grid[1] * PATCH), align_corners=False), grid)
        blocks = list(self.blocks[0].children())
        if not self.multi_output:
            for block in blocks:
                tokens = block(tokens)
            return Tokens([self.norm(tokens)] * 4, grid)
        levels = []
        for index, block in enumerate(blocks, start=1):
            tokens = block(tokens)
            if index % (len(blocks) // 4) == 0:
                levels.append(tokens)
        return Tokens(levels, grid)

    def _embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        patches = self.patch_embed(images)
        batch, dtype = patches.shape[0], patches.dtype
        positions = position_embedding(self.pos_embed, grid).to(dtype)
        leading = self.cls_token.to(dtype) + positions[:, :1]
        registers = self.register_tokens.to(dtype)
        return torch.cat(
            [leading.expand(batch, -1, -1), registers.expand(batch, -1, -1), patches + positions[:, 1:]], dim=1
        )
