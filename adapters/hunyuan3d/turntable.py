"""A mesh turning in front of the camera, drawn by the project's own rasteriser.

Camera and number of views follow ``infer/gif_render.py`` of Tencent/Hunyuan3D-1 (commit af913e6); upstream's pictures
are unlit, here a weak light at the camera shows the form.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from adapters.hunyuan3d.cameras import DISTANCE, camera_to_world
from adapters.hunyuan3d.mesh import Floats, Mesh
from adapters.hunyuan3d.texture import Atlas
from kit.ai_label import Mark
from kit.rasteriser import rasterise
from kit.video import ClipWriter

Rgb = npt.NDArray[np.uint8]
FOV_DEG = 49.1
SIDE, VIEWS, FPS = 512, 120, 30.0
GIF_VIEWS, GIF_SIDE = 60, 384
AMBIENT, DIFFUSE = 0.72, 0.28
GROUND = 255


@dataclass(frozen=True, eq=False)
class Skin:
    """Colours of a mesh: of its vertices ``[V, 3]``, 0 .. 1, or a texture on an atlas, which goes before them."""

    colours: Floats
    atlas: Atlas | None = None
    texture: Rgb | None = None


@dataclass(frozen=True, eq=False)
class Turntable:
    """Pictures of a mesh from around it, at its own height."""

    shape: Mesh
    skin: Skin
    side: int = SIDE

    @cached_property
    def _normals(self) -> npt.NDArray[np.float32]:
        """``[V, 3]`` unit normals of the vertices, weighted by the faces' areas."""
        corners = self.shape.vertices[self.shape.faces]
        across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        count = len(self.shape.vertices)
        sums = np.stack(
            [
                sum(np.bincount(self.shape.faces[:, k], weights=across[:, axis], minlength=count) for k in range(3))
                for axis in range(3)
            ],
            axis=1,
        )
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        return np.divide(sums, length, out=np.zeros_like(sums), where=length > 0).astype(np.float32)

    @cached_property
    def _tints(self) -> npt.NDArray[np.float32]:
        return np.asarray(self.skin.colours, np.float32)

    def picture(self, azimuth_deg: float) -> Rgb:
        """``[side, side, 3]`` from a camera at ``azimuth_deg``, on white."""
        camera = camera_to_world(0.0, azimuth_deg, DISTANCE)
        seen = (self.shape.vertices - camera[:3, 3]) @ camera[:3, :3]
        focal = 1 / np.tan(np.radians(FOV_DEG / 2))
        away = -seen[:, 2]
        clip = np.stack((focal * seen[:, 0], focal * seen[:, 1], away - 1.0, away), axis=1)
        raster = rasterise(clip, self.shape.faces, self.side, self.side, cull=True)
        frame = np.full((self.side, self.side, 3), GROUND, np.uint8)
        covered = raster.covered
        face, weights = raster.face[covered], raster.barycentric[covered].astype(np.float32)
        facing = _mixed(self._normals @ camera[:3, 2].astype(np.float32), self.shape.faces[face], weights)
        light = AMBIENT + DIFFUSE * np.clip(facing, 0, 1)[:, None]
        frame[covered] = (self._colour_at(face, weights) * light * 255).clip(0, 255)
        return np.ascontiguousarray(frame[::-1])

    def _colour_at(self, face: npt.NDArray[np.int64], weights: Floats) -> Floats:
        atlas, texture = self.skin.atlas, self.skin.texture
        if atlas is None or texture is None:
            return _mixed(self._tints, self.shape.faces[face], weights)
        place = _mixed(atlas.uv.astype(np.float32), atlas.faces[face], weights)
        column, row = (place * texture.shape[0]).astype(np.int64).clip(0, texture.shape[0] - 1).T
        return texture[row, column].astype(np.float32) / 255

    def pictures(self, views: int = VIEWS) -> Iterator[Rgb]:
        """``views`` pictures once around."""
        for azimuth in np.linspace(0.0, 360.0, views, endpoint=False):
            yield self.picture(float(azimuth))


def _mixed(values: Floats, corners: npt.NDArray[np.int64], weights: Floats) -> Floats:
    """Vertex ``values [V]`` or ``[V, C]`` at pixels, of whose triangles ``corners [P, 3]`` are given."""
    shape = (-1, 1) if values.ndim == 2 else (-1,)
    parts = (values[corners[:, k]] * weights[:, k].reshape(shape) for k in range(3))
    return np.asarray(sum(parts))


def write_mp4(path: Path, turntable: Turntable, mark: Mark | None, views: int = VIEWS) -> Path:
    """The turning mesh as an H.264 MP4, 30 frames a second, ``mark`` on every frame.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    with ClipWriter(path, fps=FPS) as writer:
        for index, rgb in enumerate(turntable.pictures(views)):
            writer.write(mark.on(rgb) if mark else rgb, index / FPS)
    return path


def write_gif(path: Path, turntable: Turntable, mark: Mark | None, views: int = GIF_VIEWS) -> Path:
    """The turning mesh as a GIF that repeats, once around in four seconds."""
    frames = [Image.fromarray(mark.on(rgb) if mark else rgb) for rgb in turntable.pictures(views)]
    # One palette for all: a palette of its own for each frame would flicker.
    first = frames[0].quantize(255, dither=Image.Dither.NONE)
    shown = [frame.quantize(palette=first, dither=Image.Dither.FLOYDSTEINBERG) for frame in frames]
    milliseconds = round(4000 / views)
    shown[0].save(path, save_all=True, append_images=shown[1:], duration=milliseconds, loop=0)
    return path
