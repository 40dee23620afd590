"""Where a network's precision is decided: which numbers are fp32 whatever the module was cast to.

Resizing, depth bins and the refined state carry distances: bf16's eight bits step by half a metre at 100 m. They are
functions here, without weights, and always fp32. Heads that feed them keep their weights in the dtype they were cast
to, so that a plan may leave some of them fp32 in an otherwise 16-bit network.
"""

from torch import Tensor, float32, nn, promote_types
from torch.nn import functional as F


def working_dtype_cast(tensor: Tensor, module: nn.Module) -> Tensor:
    """``tensor`` in the wider of its own dtype and that of ``module``'s weights.

    Only ever widens: a module whose weights are stored narrow and widened while it runs still gets what it computes in.
    """
    return tensor.to(promote_types(tensor.dtype, next(module.parameters()).dtype))


class Head(nn.Sequential):
    """Layers that may be held in fp32 while their surroundings are not: takes any dtype, answers in fp32."""

    def forward(self, features: Tensor) -> Tensor:
        """``[B, C, H, W]`` of a dtype no wider than the weights' to fp32 ``[B, D, H', W']``."""
        return super().forward(working_dtype_cast(features, self)).to(float32)


def resize_to(image: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Bilinear resize to ``size``, computed in fp32.

    Args:
        image: ``[B, C, H, W]`` of any floating dtype.
        size: height and width of the result.
        align_corners: whether the centres of the corner pixels coincide, or the pixels' outer edges.

    Returns:
        ``[B, C, *size]`` in the dtype of ``image``.
    """
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image.float(), size=size, mode="bilinear", align_corners=align_corners).to(image.dtype)


def resize_by(image: Tensor, factor: float) -> Tensor:
    """Bilinear resize by ``factor`` with the corner pixels' centres aligned, computed in fp32.

    ``[B, C, H, W]`` to ``[B, C, floor(H * factor), floor(W * factor)]`` in the dtype of ``image``.
    """
    return F.interpolate(image.float(), scale_factor=factor, mode="bilinear", align_corners=True).to(image.dtype)
