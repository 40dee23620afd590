"""The decoder of the first generation: an hourglass, depth bins at a quarter of the resolution, and a residual.

Sources: "Metric3D", arXiv 2307.10984; github.com/YvanYin/Metric3D at eb5b6fa,
``mono/model/decode_heads/HourGlassDecoder.py``, whose tensor names these modules carry.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.metric3d.networks.config import ConvNextVariant
from adapters.metric3d.networks.depth import expected_depth
from adapters.metric3d.networks.precision import Head, working_dtype_cast

DEPTH_BINS = 512
FEATURES = 256
RESIDUAL_CHANNELS = 16
RESIDUAL_SCALE = 0.1
UPSAMPLE = 4


def _convolution(channels: int, out: int, kernel: int) -> nn.Module:
    if kernel == 1:
        return nn.Conv2d(channels, out, 1)
    return nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(channels, out, 3))


class EluConv(nn.Module):
    """A 1×1 or a reflecting 3×3 convolution and ELU."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv = _convolution(channels, out, kernel)

    def forward(self, image: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, D, H, W]``."""
        return F.elu(self.conv(image))


class EluConvPair(EluConv):
    """``EluConv`` followed by a 1×1 convolution and ELU."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__(channels, out, kernel)
        self.conv_2 = nn.Conv2d(out, out, 1)

    def forward(self, image: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, D, H, W]``."""
        return F.elu(self.conv_2(super().forward(image)))


class Fusion(nn.Module):
    """The encoder's maps merged from coarse to fine, in upstream's names ``decoder_mono``."""

    def __init__(self, encoder: Sequence[int], decoder: Sequence[int]) -> None:
        super().__init__()
        self.upconv_3_0 = EluConv(encoder[3], decoder[3], kernel=1)
        self.upconv_3_1 = EluConvPair(decoder[3] + encoder[2], decoder[3], kernel=1)
        self.upconv_2_0 = EluConv(decoder[3], decoder[2], kernel=3)
        self.upconv_2_1 = EluConvPair(decoder[2] + encoder[1], decoder[2], kernel=3)
        self.upconv_1_0 = EluConv(decoder[2], decoder[1], kernel=3)
        self.upconv_1_1 = EluConvPair(decoder[1] + encoder[0], decoder[1], kernel=3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Four maps, finest first, to ``[B, C, H, W]`` at the finest one's size."""
        image = self.upconv_3_1(_upsampled_beside(self.upconv_3_0(maps[3]), maps[2]))
        image = self.upconv_2_1(_upsampled_beside(self.upconv_2_0(image), maps[1]))
        return self.upconv_1_1(_upsampled_beside(self.upconv_1_0(image), maps[0]))


def _upsampled_beside(image: Tensor, finer: Tensor) -> Tensor:
    return torch.cat([F.interpolate(image, scale_factor=2.0, mode="nearest"), finer], dim=1)


class ConvBnRelu(nn.Module):
    """A 3×3 convolution without bias, batch norm and ReLU."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, image: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, D, H / stride, W / stride]``."""
        return F.relu(self.bn(self.conv(image)))


def _halving(channels: int) -> nn.Module:
    return nn.Sequential(ConvBnRelu(channels, channels // 2, stride=2), ConvBnRelu(channels // 2, channels // 2))


def _doubling(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(channels // 2, channels, 3, stride=2, padding=1, output_padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Three halvings and back, skips added; sides must be multiples of 8."""

    def __init__(self, channels: int, out: int, width: int = 128) -> None:
        super().__init__()
        self.conv0 = ConvBnRelu(channels, width)
        self.conv_0 = _halving(width)
        self.conv_1 = _halving(width // 2)
        self.conv_2 = _halving(width // 4)
        self.deconv_2 = _doubling(width // 4)
        self.deconv_1 = _doubling(width // 2)
        self.deconv_0 = _doubling(width)
        self.prob = nn.Conv2d(width, out, 1)

    def forward(self, image: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, D, H, W]``."""
        full = self.conv0(image)
        half = self.conv_0(full)
        quarter = self.conv_1(half)
        quarter = quarter + self.deconv_2(self.conv_2(quarter))
        half = half + self.deconv_1(quarter)
        return self.prob(full + self.deconv_0(half))


class HourglassDecoder(nn.Module):
    """Four maps to depth and its confidence."""

    def __init__(self, config: ConvNextVariant) -> None:
        super().__init__()
        self.limits = config.depth_normalize
        self.decoder_mono = Fusion(config.dims, config.decoder_channel)
        self.conv_out_2 = UNet(config.decoder_channel[1], FEATURES + 1)
        self.depth_regressor_2 = Head(
            nn.Conv2d(FEATURES, DEPTH_BINS, 3, padding=1),
            nn.BatchNorm2d(DEPTH_BINS),
            nn.ReLU(),
            nn.Conv2d(DEPTH_BINS, DEPTH_BINS, 1),
        )
        self.conv_up_2 = Head(
            nn.Conv2d(1 + 2 + FEATURES, RESIDUAL_CHANNELS, 3, padding=1),
            nn.BatchNorm2d(RESIDUAL_CHANNELS),
            nn.ReLU(),
            nn.Conv2d(RESIDUAL_CHANNELS, RESIDUAL_CHANNELS, 3, padding=1),
            nn.Upsample(scale_factor=UPSAMPLE),
            nn.Conv2d(RESIDUAL_CHANNELS, RESIDUAL_CHANNELS, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(RESIDUAL_CHANNELS, 1, 1),
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Decode.

        Args:
            maps: the encoder's, finest first, the finest ``[B, C, h, w]`` with sides in multiples of 8.

        Returns:
            fp32 depth ``[B, 1, 4h, 4w]`` in canonical metres (*not* clamped: the residual may leave the bins' range)
            and confidence ``[B, 1, 4h, 4w]`` (unbounded, higher where surer).
        """
        merged = self.conv_out_2(self.decoder_mono([working_dtype_cast(image, self) for image in maps]))
        features, confidence = merged[:, :-1], merged[:, -1:].float()
        depth = expected_depth(self.depth_regressor_2(features), self.limits)
        residual = self.conv_up_2(self._with_depth_and_place(features, depth))
        return _enlarged(depth) + RESIDUAL_SCALE * residual, _enlarged(confidence)

    def _with_depth_and_place(self, features: Tensor, depth: Tensor) -> Tensor:
        """``features`` behind the depth and each pixel's column and row, as wide as ``conv_up_2`` can take them."""
        features = working_dtype_cast(features, self.conv_up_2)
        height, width = features.shape[-2:]
        columns = torch.arange(width, device=depth.device, dtype=features.dtype).expand_as(depth)
        rows = torch.arange(height, device=depth.device, dtype=features.dtype)[:, None].expand_as(depth)
        return torch.cat([depth.to(features.dtype), columns, rows, features], dim=1)


def _enlarged(image: Tensor) -> Tensor:
    return F.interpolate(image, scale_factor=float(UPSAMPLE), mode="nearest")
