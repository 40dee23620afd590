"""Tokens to feature maps and their fusion, after "Vision Transformers for Dense Prediction", arXiv 2103.13413.

Source of names and numbers: github.com/YvanYin/Metric3D at eb5b6fa,
``mono/model/decode_heads/RAFTDepthNormalDPTDecoder5.py``.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.metric3d.networks.config import RaftConfig
from adapters.metric3d.networks.precision import resize_by
from adapters.metric3d.networks.vit import Tokens

# A patch has 14 pixels, the finest map one value for 4: upsampled from the patch grid by 14 / 4.
FINEST_SCALE = 3.5


class Maps(NamedTuple):
    """Feature maps ``[B, C, H, W]``, finest first, at 3.5, 2, 1 and 1 values per patch."""

    x0: Tensor
    x1: Tensor
    x2: Tensor
    x3: Tensor


class Readout(nn.Module):
    """Mixes what the class token and the registers know into every patch."""

    def __init__(self, width: int, leading: int) -> None:
        super().__init__()
        self.leading = leading
        self.project_patch = nn.Linear(width, width)
        self.project_learn = nn.Linear(leading * width, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, leading + N, C]`` to ``[B, N, C]``."""
        shared = self.project_learn(tokens[:, : self.leading].flatten(1)).unsqueeze(1)
        return F.gelu(self.project_patch(tokens[:, self.leading :]) + shared)


class Reassemble(nn.Module):
    """One level of tokens as a map, through ``sample``."""

    def __init__(self, width: int, leading: int, sample: nn.Module | None = None) -> None:
        super().__init__()
        self.readoper = Readout(width, leading)
        self.sample = nn.Identity() if sample is None else sample

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """``[B, leading + h * w, C]`` to ``[B, D, H, W]``."""
        return self.sample(self.readoper(tokens).transpose(1, 2).unflatten(2, grid))


class TokensToMaps(nn.Module):
    """The four levels of tokens as four maps."""

    def __init__(self, config: RaftConfig) -> None:
        super().__init__()
        width, leading = config.in_channels[0], 1 + config.num_register_tokens
        fine, middle = config.feature_channels[:2]
        self.read_0 = Reassemble(width, leading, nn.Sequential(nn.Conv2d(width, fine, 1)))
        self.read_1 = Reassemble(width, leading, nn.ConvTranspose2d(width, middle, 2, stride=2))
        self.read_2 = Reassemble(width, leading)
        self.read_3 = Reassemble(width, leading)

    def forward(self, tokens: Tokens) -> Maps:
        levels, grid = tokens
        # Upstream upsamples before its 1×1 convolution; after it, the same values cost a twelfth. The factor, not the
        # size, is prescribed: it decides which patch is nearest when 3.5 times the grid is not whole.
        x0 = F.interpolate(self.read_0(levels[0], grid), scale_factor=FINEST_SCALE, mode="nearest")
        return Maps(x0, self.read_1(levels[1], grid), self.read_2(levels[2], grid), self.read_3(levels[3], grid))


class ConvBlock(nn.Module):
    """Two convolutions around a skip that carries the *rectified* input, as the published weights expect."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same."""
        image = F.relu(image)
        return image + self.conv2(F.relu(self.conv1(image)))


class FuseBlock(nn.Module):
    """Adds a lateral map, refines, changes channels and upsamples."""

    def __init__(self, channels: int, out: int, *, lateral: bool = True, scale_factor: float = 1.0) -> None:
        super().__init__()
        self.scale_factor = scale_factor
        self.way_trunk = ConvBlock(channels)
        if lateral:
            self.way_branch = ConvBlock(channels)
        self.out_conv = nn.Conv2d(channels, out, 1)

    def forward(self, image: Tensor, lateral: Tensor | None = None) -> Tensor:
        """``[B, C, H, W]`` (both) to ``[B, D, floor(H * factor), floor(W * factor)]``."""
        if lateral is not None:
            image = image + self.way_branch(lateral)
        # Upstream upsamples before this 1×1 convolution; both are linear and bilinear weights sum to 1, so the order
        # does not change the values, and this one costs a third to a quarter.
        image = self.out_conv(self.way_trunk(image))
        return image if self.scale_factor == 1.0 else resize_by(image, self.scale_factor)


class Fusion(nn.Module):
    """The maps merged from coarse to fine, in upstream's names ``decoder_mono``."""

    def __init__(self, config: RaftConfig) -> None:
        super().__init__()
        _, fine, middle, coarse, coarsest = config.decoder_channels
        self.upconv_3 = FuseBlock(coarsest, coarse, lateral=False)
        self.upconv_2 = FuseBlock(coarse, middle, scale_factor=2.0)
        self.upconv_1 = FuseBlock(middle, fine + 2, scale_factor=1.75)

    def forward(self, maps: Maps) -> tuple[Tensor, Tensor, Tensor]:
        """Features ``[B, C, H, W]`` at the finest map's size, and confidences of depth and normals ``[B, 1, H, W]``."""
        merged = self.upconv_1(self.upconv_2(self.upconv_3(maps.x3), maps.x2), maps.x1)
        features, depth_confidence, normal_confidence = torch.split(merged, [merged.shape[1] - 2, 1, 1], dim=1)
        return features, depth_confidence, normal_confidence
