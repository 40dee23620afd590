"""Where in the picture the face may act: one mask in pixels, resized to what each layer works on.

Source: InstantID/InstantID @ 2145b67 ("enhance non-face region"), where the sizes are a fixed list and the mask is
shared by the whole process; here sizes follow the layers and the mask belongs to a call.
"""

import torch.nn.functional as F
from torch import Tensor

LATENT_SIDE = 8  # pixels of a latent's side
LEVELS = 3  # resolutions of an SDXL denoiser


def attention_masks(region: Tensor, levels: int = LEVELS) -> dict[int, Tensor]:
    """The region at each resolution of the denoiser, for its ``face_masks``.

    Args:
        region: ``[H, W]``, 0 to 1; H and W multiples of 8 pixels.
        levels: number of resolutions, each half of the one before, rounded up as the denoiser's convolutions do.

    Returns:
        Positions of a layer to ``[1, positions, 1]``.

    Raises:
        ValueError: the region is not a picture whose sides are multiples of 8.
    """
    if region.ndim != 2 or any(side % LATENT_SIDE or not side for side in region.shape):
        raise ValueError(f"a face region is [H, W] with sides that are multiples of 8 pixels, got {[*region.shape]}")
    height, width = (side // LATENT_SIDE for side in region.shape)
    masks = {}
    for _ in range(levels):
        # Nearest, as published: the face ends at the region's edge and does not fade beyond it.
        masks[height * width] = F.interpolate(region[None, None], (height, width), mode="nearest").reshape(1, -1, 1)
        height, width = (height + 1) // 2, (width + 1) // 2
    return masks


def confine(residual: Tensor, region: Tensor) -> Tensor:
    """A ControlNet residual ``[B, C, h, w]``, kept inside ``region`` ``[H, W]`` (0 to 1, any size)."""
    mask = F.interpolate(region[None, None].to(residual), residual.shape[-2:], mode="bilinear", align_corners=False)
    return residual * mask
