"""From a picture to the network's canonical camera and back to metres, normals and points.

The networks answer as if every picture came from one camera of focal length 1000 pixels; ``metric_depth`` undoes that
with the real focal length. Sources: "Metric3D", arXiv 2307.10984, section 3.1; github.com/YvanYin/Metric3D at eb5b6fa,
``hubconf.py`` and ``mono/utils/do_test.py``.

```python
images, framing = prepare(picture, (616, 1064))
prediction = network(images)
depth = metric_depth(prediction.depth, framing, camera.fx)
points = unproject(depth[0, 0].cpu().numpy(), camera)
```
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from loader.errors import InputError

CANONICAL_FOCAL_PX = 1000.0
MAX_DEPTH_M = 300.0
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
# The mean rounded to bytes, since the border is added to bytes: not quite zero once normalised.
PAD_COLOUR = (124, 116, 104)
MEDIAN_PX = 5

Picture = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera, in pixels of the original picture.

    Attributes:
        fx: focal length across, greater than 0.
        fy: focal length down, greater than 0.
        cx: column of the principal point.
        cy: row of the principal point.
    """

    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        if not (self.fx > 0 and self.fy > 0):
            raise InputError(f"focal lengths must be greater than 0 pixels, got fx={self.fx}, fy={self.fy}")

    @property
    def focal_px(self) -> float:
        """The mean of both focal lengths."""
        return (self.fx + self.fy) / 2


def centred(picture_size: tuple[int, int], focal_px: float = CANONICAL_FOCAL_PX) -> Intrinsics:
    """The camera to assume where only the focal length, or nothing, is known: looking through the middle.

    Args:
        picture_size: (height, width) in pixels.
        focal_px: focal length in pixels; the default leaves the networks' answer in canonical metres.
    """
    height, width = picture_size
    return Intrinsics(focal_px, focal_px, width / 2, height / 2)


@dataclass(frozen=True)
class Framing:
    """How a picture lies in the network's input.

    Attributes:
        picture_size: (height, width) of the picture.
        network_size: (height, width) of the network's input.
        resized: (height, width) of the picture in it.
        pads: rows above and below, columns left and right of it.
        scale: what the picture was multiplied by, before its sides were truncated to whole pixels.
    """

    picture_size: tuple[int, int]
    network_size: tuple[int, int]
    resized: tuple[int, int]
    pads: tuple[int, int, int, int]
    scale: float

    def canonical_factor(self, focal_px: float) -> float:
        """Metres per canonical metre for a camera of ``focal_px`` pixels in the original picture."""
        return focal_px * self.scale / CANONICAL_FOCAL_PX


def frame(picture_size: tuple[int, int], network_size: tuple[int, int]) -> Framing:
    """Fit a picture into the network's input, keeping its aspect ratio, centred.

    Args:
        picture_size: (height, width) in pixels.
        network_size: (height, width) in pixels.

    Raises:
        InputError: a side below 1 pixel, or a picture so elongated that nothing of its shorter side would be left.
    """
    if min(*picture_size, *network_size) < 1:
        raise InputError(f"sides must be at least 1 pixel, got a picture of {picture_size} for {network_size}")
    scale = min(network_size[0] / picture_size[0], network_size[1] / picture_size[1])
    # Truncated, not rounded, as published: 559×640 in 616×1064 becomes 615 rows, not 616.
    height, width = int(picture_size[0] * scale), int(picture_size[1] * scale)
    if height < 1 or width < 1:
        raise InputError(
            f"a picture of {picture_size[0]}×{picture_size[1]} shrinks to {height}×{width} in "
            f"{network_size[0]}×{network_size[1]}; crop its longer side"
        )
    down, across = network_size[0] - height, network_size[1] - width
    pads = (down // 2, down - down // 2, across // 2, across - across // 2)
    return Framing(picture_size, network_size, (height, width), pads, scale)


def prepare(picture: Picture, network_size: tuple[int, int]) -> tuple[Tensor, Framing]:
    """What the network takes for one picture: resized, padded, normalised.

    Resized as OpenCV does it on bytes (bilinear, no antialiasing, rounded), which the published results rest on.

    Args:
        picture: ``[H, W, 3]`` uint8 RGB.
        network_size: (height, width): multiples of 28 for a ViT, of 32 for a ConvNeXt.

    Returns:
        ``[1, 3, height, width]`` fp32 on the CPU, and how the picture lies in it.

    Raises:
        InputError: no such picture, or one that cannot be framed.
    """
    picture = np.asarray(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(
            f"a picture must be [height, width, 3] of uint8, got {list(picture.shape)} of {picture.dtype}; "
            "convert it to 8-bit RGB first"
        )
    framing = frame((picture.shape[0], picture.shape[1]), network_size)
    return normalise(_fit(picture, framing)), framing


def _fit(picture: Picture, framing: Framing) -> Picture:
    height, width = framing.resized
    resized = cv2.resize(np.ascontiguousarray(picture), (width, height), interpolation=cv2.INTER_LINEAR)
    fitted = cv2.copyMakeBorder(resized, *framing.pads, cv2.BORDER_CONSTANT, value=PAD_COLOUR)
    return fitted.astype(np.uint8, copy=False)


def normalise(pixels: Picture) -> Tensor:
    """``[H, W, 3]`` uint8 RGB to ``[1, 3, H, W]`` fp32 of about zero mean and unit deviation."""
    channels = torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return ((channels - mean) / deviation)[None]


def unpad(image: Tensor, framing: Framing) -> Tensor:
    """The part of a network's answer that shows the picture.

    Args:
        image: ``[B, C, h, w]``. One that is not of the network's input size (some sizes come out up to a few pixels
            smaller or larger) is resized to it first.
        framing: as ``prepare`` gave it, the same for the whole batch.

    Returns:
        ``[B, C, *framing.resized]``.
    """
    if image.shape[-2:] != framing.network_size:
        image = F.interpolate(image, framing.network_size, mode="bilinear", align_corners=False)
    top, _, left, _ = framing.pads
    height, width = framing.resized
    return image[..., top : top + height, left : left + width]


def to_picture(image: Tensor, framing: Framing, *, align_corners: bool = False) -> Tensor:
    """``[B, C, h, w]`` of a network to ``[B, C, H, W]`` of the picture: unpadded, then bilinear."""
    return F.interpolate(unpad(image, framing), framing.picture_size, mode="bilinear", align_corners=align_corners)


def metric_depth(
    canonical: Tensor, framing: Framing, focal_px: float, *, beyond: Literal["clamp", "zero"] = "clamp"
) -> Tensor:
    """Depth of the original picture in metres.

    Args:
        canonical: ``[B, 1, h, w]`` in canonical metres, as a network gives it.
        framing: how the picture lay in the input.
        focal_px: focal length in pixels of the original picture. Upstream's hub example takes ``fx``, its evaluation
            the mean of ``fx`` and ``fy``.
        beyond: depths outside 0..300 m become the nearer limit ("clamp", as in the hub example), or 0 together with
            the limits themselves ("zero", as in the evaluation).

    Returns:
        ``[B, 1, H, W]`` fp32 along the optical axis, 0..300 m.

    Raises:
        InputError: a focal length that is not greater than 0.
    """
    if not focal_px > 0:
        raise InputError(f"the focal length must be greater than 0 pixels, got {focal_px}")
    depth = to_picture(canonical.float(), framing) * framing.canonical_factor(focal_px)
    if beyond == "clamp":
        return depth.clamp(0.0, MAX_DEPTH_M)
    return torch.where((depth > 0) & (depth < MAX_DEPTH_M), depth, 0.0)


def picture_normals(normals: Tensor, framing: Framing) -> Tensor:
    """Surface normals of the original picture.

    Args:
        normals: ``[B, 4, h, w]`` as a network gives them; the fourth channel is dropped.
        framing: how the picture lay in the input.

    Returns:
        ``[B, 3, H, W]`` fp32: x right, y down, z away from the camera. Interpolated, hence a little shorter than 1 at
        edges; not lengthened again, as published.
    """
    return to_picture(normals[:, :3].float(), framing, align_corners=True)


def unproject(depth: Floats, camera: Intrinsics, *, smooth: bool = True) -> Floats:
    """One point for every pixel.

    Args:
        depth: ``[H, W]`` fp32 along the optical axis in metres; pixels of depth 0 become points at the origin.
        camera: intrinsics of the picture that ``depth`` has the size of.
        smooth: run a 5×5 median over the depth first, as published, against points between edges.

    Returns:
        ``[H, W, 3]`` fp32: x right, y down, z forward, in metres.

    Raises:
        InputError: not such a depth map.
    """
    if depth.ndim != 2 or depth.dtype != np.float32 or 0 in depth.shape:
        raise InputError(f"depth must be [height, width] of float32, got {list(depth.shape)} of {depth.dtype}")
    height, width = depth.shape
    z = cv2.medianBlur(np.ascontiguousarray(depth), MEDIAN_PX) if smooth else depth
    points = np.empty((height, width, 3), np.float32)
    across = (np.arange(width, dtype=np.float32) - camera.cx) / camera.fx
    down = (np.arange(height, dtype=np.float32) - camera.cy) / camera.fy
    np.multiply(z, across, out=points[..., 0])
    np.multiply(z, down[:, None], out=points[..., 1])
    points[..., 2] = z
    return points
