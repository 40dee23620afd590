"""TinyNAS backbones: searched stages of residual, cross-stage-partial or inverted residual blocks.

Source: github.com/tinyvision/DAMO-YOLO at 319572e, ``damo/base_models/backbones``; MAE-NAS, arXiv 2111.13336.
"""

import torch
from torch import Tensor, nn

from adapters.damo_yolo.networks.layers import (
    ConvNorm,
    Focus,
    InvertedResidual,
    NamedConvNormAct,
    RepConv,
    SpatialPyramidPooling,
    activation,
)
from adapters.damo_yolo.networks.variants import ActivationName, Stage, VariantConfig

FeatureMaps = tuple[Tensor, Tensor, Tensor]


class ResidualBlock(nn.Module):
    """Bottleneck convolution, re-parameterised 3×3 convolution, shortcut unless strided."""

    activations = (("conv1.conv1", "act"), ("conv2.rbr_dense", "act"))

    def __init__(
        self, cin: int, cout: int, bottleneck: int, stride: int, *, bottleneck_kernel: int, act: ActivationName
    ) -> None:
        super().__init__()
        self.conv1 = ConvNorm(cin, bottleneck, bottleneck_kernel)
        self.conv2 = RepConv(bottleneck, cout, stride)
        self.act = activation(act)
        self.has_shortcut = stride == 1
        self.residual_proj = ConvNorm(cin, cout, 1) if self.has_shortcut and cin != cout else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv1(x))
        if self.has_shortcut and self.conv2.takes_added:
            return self.act(self.conv2(y, self._shortcut(x)))
        y = self.conv2(y)
        if self.has_shortcut:
            y = y + self._shortcut(x)
        return self.act(y)

    def _shortcut(self, x: Tensor) -> Tensor:
        return x if self.residual_proj is None else self.residual_proj(x)


def _residual_blocks(config: VariantConfig, stage: Stage, cin: int) -> list[nn.Module]:
    return [
        ResidualBlock(
            cin if index == 0 else stage.channels,
            stage.channels,
            stage.bottleneck,
            stage.stride if index == 0 else 1,
            bottleneck_kernel=config.bottleneck_kernel,
            act=config.activation,
        )
        for index in range(stage.repeats)
    ]


def _inverted_blocks(config: VariantConfig, stage: Stage, cin: int, position: int) -> list[nn.Module]:
    """Blocks of the stage at ``position`` 1..5; later stages expand more."""
    return [
        InvertedResidual(
            cin if index == 0 else stage.channels,
            stage.channels,
            stage.stride if index == 0 else 1,
            expansion=3.5 + (position - 1) * 0.5,
            act=config.activation,
            squeeze_slot=True,
        )
        for index in range(stage.repeats)
    ]


class BlockStage(nn.Module):
    """Blocks in sequence; the last stage pools spatially right after its first block."""

    def __init__(self, blocks: list[nn.Module], channels: int, *, pooled: bool) -> None:
        super().__init__()
        if pooled:
            blocks = [blocks[0], SpatialPyramidPooling(channels, channels), *blocks[1:]]
        self.block_list = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block_list:
            x = block(x)
        return x


def _stem(config: VariantConfig) -> nn.Module:
    if config.focus_stem:
        return Focus(3, config.stem_channels, act=config.activation)
    return NamedConvNormAct(3, config.stem_channels, 3, 2, act=config.activation, entry=True)


class SequentialBackbone(nn.Module):
    """The residual and mobile families: stem and five stages; outputs of stages 2, 4 and 5 (strides 8, 16, 32)."""

    def __init__(self, config: VariantConfig) -> None:
        super().__init__()
        self.block_list = nn.ModuleList([_stem(config)])
        cin = config.stem_channels
        for position, stage in enumerate(config.stages, start=1):
            if config.family == "mob":
                blocks = _inverted_blocks(config, stage, cin, position)
            else:
                blocks = _residual_blocks(config, stage, cin)
            self.block_list.append(BlockStage(blocks, stage.channels, pooled=position == len(config.stages)))
            cin = stage.channels

    def forward(self, images: Tensor) -> FeatureMaps:
        maps = [images]
        for block in self.block_list:
            maps.append(block(maps[-1]))
        # maps[0] are the images and maps[1] is the stem's, so stage k is at k + 1.
        return maps[3], maps[5], maps[6]


class CrossStage(nn.Module):
    """Downsampling, then half of the channels through the blocks and half around them (CSPNet, arXiv 1911.11929).

    Its own convolutions use ReLU, its blocks what the variant says.
    """

    def __init__(self, cin: int, channels: int, blocks: list[nn.Module], *, pooled: bool) -> None:
        super().__init__()
        half = channels // 2
        self.convstem = nn.ModuleList(blocks)
        self.downsampler = NamedConvNormAct(cin, channels, 3, 2, act="relu")
        self.spp = SpatialPyramidPooling(channels, channels) if pooled else nn.Identity()
        self.conv_start = NamedConvNormAct(channels, half, 1, 1, act="relu")
        self.conv_shortcut = NamedConvNormAct(channels, half, 1, 1, act="relu")
        self.conv_fuse = NamedConvNormAct(channels, channels, 1, 1, act="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.spp(self.downsampler(x))
        y = self.conv_start(x)
        for block in self.convstem:
            y = block(y)
        return self.conv_fuse(torch.cat([y, self.conv_shortcut(x)], dim=1))


def _inner_blocks(config: VariantConfig, stage: Stage) -> list[nn.Module]:
    """Half-width blocks of a cross-stage; the downsampler stands in for the first block of a strided stage."""
    half = stage.channels // 2
    inner = Stage(half, stage.bottleneck, stage.repeats - (1 if stage.stride == 2 else 0), stride=1)
    return _residual_blocks(config, inner, half)


class CrossStageBackbone(nn.Module):
    """The cross-stage family: stem and four cross-stages, the third made of searched stages 3 and 4.

    Outputs are those of the last three (strides 8, 16, 32).
    """

    def __init__(self, config: VariantConfig) -> None:
        super().__init__()
        self.csp_stage = nn.ModuleList([_stem(config)])
        first, second, third, fourth, fifth = config.stages
        cin = config.stem_channels
        for group in ((first,), (second,), (third, fourth), (fifth,)):
            channels = group[-1].channels
            blocks = [block for stage in group for block in _inner_blocks(config, stage)]
            self.csp_stage.append(CrossStage(cin, channels, blocks, pooled=group[-1] is fifth))
            cin = channels

    def forward(self, images: Tensor) -> FeatureMaps:
        maps = [images]
        for stage in self.csp_stage:
            maps.append(stage(maps[-1]))
        return maps[3], maps[4], maps[5]


def build_backbone(config: VariantConfig) -> nn.Module:
    """Images [B,3,H,W] in 0..255 -> three maps at strides 8, 16 and 32 with ``config.neck_in`` channels."""
    return CrossStageBackbone(config) if config.family == "csp" else SequentialBackbone(config)
