"""Layers both generations share."""

from torch import Tensor, nn


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of ``[B, C, H, W]``."""

    def forward(self, image: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same."""
        return super().forward(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PictureConv(nn.Conv2d):
    """A first convolution: takes pictures of any floating dtype.

    The cast is the layer's own, after whatever widened its weights for this call: outside, weights that are stored
    narrower than they compute would narrow the picture too.
    """

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` of any floating dtype to ``[B, C, H', W']`` of the weights'."""
        return super().forward(images.to(self.weight.dtype))
