"""Cameras of the reconstruction model, and the rays through their pixels.

World: right-handed, z up, the object inside the cube ±0.6. A camera looks along its own −z, y up. Facts from
``svrm/predictor.py`` and ``svrm/ldm/modules/rendering_neus/utils`` of Tencent/Hunyuan3D-1 (commit af913e6).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

AZIMUTHS_DEG = (0.0, 60.0, 120.0, 180.0, 240.0, 300.0)
DISTANCE = 1.5
FOCAL = 35.0 / 32.0
"""Focal length in units of the image side: 35 mm lens on a 32 mm sensor."""


def camera_to_world(elevation_deg: float, azimuth_deg: float, distance: float = DISTANCE) -> npt.NDArray[np.float64]:
    """Camera-to-world matrix ``[4, 4]`` of a camera on a sphere, looking at the origin.

    The columns are right, up, backward and position. Undefined at elevations ±90°, where "right" is.
    """
    elevation, azimuth = np.radians(elevation_deg), np.radians(azimuth_deg)
    position = distance * np.array(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    )
    forward = -position / np.linalg.norm(position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3] = np.stack((right, np.cross(right, forward), -forward, position), axis=1)
    return matrix


def camera_vectors(azimuths_deg: Sequence[float] = AZIMUTHS_DEG) -> Tensor:
    """What the image encoder is told of the views and, last, of the input picture: ``[len(azimuths_deg) + 1, 20]``.

    A row is the row-major camera-to-world matrix, then fx, fy, cx, cy. The input picture's camera is unknown: zeros.
    """
    intrinsics = [FOCAL, FOCAL, 0.5, 0.5]
    rows = [np.concatenate((camera_to_world(0.0, azimuth).reshape(-1), intrinsics)) for azimuth in azimuths_deg]
    return torch.from_numpy(np.stack([*rows, np.zeros(20)])).float()


def rays(camera: Tensor, intrinsics: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Rays through the pixel centres of a ``size`` × ``size`` picture, row by row.

    Args:
        camera: ``[N, 4, 4]`` camera-to-world.
        intrinsics: ``[N, 3, 3]`` in units of the image side, skew included.
        size: pixels a side.

    Returns:
        Origins and unit directions, each ``[N, size * size, 3]``.
    """
    centres = (torch.arange(size, dtype=torch.float32, device=camera.device) + 0.5) / size
    down, across = torch.meshgrid(centres, centres, indexing="ij")
    pixels = torch.stack((across, down, torch.ones_like(down)), dim=-1).reshape(-1, 3)
    # Image space has y down and z forward, camera space y up and z backward.
    seen = (pixels @ torch.linalg.inv(intrinsics).transpose(1, 2)) * pixels.new_tensor([1.0, -1.0, -1.0])
    directions = F.normalize(seen @ camera[:, :3, :3].transpose(1, 2), dim=-1)
    return camera[:, None, :3, 3].expand_as(directions), directions


def box_limits(origins: Tensor, directions: Tensor, side: float) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave the cube of the given side around the origin.

    Args:
        origins: ``[..., 3]``.
        directions: ``[..., 3]``.
        side: side of the cube, in world units.

    Returns:
        Near and far distances, each ``[..., 1]``; −1 and −2 where a ray misses.
    """
    inverse = 1 / directions
    half = torch.where(inverse < 0, -side / 2, side / 2)
    near = ((-half - origins) * inverse).amax(dim=-1, keepdim=True)
    far = ((half - origins) * inverse).amin(dim=-1, keepdim=True)
    missed = near > far
    return near.masked_fill(missed, -1.0), far.masked_fill(missed, -2.0)
