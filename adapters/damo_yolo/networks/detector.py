"""The detector: backbone, neck, head."""

from typing import Self

from torch import Tensor, nn

from adapters.damo_yolo.networks.backbone import build_backbone
from adapters.damo_yolo.networks.head import STRIDES, Head, LevelLogits
from adapters.damo_yolo.networks.layers import Foldable
from adapters.damo_yolo.networks.neck import Neck
from adapters.damo_yolo.networks.variants import VariantConfig


class Detector(nn.Module):
    """One DAMO-YOLO variant (github.com/tinyvision/DAMO-YOLO at 319572e, arXiv 2211.15444).

    Images may be of any floating dtype; the convolutions compute in their own, decoding always in fp32.

    Attributes:
        num_classes: columns of the scores.
        reg_max: distances are distributions over 0..reg_max strides.
        strides: network pixels per cell of the three levels.
    """

    strides = STRIDES

    def __init__(self, config: VariantConfig, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.reg_max = config.reg_max
        self.backbone = build_backbone(config)
        self.neck = Neck(config)
        self.head = Head(config, num_classes)

    @property
    def merged(self) -> bool:
        """Whether no normalisation is left, that is, whether ``merge`` was called."""
        return not any(isinstance(module, nn.BatchNorm2d) for module in self.modules())

    def raw(self, images: Tensor) -> tuple[LevelLogits, ...]:
        """Logits of the three levels, before decoding; what a training loss is computed from.

        Args:
            images: [B, 3, H, W] RGB in 0..255, H and W multiples of 32.

        Raises:
            ValueError: images of another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % STRIDES[-1] or images.shape[3] % STRIDES[-1]:
            raise ValueError(
                f"images must be [B, 3, H, W] with H and W multiples of {STRIDES[-1]}, got {list(images.shape)}; "
                "resize them first"
            )
        return self.head(self.neck(*self.backbone(images)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B,3,H,W] RGB in 0..255 -> scores [B,N,C] in 0..1, boxes [B,N,4] xyxy in network pixels, both fp32.

        N counts the cells of all levels, H·W·(1/64 + 1/256 + 1/1024). Boxes are neither suppressed nor clipped.

        Raises:
            ValueError: images of another shape.
        """
        return self.head.decode(self.raw(images))

    def merge(self) -> Self:
        """Fold parallel branches and normalisations into single convolutions, in place; a second call does nothing.

        Sums and products are made in fp32; merge before casting down. Checkpoints load before this only.

        Raises:
            ValueError: the module is in training mode, where a normalisation follows its batch and cannot be folded.
        """
        if self.training:
            raise ValueError("merge() folds running statistics, which training mode does not use; call eval() first")
        for module in list(self.modules()):
            if isinstance(module, Foldable):
                module.fold()
        return self
