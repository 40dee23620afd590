"""A real photograph of known depth: scikit-image's motorcycle, of the Middlebury stereo data of 2014.

The calibration is the one scikit-image's documentation of ``stereo_motorcycle`` gives for these pictures, which are
a quarter of the published ones (Scharstein et al., "High-resolution stereo datasets with subpixel-accurate ground
truth", GCPR 2014).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.data import stereo_motorcycle

from adapters.metric3d.geometry import Intrinsics
from training.depth.solids import Array

CAMERA = Intrinsics(994.978, 994.978, 311.193, 254.877)
BASELINE_M = 0.193001
# How much farther right the right camera's principal point lies, px.
OFFSET_PX = 31.086


@dataclass(frozen=True)
class StereoPair:
    """The left photograph ``[H, W, 3]`` uint8, its ``depth`` ``[H, W]`` metres, NaN where unknown, and its camera."""

    image: NDArray[np.uint8]
    depth: Array
    camera: Intrinsics


def motorcycle() -> StereoPair:
    """The pair that ships with scikit-image; nothing is downloaded."""
    left, _, disparity = stereo_motorcycle()
    with np.errstate(invalid="ignore"):
        known = np.isfinite(disparity) & (disparity > 0)
        depth = np.where(known, BASELINE_M * CAMERA.fx / (disparity + OFFSET_PX), np.nan)
    return StereoPair(np.ascontiguousarray(left[..., :3]), depth.astype(np.float32), CAMERA)
