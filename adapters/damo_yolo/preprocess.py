"""From a picture to what the detector takes."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.damo_yolo.networks.head import STRIDES
from loader.errors import InputError


def preprocess(image: NDArray[np.uint8] | Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a picture to the network's size, whatever its aspect ratio, as the published detectors were trained.

    Bilinear without antialiasing, rounded to whole values (OpenCV's ``INTER_LINEAR`` on bytes), no mean, no deviation.

    Args:
        image: [H, W, 3] uint8 RGB. Frames from OpenCV are BGR: reverse their last axis first.
        size: (height, width) of the network's input, multiples of 32.

    Returns:
        [1, 3, height, width] float32 RGB in 0..255, contiguous, on the CPU.

    Raises:
        InputError: not such a picture, or not such a size.
    """
    pixels = image.cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise InputError(
            f"a picture must be [height, width, 3] of uint8, got {list(pixels.shape)} of {pixels.dtype}; "
            "convert it to 8-bit RGB first"
        )
    coarsest = STRIDES[-1]
    height, width = size
    if height < coarsest or width < coarsest or height % coarsest or width % coarsest:
        raise InputError(f"the network's input must have sides in multiples of {coarsest}, got {height}×{width}")
    resized = cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=cv2.INTER_LINEAR)
    # Contiguous although channels-last would cost less: the plan, not this function, chooses the memory format.
    return torch.from_numpy(resized).permute(2, 0, 1)[None].float().contiguous()
