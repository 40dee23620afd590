"""The eight published variants as data: searched backbone stages, neck widths, head settings.

Source: github.com/tinyvision/DAMO-YOLO at 319572e, ``configs/`` and ``damo/base_models/backbones/nas_backbones/``;
paper: "DAMO-YOLO: A Report on Real-Time Object Detection Design", arXiv 2211.15444.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Family = Literal["res", "csp", "mob"]
ActivationName = Literal["relu", "silu"]
Widths = tuple[int, int, int]


@dataclass(frozen=True)
class Stage:
    """One entry of a searched backbone.

    Attributes:
        channels: output channels.
        bottleneck: channels between the two convolutions of a residual block; unused by inverted residuals.
        repeats: number of blocks.
        stride: 1 or 2, applied by the first block.
    """

    channels: int
    bottleneck: int
    repeats: int
    stride: int


@dataclass(frozen=True)
class VariantConfig:
    """All that distinguishes one variant from another.

    Attributes:
        family: plain residual, cross-stage-partial or mobile (inverted residual) blocks.
        stem_channels: output channels of the stem.
        focus_stem: space-to-depth stem instead of a strided convolution.
        bottleneck_kernel: kernel of the first convolution of a residual block.
        stages: the five stages after the stem.
        activation: activation of backbone and neck.
        neck_in: channels of the three backbone outputs, finest first.
        neck_out: channels of the three neck outputs, finest first.
        merge_blocks: blocks in every merging stage of the neck.
        hidden_ratio: inner width of a neck block relative to its outer width.
        reg_max: distances to the box sides are distributions over 0..reg_max strides.
        head_kernel: kernel of the prediction convolutions.
    """

    family: Family
    stem_channels: int
    focus_stem: bool
    bottleneck_kernel: int
    stages: tuple[Stage, Stage, Stage, Stage, Stage]
    activation: ActivationName
    neck_in: Widths
    neck_out: Widths
    merge_blocks: int
    hidden_ratio: float
    reg_max: int = 16
    head_kernel: int = 3


def _mobile(
    stem: int, stages: tuple[tuple[int, int], ...], neck_in: Widths, neck_out: Widths, *, focus: bool = False
) -> VariantConfig:
    """A mobile variant from (channels, repeats) of its stages; strides are 2, 2, 2, 1, 2 in all of them."""
    a, b, c, d, e = (Stage(ch, 0, n, stride) for (ch, n), stride in zip(stages, (2, 2, 2, 1, 2), strict=True))
    return VariantConfig(
        family="mob",
        stem_channels=stem,
        focus_stem=focus,
        bottleneck_kernel=1,
        stages=(a, b, c, d, e),
        activation="silu",
        neck_in=neck_in,
        neck_out=neck_out,
        merge_blocks=2,
        hidden_ratio=0.5,
        reg_max=7,
        head_kernel=3 if focus else 1,
    )


VARIANTS: Mapping[str, VariantConfig] = MappingProxyType(
    {
        "T": VariantConfig(
            family="res",
            stem_channels=24,
            focus_stem=True,
            bottleneck_kernel=1,
            stages=(
                Stage(64, 24, 2, 2),
                Stage(96, 64, 2, 2),
                Stage(192, 96, 2, 2),
                Stage(192, 152, 2, 1),
                Stage(384, 192, 1, 2),
            ),
            activation="relu",
            neck_in=(96, 192, 384),
            neck_out=(64, 128, 256),
            merge_blocks=3,
            hidden_ratio=1.0,
        ),
        "S": VariantConfig(
            family="res",
            stem_channels=32,
            focus_stem=True,
            bottleneck_kernel=1,
            stages=(
                Stage(128, 24, 1, 2),
                Stage(128, 88, 5, 2),
                Stage(256, 128, 3, 2),
                Stage(256, 120, 2, 1),
                Stage(512, 144, 1, 2),
            ),
            activation="relu",
            neck_in=(128, 256, 512),
            neck_out=(128, 256, 512),
            merge_blocks=3,
            hidden_ratio=0.75,
        ),
        "M": VariantConfig(
            family="csp",
            stem_channels=32,
            focus_stem=True,
            bottleneck_kernel=3,
            stages=(
                Stage(128, 64, 2, 2),
                Stage(128, 64, 4, 2),
                Stage(256, 256, 4, 2),
                Stage(256, 256, 4, 1),
                Stage(512, 256, 3, 2),
            ),
            activation="silu",
            neck_in=(128, 256, 512),
            neck_out=(128, 256, 512),
            merge_blocks=4,
            hidden_ratio=1.0,
        ),
        "L": VariantConfig(
            family="csp",
            stem_channels=32,
            focus_stem=True,
            bottleneck_kernel=3,
            stages=(
                Stage(128, 96, 3, 2),
                Stage(128, 96, 5, 2),
                Stage(256, 384, 5, 2),
                Stage(256, 384, 5, 1),
                Stage(512, 384, 4, 2),
            ),
            activation="silu",
            neck_in=(128, 256, 512),
            neck_out=(128, 256, 512),
            merge_blocks=6,
            hidden_ratio=1.0,
        ),
        "N": _mobile(
            16,
            ((40, 2), (80, 2), (112, 2), (112, 2), (160, 1)),
            (80, 112, 160),
            (64, 128, 256),
            focus=True,
        ),
        "Ns": _mobile(16, ((24, 1), (40, 2), (64, 2), (80, 2), (160, 2)), (40, 80, 160), (40, 80, 160)),
        "Nm": _mobile(16, ((40, 2), (64, 2), (112, 2), (128, 2), (256, 1)), (64, 128, 256), (64, 128, 256)),
        "Nl": _mobile(24, ((48, 1), (80, 2), (160, 2), (160, 3), (320, 2)), (80, 160, 320), (80, 160, 320)),
    }
)
