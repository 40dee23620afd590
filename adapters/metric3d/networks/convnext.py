"""The encoder of the first generation: ConvNeXt, arXiv 2201.03545.

Source of names and numbers: github.com/YvanYin/Metric3D at eb5b6fa, ``mono/model/backbones/ConvNeXt.py``.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.metric3d.networks.config import ConvNextVariant
from adapters.metric3d.networks.layers import ChannelLayerNorm, PictureConv

LAYER_NORM_EPS = 1e-6


class Stem(nn.Sequential):
    """One value per 4×4 pixels: ``[B, 3, H, W]`` of any floating dtype to ``[B, C, H // 4, W // 4]``."""

    def __init__(self, channels: int) -> None:
        super().__init__(PictureConv(3, channels, 4, stride=4), ChannelLayerNorm(channels, eps=LAYER_NORM_EPS))


class ConvNextBlock(nn.Module):
    """A depthwise convolution and a wide pointwise MLP beside a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)

    def forward(self, image: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same."""
        pixels = self.norm(self.dwconv(image).permute(0, 2, 3, 1))
        pixels = self.pwconv2(F.gelu(self.pwconv1(pixels)))
        return image + (self.gamma.to(pixels.dtype) * pixels).permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    """Four stages at 1/4 to 1/32 of the picture's resolution, without final norms."""

    def __init__(self, config: ConvNextVariant) -> None:
        super().__init__()
        dims = config.dims
        halvings = [
            nn.Sequential(ChannelLayerNorm(finer, eps=LAYER_NORM_EPS), nn.Conv2d(finer, coarser, 2, stride=2))
            for finer, coarser in pairwise(dims)
        ]
        self.downsample_layers = nn.ModuleList([Stem(dims[0]), *halvings])
        self.stages = nn.ModuleList(
            [
                nn.Sequential(*(ConvNextBlock(channels) for _ in range(depth)))
                for channels, depth in zip(dims, config.depths, strict=True)
            ]
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` normalised RGB to four maps ``[B, C, H', W']``, finest first."""
        maps = []
        image = images
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            image = stage(downsample(image))
            maps.append(image)
        return maps
