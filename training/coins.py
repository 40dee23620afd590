"""The real photograph the detector is judged by and never trained on: 24 coins, from scikit-image."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

TRUTH = Path(__file__).with_name("coins_boxes.json")


def photograph() -> npt.NDArray[np.uint8]:
    """Greek coins from Pompeii (Brooklyn Museum), uint8 [303, 384, 3], grey."""
    from skimage import data

    grey = np.asarray(data.coins(), np.uint8)
    return np.repeat(grey[..., None], 3, 2)


def true_boxes() -> npt.NDArray[np.float64]:
    """The 24 coins as [24, 4] xyxy px, row by row as stored beside this file."""
    return np.array(json.loads(TRUTH.read_text())["boxes"], np.float64)


def segmented(image: npt.NDArray[np.uint8], *, smallest: int = 300) -> npt.NDArray[np.float64]:
    """Boxes [n, 4] of bright blobs by classic means, which is how the stored truth was made.

    The uneven ground (the smoothed minimum of wide surroundings) is taken away, Otsu's threshold splits the rest,
    holes are filled, blobs under ``smallest`` px are dropped.

    Args:
        image: uint8 [H, W, 3], grey.
        smallest: area in px.
    """
    from skimage.filters import threshold_otsu

    grey = ndimage.gaussian_filter(image[..., 0].astype(np.float64), 1.0)
    flat = grey - ndimage.gaussian_filter(ndimage.minimum_filter(grey, 61), 15)
    mask = ndimage.binary_fill_holes(ndimage.binary_closing(flat > threshold_otsu(flat), iterations=2))
    mask = ndimage.binary_opening(mask, iterations=3)
    blobs, count = ndimage.label(mask)
    areas = ndimage.sum_labels(mask, blobs, range(1, count + 1))
    keep = [s for s, area in zip(ndimage.find_objects(blobs), areas, strict=True) if area >= smallest]
    return np.array([[c.start, r.start, c.stop, r.stop] for r, c in keep], np.float64)
