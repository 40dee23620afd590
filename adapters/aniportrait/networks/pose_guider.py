"""The pose guider: pictures of the drawn face mesh to feature maps for each level of the denoising UNet.

Implements ``src/models/pose_guider.py`` of Zejun-Yang/AniPortrait (commit 7f6593f), without the second input: its
"cross" attentions are built without a context, so that the reference pose has no effect on any output.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from adapters.aniportrait.networks.config import check_settings
from adapters.aniportrait.networks.layers import EntryConv2d, batch_to_frames, frames_to_batch
from adapters.aniportrait.networks.spatial import SpatialTransformer

HEADS, HEAD_WIDTH = 16, 88


class PoseFeatures(NamedTuple):
    """Maps ``[1, C, F, h, w]`` at 1/8, 1/16, 1/32, 1/64 and 1/64 of the pictures' sides."""

    at8: Tensor
    at16: Tensor
    at32: Tensor
    at64: Tensor
    middle: Tensor


class PoseNorm(nn.BatchNorm2d):
    """Batch norm that uses either the stored statistics or those of the call, and never changes the stored ones."""

    of_the_call = True

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, h, w]`` to the same.

        Raises:
            ValueError: a single value per channel has no statistics.
        """
        if not self.of_the_call:
            return super().forward(x)
        if x.numel() // x.shape[1] < 2:
            raise ValueError(
                "the pose guider needs more than one value per channel for its batch statistics: "
                "use a larger picture, more frames, or faithful=False"
            )
        # By hand and in fp32: torch's own batch norm loses three digits on channels_last input on CPUs.
        variance, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0, keepdim=True)
        gain = self.weight.float()[:, None, None] * torch.rsqrt(variance + self.eps)
        return ((x.float() - mean) * gain + self.bias.float()[:, None, None]).to(x.dtype)


def _convolutions(layers: list[nn.Conv2d]) -> nn.Sequential:
    return nn.Sequential(*(part for conv in layers for part in (conv, PoseNorm(conv.out_channels), nn.ReLU())))


def _step(inputs: int, outputs: int, *, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


def _stem() -> nn.Sequential:
    layers: list[nn.Conv2d] = [EntryConv2d(3, 3, 3, padding=1), nn.Conv2d(3, 16, 4, stride=2, padding=1)]
    for width in (16, 32):
        layers += [_step(width, width, stride=1), nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)]
    return _convolutions([*layers, _step(64, 64, stride=1), _step(64, 128, stride=1)])


class PoseGuider(nn.Module):
    """Convolutions, and a self-attention transformer after each level.

    Attributes:
        faithful: batch norms use the statistics of the call, as upstream's inference does, whose weights were trained
            and are published for it; False for the stored statistics, which do not depend on the other frames.
    """

    def __init__(self, channels: int, *, attention: bool) -> None:
        super().__init__()
        self.attention = attention
        self.conv_layers = _stem()
        self.final_proj = nn.Conv2d(128, channels, 1)
        self.scale = nn.Parameter(torch.full((1,), 2.0))
        for index, (inputs, outputs) in enumerate(((1, 1), (1, 2), (2, 4)), start=1):
            pair = [
                _step(inputs * channels, inputs * channels, stride=1),
                _step(inputs * channels, outputs * channels, stride=2),
            ]
            self.add_module(f"conv_layers_{index}", _convolutions(pair))
        self.conv_layers_4 = _convolutions([_step(4 * channels, 4 * channels, stride=1)])
        for index, width in enumerate((1, 2, 4, 4), start=1):
            if attention:
                self.add_module(f"cross_attn{index}", SpatialTransformer(width * channels, HEADS, HEAD_WIDTH))
        self.faithful = True

    @property
    def faithful(self) -> bool:
        """Whether the batch norms use the statistics of the call."""
        return self._faithful

    @faithful.setter
    def faithful(self, value: bool) -> None:
        self._faithful = value
        for module in self.modules():
            if isinstance(module, PoseNorm):
                module.of_the_call = value

    def forward(self, pose: Tensor) -> PoseFeatures:
        """Feature maps of a clip of pose pictures.

        Args:
            pose: ``[B, 3, F, H, W]``, channels in the order the meshes are drawn in (BGR). Upstream's inference feeds
                2*v-1 of the byte values v, -1..509; meant for the stored statistics is 2*v/255-1, -1..1.

        Raises:
            ValueError: no such tensor, or too small for statistics of its own.
        """
        if pose.ndim != 5 or pose.shape[1] != 3:
            raise ValueError(f"pose must be [B, 3, F, H, W], got {list(pose.shape)}")
        frames = pose.shape[2]
        x = self.final_proj(self.conv_layers(frames_to_batch(pose).contiguous()))
        x = x * self.scale.to(x.dtype)
        maps = [x]
        for index in range(1, 5):
            x = self.get_submodule(f"conv_layers_{index}")(x)
            if self.attention:
                x = self.get_submodule(f"cross_attn{index}")(x)
            maps.append(x)
        return PoseFeatures(*(batch_to_frames(level, frames) for level in maps))


def build_pose_guider(overrides: Mapping[str, Any]) -> PoseGuider:
    """The published network with some settings changed.

    Raises:
        ValueError: a setting that does not exist.
    """
    check_settings(overrides, known=("noise_latent_channels", "use_ca"), fixed={}, what="pose_guider")
    return PoseGuider(overrides.get("noise_latent_channels", 320), attention=overrides.get("use_ca", True))
