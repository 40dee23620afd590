"""Sizes and control pictures of a drawing: how large, where the face is, edges, depth, skeleton."""

import math
from collections.abc import Mapping

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from adapters.instantid.drawing import draw_kps, face_region
from kit.images import Picture
from loader.errors import InputError
from loader.spec import Size

ANALYSED_SIDE = 1280  # the longer side upstream looks for faces at; larger photos are scaled down to it
CANNY = (100, 200)
# Which ControlNet of a variant reads which kind of picture.
NETS: Mapping[str, str] = {"pose": "pose_net", "canny": "canny_net", "depth": "depth_net"}


def drawing_size(source: Size, budget: Size, multiple: int, *, enlarge: bool) -> Size:
    """Height and width of a drawing in the shape of ``source``, within the pixels of ``budget``.

    A picture is never enlarged unless that is asked for: 512×512 stays 512×512 on a machine that could do 1024×1024.

    Args:
        source: the picture that gives the shape.
        budget: the plan's size.
        multiple: sides are multiples of it, rounded down.
        enlarge: use the budget even where the picture is smaller.

    Raises:
        InputError: too narrow, or too small to be drawn at its own size.
    """
    height, width = source
    scale = math.sqrt(budget[0] * budget[1] / (height * width))
    if not enlarge:
        scale = min(1.0, scale)
    # A hair more than exact, so that 512 times a scale of 0.99999 is not 448.
    sides = tuple(int(side * scale + 1e-6) // multiple * multiple for side in source)
    if min(sides) < multiple:
        remedy = "crop it" if enlarge or scale < 1 else "choose a larger one, or let it be enlarged"
        raise InputError(
            f"a picture of {width}×{height} would be drawn with a side under {multiple} pixels, the smallest there is: "
            f"{remedy}"
        )
    return sides[0], sides[1]


def analysed(picture: Picture) -> tuple[NDArray[np.uint8], float]:
    """A photo as BGR for face analysis, no side above 1280, and the scale: pixels there by pixels of the photo."""
    scale = min(1.0, ANALYSED_SIDE / max(picture.size))
    rgb = picture.rgb
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in picture.size)
        rgb = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return np.ascontiguousarray(rgb[:, :, ::-1]), scale


def fitted(picture: Picture, size: Size) -> NDArray[np.uint8]:
    """A picture at exactly ``size``, ``[H, W, 3]``."""
    image = Image.fromarray(picture.rgb)
    resample = Image.Resampling.LANCZOS if picture.size[0] > size[0] else Image.Resampling.BILINEAR
    return np.asarray(image.resize((size[1], size[0]), resample), np.uint8)


def as_tensor(rgb: ArrayLike) -> Tensor:
    """``[H, W, 3]`` uint8 as ``[1, 3, H, W]`` of 0 to 1."""
    return torch.from_numpy(np.array(rgb, np.uint8)).permute(2, 0, 1)[None].float() / 255


def keypoint_picture(keypoints: ArrayLike, source: Size, size: Size) -> NDArray[np.uint8]:
    """The face's five points, found in a picture of ``source``, drawn at ``size``: ``[H, W, 3]``."""
    factor = np.array([size[1] / source[1], size[0] / source[0]], np.float32)
    return np.asarray(draw_kps((size[1], size[0]), np.asarray(keypoints, np.float32) * factor), np.uint8)


def box_region(box: ArrayLike, source: Size, size: Size) -> Tensor:
    """``[H, W]``, 1 within a face's box found in a picture of ``source``.

    Raises:
        InputError: the box lies outside the picture.
    """
    factor = np.array([size[1] / source[1], size[0] / source[0]] * 2, np.float32)
    return torch.from_numpy(face_region((size[1], size[0]), np.asarray(box, np.float32) * factor))


def mask_region(mask: Picture, size: Size) -> Tensor:
    """``[H, W]`` of 0 to 1 from a painted mask, white for yes.

    Raises:
        InputError: nothing is painted.
    """
    grey = fitted(mask, size).mean(axis=2) / 255
    if not (grey > 0.5).any():
        raise InputError("the mask is empty: paint white where the face may be, or choose another region")
    return torch.from_numpy(grey.astype(np.float32))


def edges(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Canny's edges, white on black, ``[H, W, 3]``."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return np.repeat(np.asarray(cv2.Canny(grey, *CANNY), np.uint8)[:, :, None], 3, axis=2)


def depth_picture(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A depth map as the ControlNet knows it: grey over the whole range.

    Raises:
        InputError: it is all of one depth.
    """
    grey = rgb.astype(np.float32).mean(axis=2)
    near, far = float(grey.max()), float(grey.min())
    if near == far:
        raise InputError("the depth map is all of one grey: give one in which near things are brighter than far ones")
    level = ((grey - far) / (near - far) * 255).round().astype(np.uint8)
    return np.repeat(level[:, :, None], 3, axis=2)
