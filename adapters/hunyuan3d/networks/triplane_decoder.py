"""Triplane decoder: features sampled from three planes, and a two-layer network to distance and colour.

Implements ``svrm/ldm/modules/rendering_neus/{synthesizer,utils/renderer}.py`` of Tencent/Hunyuan3D-1 (commit af913e6)
without its volume renderer, after Chan et al., "Efficient Geometry-aware 3D Generative Adversarial Networks" (2022).
Tensor names are the published ones.
"""

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BOX = 1.2
"""Side of the cube the planes cover, centred on the origin; outside it the features are zero."""
HIDDEN = 64
COLOUR_MARGIN = 0.001
PLANE_AXES = ((0, 1), (0, 2), (2, 1))
"""For each plane, the coordinate that runs along its width and the one along its height."""


@dataclass(frozen=True)
class TriplaneDecoderConfig:
    """Settings of the decoder; the defaults are those of the published file.

    Attributes:
        triplane_dim: channels of a plane.
        samples_per_ray: belongs to upstream's volume renderer; accepted, without effect on points.
    """

    triplane_dim: int = 120
    samples_per_ray: int = 128


class Field(NamedTuple):
    """What the decoder knows of points.

    Attributes:
        sdf: ``[B, P, 1]`` signed distance, positive outside.
        rgb: ``[B, P, 3]`` colour, -0.001 .. 1.001.
    """

    sdf: Tensor
    rgb: Tensor


class PointDecoder(nn.Module):
    """The two layers; always computed in fp32, whatever the weights are stored in."""

    packs = False  # a grid is decoded with their weights, plane by plane

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3 * channels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1 + 3))

    def layers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """First weight ``[64, 3 C]`` and bias ``[64]``, second weight ``[4, 64]`` and bias ``[4]``, in fp32."""
        first, second = cast(nn.Linear, self.net[0]), cast(nn.Linear, self.net[2])
        return first.weight.float(), first.bias.float(), second.weight.float(), second.bias.float()

    def forward(self, features: Tensor) -> Field:
        """``features [B, P, 3 C]``, plane after plane, to distances and colours."""
        weight1, bias1, weight2, bias2 = self.layers()
        out = F.linear(F.linear(features, weight1, bias1).relu(), weight2, bias2)
        return Field(out[..., :1], torch.sigmoid(out[..., 1:]) * (1 + 2 * COLOUR_MARGIN) - COLOUR_MARGIN)


class _RayMarcher(nn.Module):
    """Holds the one tensor of upstream's volume renderer, which no mesh needs, under its published name."""

    def __init__(self) -> None:
        super().__init__()
        self.variance = nn.Module()
        self.variance.register_parameter("_inv_std", nn.Parameter(torch.tensor(0.3)))


def sample_plane(plane: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Bilinear features of a plane, zero outside it, in fp32.

    Args:
        plane: ``[B, C, H, W]``.
        across: ``[B, ...]`` coordinates along the width, in the units of the box (-0.6 .. 0.6).
        down: ``[B, ...]`` coordinates along the height.

    Returns:
        ``[B, ..., C]``.
    """
    where = torch.stack((across, down), dim=-1).float() * (2 / BOX)
    grid = where.flatten(1, -2).unsqueeze(1)
    sampled = F.grid_sample(plane.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled.squeeze(2).transpose(1, 2).unflatten(1, across.shape[1:])


class TriplaneDecoder(nn.Module):
    """Signed distance and colour of points.

    ``module(planes [B, 3, C, H, W], points [B, P, 3]) -> Field(sdf [B, P, 1], rgb [B, P, 3])``; points in the units of
    the box. Sampling and layers run in fp32 and the results are fp32: rounding moves the surface.
    """

    published_name = "render"
    component = "triplane_decoder"

    def __init__(self, config: TriplaneDecoderConfig) -> None:
        super().__init__()
        self.decoder = PointDecoder(config.triplane_dim)
        self.renderer = nn.Module()
        self.renderer.add_module("ray_marcher", _RayMarcher())

    @staticmethod
    def features(planes: Tensor, points: Tensor) -> Tensor:
        """Plane samples ``[B, 3, P, C]`` of ``points [B, P, 3]``."""
        return torch.stack(
            [
                sample_plane(planes[:, index], points[..., across], points[..., down])
                for index, (across, down) in enumerate(PLANE_AXES)
            ],
            dim=1,
        )

    def forward(self, planes: Tensor, points: Tensor) -> Field:
        features = self.features(planes, points)
        return self.decoder(features.transpose(1, 2).flatten(2))
