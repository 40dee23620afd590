"""Layers shared by backbone, neck and head, and how each folds its normalisation away for inference.

Attribute names are those of the published checkpoints (github.com/tinyvision/DAMO-YOLO at 319572e).
"""

import math
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.damo_yolo.networks.variants import ActivationName

NORM_EPS = 1e-3
NORM_MOMENTUM = 0.03


def activation(name: ActivationName) -> nn.Module:
    return nn.ReLU(inplace=True) if name == "relu" else nn.SiLU(inplace=True)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=NORM_EPS, momentum=NORM_MOMENTUM)


def conv2d(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias whose padding keeps the size at stride 1."""
    return nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)


class EntryConv2d(nn.Conv2d):
    """The network's first convolution: takes images of any dtype and computes in its own.

    The cast stands here rather than in the detector because only here the weight already has the dtype it computes in
    when weights are stored in one precision and raised to another layer by layer.
    """

    takes: ClassVar[tuple[float, float]] = (0.0, 255.0)  # the range of images, see ``loader.quantised``

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.to(self.weight.dtype))


def entry_conv2d(cin: int, cout: int, kernel: int, stride: int) -> EntryConv2d:
    return EntryConv2d(cin, cout, kernel, stride, kernel // 2, bias=False)


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias, in fp32, of the one convolution that equals ``norm(conv(x))`` with running statistics."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a normalisation without running statistics cannot be folded into its convolution")
    scale = norm.weight.float() * torch.rsqrt(norm.running_var.float() + norm.eps)
    bias = norm.bias.float() - norm.running_mean.float() * scale
    return conv.weight.float() * scale.view(-1, 1, 1, 1), bias


@torch.no_grad()
def _rewrite(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    """Give ``conv`` new tensors in its own dtype and memory format.

    New ones: the old weight may be the very tensor of a read-only checkpoint.
    """
    old = conv.weight
    conv.weight = nn.Parameter(torch.empty_like(old).copy_(weight), requires_grad=old.requires_grad)
    conv.bias = nn.Parameter(bias.to(old.dtype), requires_grad=old.requires_grad)


class Foldable(nn.Module):
    """A layer whose normalisations can be folded into the convolutions before them.

    ``conv_norm_pairs`` names them, as paths below the layer; the norm of a folded pair becomes an identity.
    """

    conv_norm_pairs: ClassVar[tuple[tuple[str, str], ...]] = ()

    @torch.no_grad()
    def fold(self) -> None:
        """Fold in place; a second call changes nothing."""
        for conv_path, norm_path in self.conv_norm_pairs:
            norm = self.get_submodule(norm_path)
            if isinstance(norm, nn.BatchNorm2d):
                conv = cast(nn.Conv2d, self.get_submodule(conv_path))
                _rewrite(conv, *_folded(conv, norm))
                self.set_submodule(norm_path, nn.Identity())


class ConvNormAct(Foldable):
    """Convolution, normalisation, activation.

    Here and below, ``activations`` names the convolutions whose results the activation takes once norms are folded:
    it may then be computed with them (``loader.packing``).
    """

    conv_norm_pairs = (("conv", "bn"),)
    activations = (("conv", "act"),)

    def __init__(
        self, cin: int, cout: int, kernel: int, stride: int = 1, *, act: ActivationName, entry: bool = False
    ) -> None:
        super().__init__()
        self.conv = entry_conv2d(cin, cout, kernel, stride) if entry else conv2d(cin, cout, kernel, stride)
        self.bn: nn.Module = batch_norm(cout)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class ConvNorm(Foldable):
    """Convolution and normalisation, as the residual blocks name them."""

    conv_norm_pairs = (("conv1", "bn1"),)

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, *, entry: bool = False) -> None:
        super().__init__()
        self.conv1 = entry_conv2d(cin, cout, kernel, stride) if entry else conv2d(cin, cout, kernel, stride)
        self.bn1: nn.Module = batch_norm(cout)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv1(x))


class NamedConvNormAct(nn.Module):
    """``ConvNorm`` under the name ``conv``, then an activation."""

    activations = (("conv.conv1", "act"),)

    def __init__(
        self, cin: int, cout: int, kernel: int, stride: int, *, act: ActivationName, entry: bool = False
    ) -> None:
        super().__init__()
        self.conv = ConvNorm(cin, cout, kernel, stride, entry=entry)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Focus(nn.Module):
    """Space to depth by two, then convolution, normalisation, activation: [B,3,H,W] -> [B,C,H/2,W/2]."""

    def __init__(self, cin: int, cout: int, *, act: ActivationName) -> None:
        super().__init__()
        self.conv = ConvNormAct(4 * cin, cout, 3, act=act, entry=True)

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = x[..., ::2, :], x[..., 1::2, :]
        # Column by column (the two lefts first): the order the published stem weights expect.
        return self.conv(torch.cat([top[..., ::2], bottom[..., ::2], top[..., 1::2], bottom[..., 1::2]], dim=1))


def _branch(cin: int, cout: int, kernel: int, stride: int) -> nn.Sequential:
    branch = nn.Sequential()
    branch.add_module("conv", conv2d(cin, cout, kernel, stride))
    branch.add_module("bn", batch_norm(cout))
    return branch


class RepConv(Foldable):
    """A 3×3 convolution trained as the sum of a 3×3 and a 1×1 branch (RepVGG, arXiv 2101.03697, no identity branch).

    ``fold`` leaves the one 3×3 convolution with bias that equals both.
    """

    activations = (("rbr_dense", "act"),)

    def __init__(self, cin: int, cout: int, stride: int = 1, *, act: ActivationName | None = None) -> None:
        super().__init__()
        self.rbr_dense: nn.Module = _branch(cin, cout, 3, stride)
        self.rbr_1x1: nn.Module | None = _branch(cin, cout, 1, stride)
        self.act: nn.Module = nn.Identity() if act is None else activation(act)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """Both branches of ``x``, then the activation; ``added`` is summed to them where the layer takes it."""
        y = self.rbr_dense(x) if added is None else self.rbr_dense(x, added)
        if self.rbr_1x1 is not None:
            y = y + self.rbr_1x1(x)
        return self.act(y)

    @property
    def takes_added(self) -> bool:
        """Whether the convolution sums what is handed to it (``loader.packing``)."""
        return bool(getattr(self.rbr_dense, "takes_added", False))

    @torch.no_grad()
    def fold(self) -> None:
        if self.rbr_1x1 is None:
            return
        dense, point = cast(nn.Sequential, self.rbr_dense), cast(nn.Sequential, self.rbr_1x1)
        conv = cast(nn.Conv2d, dense.get_submodule("conv"))
        weight, bias = _folded(conv, cast(nn.BatchNorm2d, dense.get_submodule("bn")))
        weight_1x1, bias_1x1 = _folded(
            cast(nn.Conv2d, point.get_submodule("conv")), cast(nn.BatchNorm2d, point.get_submodule("bn"))
        )
        _rewrite(conv, weight + F.pad(weight_1x1, (1, 1, 1, 1)), bias + bias_1x1)
        self.rbr_dense, self.rbr_1x1 = conv, None


class SpatialPyramidPooling(nn.Module):
    """Concatenation of a half-width map with its 5×5, 9×9 and 13×13 maxima; SiLU whatever the backbone uses."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(cin, cin // 2, 1, act="silu")
        self.conv2 = ConvNormAct(cin // 2 * 4, cout, 1, act="silu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        # Two stride-1 maxima over 5×5 make one over 9×9, three make 13×13: same values, a third of the work.
        x5 = F.max_pool2d(x, 5, 1, 2)
        x9 = F.max_pool2d(x5, 5, 1, 2)
        return self.conv2(torch.cat([x, x5, x9, F.max_pool2d(x9, 5, 1, 2)], dim=1))


class SeparableConv(Foldable):
    """Depthwise then pointwise convolution, each normalised and activated."""

    conv_norm_pairs = (("depthwise", "dwnorm"), ("pointwise", "pwnorm"))
    activations = (("depthwise", "act"), ("pointwise", "act"))

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, *, act: ActivationName) -> None:
        super().__init__()
        self.depthwise = conv2d(cin, cin, kernel, stride, groups=cin)
        self.pointwise = conv2d(cin, cout, 1)
        self.dwnorm: nn.Module = batch_norm(cin)
        self.pwnorm: nn.Module = batch_norm(cout)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.dwnorm(self.depthwise(x)))
        return self.act(self.pwnorm(self.pointwise(x)))


def round_width(width: float) -> int:
    """The multiple of 8 nearest to ``width``, at least 8 and never below 90 % of it."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


class InvertedResidual(Foldable):
    """1×1 expansion, 5×5 depthwise, 1×1 projection (MobileNetV2, arXiv 1801.04381); a shortcut where shapes allow.

    Args:
        expansion: inner width relative to ``cout``.
        squeeze_slot: the published backbone blocks keep a place for squeeze-and-excitation that no variant fills; the
            neck blocks do not. It moves the names of what follows by one.
    """

    def __init__(
        self, cin: int, cout: int, stride: int, *, expansion: float, act: ActivationName, squeeze_slot: bool
    ) -> None:
        super().__init__()
        inner = round_width(math.ceil(cout * expansion))
        layers: list[nn.Module] = [
            conv2d(cin, inner, 1),
            batch_norm(inner),
            activation(act),
            conv2d(inner, inner, 5, stride, groups=inner),
            batch_norm(inner),
            *([nn.Identity()] if squeeze_slot else []),
            activation(act),
            conv2d(inner, cout, 1),
            batch_norm(cout),
        ]
        self.conv = nn.Sequential(*layers)
        self.activations = (("conv.0", "conv.2"), ("conv.3", f"conv.{6 if squeeze_slot else 5}"))
        self.has_shortcut = stride == 1 and cin == cout

    @torch.no_grad()
    def fold(self) -> None:
        for index, norm in enumerate(self.conv):
            if isinstance(norm, nn.BatchNorm2d):
                conv = cast(nn.Conv2d, self.conv[index - 1])
                _rewrite(conv, *_folded(conv, norm))
                self.conv[index] = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + y if self.has_shortcut else y
