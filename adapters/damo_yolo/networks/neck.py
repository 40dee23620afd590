"""Efficient RepGFPN: the neck that mixes the three backbone maps both ways.

Source: github.com/tinyvision/DAMO-YOLO at 319572e, ``damo/base_models/necks``; arXiv 2211.15444, section 2.2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.damo_yolo.networks.backbone import FeatureMaps
from adapters.damo_yolo.networks.layers import ConvNormAct, InvertedResidual, RepConv, SeparableConv
from adapters.damo_yolo.networks.variants import ActivationName, VariantConfig


class ReverseBlock(nn.Module):
    """Re-parameterised 3×3 then plain 3×3 convolution around a shortcut. The second to run is the one called conv1."""

    def __init__(self, channels: int, hidden_ratio: float, *, act: ActivationName) -> None:
        super().__init__()
        hidden = int(channels * hidden_ratio)
        self.conv1 = ConvNormAct(hidden, channels, 3, act=act)
        self.conv2 = RepConv(channels, hidden, act=act)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv1(self.conv2(x))


class MobileBlock(nn.Module):
    """The mobile variants' block: an inverted residual under the name ``conv``."""

    def __init__(self, channels: int, *, act: ActivationName) -> None:
        super().__init__()
        self.conv = InvertedResidual(channels, channels, 1, expansion=3.0, act=act, squeeze_slot=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class MergeStage(nn.Module):
    """Cross-stage fusion of concatenated maps: the output of every block is kept and concatenated."""

    def __init__(self, cin: int, cout: int, config: VariantConfig) -> None:
        super().__init__()
        act = config.activation
        first = cout // 2
        channels = cout - first
        self.conv1 = ConvNormAct(cin, first, 1, act=act)
        self.conv2 = ConvNormAct(cin, channels, 1, act=act)
        self.convs = nn.Sequential(
            *(
                MobileBlock(channels, act=act)
                if config.family == "mob"
                else ReverseBlock(channels, config.hidden_ratio, act=act)
                for _ in range(config.merge_blocks)
            )
        )
        self.conv3 = ConvNormAct(first + channels * config.merge_blocks, cout, 1, act=act)

    def forward(self, *maps: Tensor) -> Tensor:
        x = torch.cat(maps, dim=1)
        kept = [self.conv1(x)]
        y = self.conv2(x)
        for block in self.convs:
            y = block(y)
            kept.append(y)
        return self.conv3(torch.cat(kept, dim=1))


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Neck(nn.Module):
    """Maps at strides 8, 16, 32 with ``config.neck_in`` channels -> the same sizes with ``config.neck_out``."""

    def __init__(self, config: VariantConfig) -> None:
        super().__init__()
        fine, middle, coarse = config.neck_in
        out_fine, out_middle, out_coarse = config.neck_out

        def down(channels: int) -> nn.Module:
            layer = SeparableConv if config.family == "mob" else ConvNormAct
            return layer(channels, channels, 3, 2, act=config.activation)

        self.bu_conv13 = down(middle)
        self.merge_3 = MergeStage(coarse + middle, coarse, config)
        self.bu_conv24 = down(fine)
        self.merge_4 = MergeStage(middle + fine + coarse, middle, config)
        self.merge_5 = MergeStage(fine + middle, out_fine, config)
        self.bu_conv57 = down(out_fine)
        self.merge_7 = MergeStage(middle + out_fine, out_middle, config)
        self.bu_conv46 = down(middle)
        self.bu_conv76 = down(out_middle)
        self.merge_6 = MergeStage(coarse + middle + out_middle, out_coarse, config)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> FeatureMaps:
        node3 = self.merge_3(coarse, self.bu_conv13(middle))
        node4 = self.merge_4(middle, self.bu_conv24(fine), _upsample(node3))
        node5 = self.merge_5(fine, _upsample(node4))
        node7 = self.merge_7(node4, self.bu_conv57(node5))
        node6 = self.merge_6(node3, self.bu_conv46(node4), self.bu_conv76(node7))
        return node5, node7, node6
