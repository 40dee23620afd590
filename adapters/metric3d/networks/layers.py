"""Layers both generations share."""

from torch import Tensor, nn


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of ``[B, C, H, W]``."""

    def forward(self, image: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same."""
        return super().forward(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
