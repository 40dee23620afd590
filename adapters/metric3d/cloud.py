"""A measured picture in three dimensions: points to compute with, and a surface to look at.

Edges are cut: between a thing and what is behind it the networks give depths that belong to neither.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import trimesh
from numpy.typing import NDArray
from trimesh.exchange.gltf import export_glb

from adapters.metric3d import visuals
from adapters.metric3d.geometry import MAX_DEPTH_M, Floats, Intrinsics, unproject
from loader.errors import InputError

EDGE_SHARE = 0.12  # steps between things are larger; a floor differs as much only where it is far away
POINTS = 1_000_000
SURFACE_POINTS = 120_000
NEAR_M = 1e-3
# glTF's vertex colours are linear light, a picture's bytes are sRGB (IEC 61966-2-1).
_SRGB = np.linspace(0, 1, 256)
LINEAR = np.round(np.where(_SRGB <= 0.04045, _SRGB / 12.92, ((_SRGB + 0.055) / 1.055) ** 2.4) * 255).astype(np.uint8)
# Looking from the camera into the scene, y up: the axes of glTF.
TO_GLTF = np.array([1.0, -1.0, -1.0], np.float32)


@dataclass(frozen=True)
class Grid:
    """Points in the rows and columns of a picture.

    Attributes:
        points: ``[H, W, 3]`` fp32 metres: right, down, forward.
        colours: ``[H, W, 3]`` uint8 RGB.
        solid: ``[H, W]`` whether a point lies on a surface rather than on an edge between two.
    """

    points: Floats
    colours: NDArray[np.uint8]
    solid: NDArray[np.bool_]


def grid_of(
    depth: Floats, rgb: NDArray[np.uint8], camera: Intrinsics, *, most: int = POINTS, blur: float = 1.0
) -> Grid:
    """The points of a picture.

    Args:
        depth: ``[H, W]`` fp32 metres.
        rgb: ``[H, W, 3]`` uint8.
        camera: of the picture.
        most: points at most; of a larger picture every second, third … row and column is taken.
        blur: pixels of the picture that one pixel of the network covers: how wide an edge between two depths is.
    """
    every = max(1, int(np.ceil(np.sqrt(depth.size / most))))
    points = unproject(np.ascontiguousarray(depth, np.float32), camera)
    z = points[..., 2]
    solid = (z > NEAR_M) & (z < MAX_DEPTH_M) & ~edges(z, max(1, round(blur)))
    colours = cv2.blur(rgb, (every, every)) if every > 1 else rgb
    taken = (slice(None, None, every), slice(None, None, every))
    return Grid(np.ascontiguousarray(points[taken]), np.ascontiguousarray(colours[taken]), solid[taken])


def edges(z: Floats, reach: int = 1, share: float = EDGE_SHARE) -> NDArray[np.bool_]:
    """``[H, W]``: pixels within ``reach`` of which depths differ by more than ``share``."""
    window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    z = np.ascontiguousarray(np.maximum(z, NEAR_M))
    return np.asarray(cv2.dilate(z, window) > cv2.erode(z, window) * (1 + share))


def point_cloud(grid: Grid, settings: Mapping[str, Any]) -> bytes:
    """The solid points as a binary PLY in the camera's axes, with ``settings`` in a comment."""
    whole = visuals.ply(grid.points[grid.solid], grid.colours[grid.solid])
    comment = f"comment anyhost {json.dumps(dict(settings))}\n".encode()
    first, second, rest = whole.split(b"\n", 2)
    return first + b"\n" + second + b"\n" + comment + rest


def surface(grid: Grid, settings: Mapping[str, Any]) -> bytes:
    """The solid points joined to a coloured surface, as GLB, with ``settings`` in its extras.

    Unlit, so that it looks like the picture from where the picture was taken; origin in the camera, y up.

    Raises:
        InputError: nothing but edges.
    """
    faces = _faces(grid.solid)
    if not len(faces):
        raise InputError("no four neighbouring points lie on one surface: nothing of this picture can be joined")
    used = np.unique(faces)
    renumbered = np.zeros(grid.solid.size, np.int64)
    renumbered[used] = np.arange(len(used))
    opaque = np.full((len(used), 1), 255, np.uint8)
    mesh = trimesh.Trimesh(
        vertices=(grid.points * TO_GLTF).reshape(-1, 3)[used],
        faces=renumbered[faces],
        vertex_colors=np.hstack([LINEAR[grid.colours.reshape(-1, 3)[used]], opaque]),
        process=False,
    )

    def unlit(tree: dict[str, Any]) -> None:
        tree["materials"] = [
            {
                "extensions": {"KHR_materials_unlit": {}},
                "doubleSided": True,
                "pbrMetallicRoughness": {"metallicFactor": 0},
            }
        ]
        tree["extensionsUsed"] = ["KHR_materials_unlit"]
        tree["asset"]["extras"] = dict(settings)
        for part in tree["meshes"]:
            for primitive in part["primitives"]:
                primitive["material"] = 0

    return bytes(export_glb(trimesh.Scene(mesh), include_normals=False, tree_postprocessor=unlit))


def _faces(solid: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Two triangles ``[F, 3]`` for each square of four solid points, facing the camera."""
    number = np.arange(solid.size).reshape(solid.shape)
    whole = solid[:-1, :-1] & solid[:-1, 1:] & solid[1:, :-1] & solid[1:, 1:]
    top_left, top_right = number[:-1, :-1][whole], number[:-1, 1:][whole]
    low_left, low_right = number[1:, :-1][whole], number[1:, 1:][whole]
    return np.concatenate(
        [np.stack([top_left, low_left, top_right], axis=1), np.stack([top_right, low_left, low_right], axis=1)]
    )
