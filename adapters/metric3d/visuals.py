"""Depth, normals and points as things to look at.

Source: github.com/YvanYin/Metric3D at eb5b6fa, ``mono/utils/visualization.py``, ``transform.py``, ``unproj_pcd.py``.
"""

import numpy as np
from numpy.typing import NDArray

from adapters.metric3d.geometry import Floats, Picture
from loader.errors import InputError

COLOUR_STEPS = 256
# The farthest pixel lies at 1 / 1.1 of the scale: red, short of the end.
COLOUR_RANGE = 1.1
POINT = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])


def rainbow(values: NDArray[np.floating]) -> Picture:
    """The colours gnuplot calls rainbow (formulae 33, 13, 10), in 256 steps.

    Args:
        values: any shape; 0 is violet, 1 red, beyond them the ends' colours.

    Returns:
        the shape of ``values`` and RGB, uint8.
    """
    position = np.linspace(0.0, 1.0, COLOUR_STEPS)
    red, green, blue = np.abs(2 * position - 0.5), np.sin(np.pi * position), np.cos(np.pi * position / 2)
    table = (np.stack([red, green, blue], axis=1).clip(0.0, 1.0) * 255).astype(np.uint8)
    return table[(values * COLOUR_STEPS).astype(np.int64).clip(0, COLOUR_STEPS - 1)]


def depth_colours(depth: Floats) -> Picture:
    """``[H, W]`` metres to ``[H, W, 3]`` uint8 RGB, near violet to far red; 0 and below black."""
    depth = depth.clip(min=0.0)
    colours = rainbow(depth / (depth.max() + 1e-8) / COLOUR_RANGE)
    colours[depth < 1e-10] = 0
    return colours


def normal_colours(normals: Floats) -> Picture:
    """``[3, H, W]`` normals of any length to ``[H, W, 3]`` uint8 RGB, -1..1 on 1..255."""
    length = np.sqrt(np.square(normals).sum(axis=0, keepdims=True))
    return (normals / (length + 1e-8) * 127 + 128).astype(np.uint8).transpose(1, 2, 0)


def ply(points: Floats, colours: Picture) -> bytes:
    """A point cloud as a binary PLY file.

    Args:
        points: ``[..., 3]`` fp32.
        colours: uint8 RGB of the same shape.

    Raises:
        InputError: their shapes differ.
    """
    if points.shape != colours.shape or points.shape[-1:] != (3,):
        raise InputError(f"points and colours must both be [..., 3], got {points.shape} and {colours.shape}")
    vertices = np.empty(points.size // 3, POINT)
    vertices["xyz"] = points.reshape(-1, 3)
    vertices["rgb"] = colours.reshape(-1, 3)
    fields = [f"property float {axis}" for axis in "xyz"] + [f"property uchar {c}" for c in ("red", "green", "blue")]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}", *fields, "end_header", ""]
    return "\n".join(header).encode() + vertices.tobytes()
