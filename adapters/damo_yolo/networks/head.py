"""ZeroHead: one convolution for classes and one for box distances per level, and the decoding of both.

Source: github.com/tinyvision/DAMO-YOLO at 319572e, ``damo/base_models/heads``; box distances as distributions:
Generalized Focal Loss, arXiv 2006.04388.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from adapters.damo_yolo.networks.backbone import FeatureMaps
from adapters.damo_yolo.networks.variants import VariantConfig

STRIDES = (8, 16, 32)
CLASS_PRIOR = 0.01


class LevelLogits(NamedTuple):
    """What the head predicts at one level, before any decoding; both fp32.

    Attributes:
        classes: [B, C, h, w] logits; the sigmoid is the score.
        bins: [B, 4·(reg_max+1), h, w] logits, side-major (left, top, right, bottom): their softmax over the reg_max+1
            bins is the distribution of the distance from prior to side, in strides.
    """

    classes: Tensor
    bins: Tensor


class Priors(NamedTuple):
    """Where each prediction is measured from: the top-left corners of the cells, level by level, row by row.

    Attributes:
        points: [N, 2] x, y in network pixels.
        strides: [N, 1] network pixels per cell.
    """

    points: Tensor
    strides: Tensor


def make_priors(sizes: Sequence[tuple[int, int]], strides: Sequence[int] = STRIDES, *, device: torch.device) -> Priors:
    """Priors (fp32) of feature maps of the given (height, width), one per stride."""
    points, per_point = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        y = torch.arange(height, device=device, dtype=torch.float32) * stride
        x = torch.arange(width, device=device, dtype=torch.float32) * stride
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack([grid_x, grid_y], dim=-1).view(-1, 2))
        per_point.append(torch.full((height * width, 1), float(stride), device=device, dtype=torch.float32))
    return Priors(torch.cat(points), torch.cat(per_point))


def distances_to_boxes(points: Tensor, distances: Tensor) -> Tensor:
    """Points [N,2] and distances [...,N,4] to left, top, right, bottom, both px -> boxes [...,N,4] xyxy px."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


class Scale(nn.Module):
    """A learned factor; multiplies in fp32 whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return x.float() * self.scale.float()


class Integral(nn.Module):
    """Expected distance under the predicted distribution: bins [B, 4·(reg_max+1), h, w] -> [B, h·w, 4] in strides.

    Computes in fp32 whatever it is given: one bf16 step of a distance of 16 strides is two pixels at stride 32.
    """

    project: Tensor

    def __init__(self, reg_max: int) -> None:
        super().__init__()
        self.register_buffer("project", torch.linspace(0, reg_max, reg_max + 1))

    def forward(self, bins: Tensor) -> Tensor:
        batch, _, height, width = bins.shape
        per_side = bins.float().reshape(batch, 4, -1, height * width)
        return torch.einsum("bkrn,r->bnk", per_side.softmax(dim=2), self.project.float())


class Head(nn.Module):
    """Maps at strides 8, 16, 32 -> per-level logits (``forward``) -> scores and boxes (``decode``)."""

    def __init__(self, config: VariantConfig, num_classes: int) -> None:
        super().__init__()
        kernel = config.head_kernel
        bins = 4 * (config.reg_max + 1)
        self.integral = Integral(config.reg_max)
        self.gfl_cls = nn.ModuleList(
            [nn.Conv2d(channels, num_classes, kernel, padding=kernel // 2) for channels in config.neck_out]
        )
        self.gfl_reg = nn.ModuleList(
            [nn.Conv2d(channels, bins, kernel, padding=kernel // 2) for channels in config.neck_out]
        )
        self.scales = nn.ModuleList([Scale() for _ in STRIDES])
        self._initialise()

    def _initialise(self) -> None:
        """Small weights, and every class at probability ``CLASS_PRIOR`` (focal loss, arXiv 1708.02002).

        Training then does not start by unlearning thousands of false objects.
        """
        for layers, bias in ((self.gfl_cls, -math.log((1 - CLASS_PRIOR) / CLASS_PRIOR)), (self.gfl_reg, 0.0)):
            for conv in layers:
                nn.init.normal_(cast(Tensor, conv.weight), std=0.01)
                nn.init.constant_(cast(Tensor, conv.bias), bias)

    def forward(self, maps: FeatureMaps) -> tuple[LevelLogits, ...]:
        return tuple(
            LevelLogits(classes(x).float(), scale(distances(x)))
            for x, classes, distances, scale in zip(maps, self.gfl_cls, self.gfl_reg, self.scales, strict=True)
        )

    def decode(self, levels: Sequence[LevelLogits]) -> tuple[Tensor, Tensor]:
        """Scores [B,N,C] in 0..1 and boxes [B,N,4] xyxy in network pixels, both fp32.

        The priors are made anew from the maps of each call, so any batch, size and aspect may follow any other.
        """
        sizes = [(level.bins.shape[-2], level.bins.shape[-1]) for level in levels]
        priors = make_priors(sizes, device=levels[0].bins.device)
        scores = torch.cat([level.classes.flatten(2).transpose(1, 2) for level in levels], dim=1).float().sigmoid()
        distances = torch.cat([self.integral(level.bins) for level in levels], dim=1) * priors.strides
        return scores, distances_to_boxes(priors.points, distances)
