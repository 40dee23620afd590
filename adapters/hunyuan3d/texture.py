"""Texture instead of vertex colours: unwrap the mesh, colour every texel from the planes, write OBJ and GLB.

Follows ``svrm/ldm/models/svrm.py`` of Tencent/Hunyuan3D-1 (commit af913e6); the project's own rasteriser stands in
nvdiffrast's place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import trimesh
import xatlas
from PIL import Image

from adapters.hunyuan3d.mesh import OBJ_AXES, Faces, Floats, Mesh
from kit.rasteriser import rasterise

TEXTURE_SIDE = 1024
FILL_RADIUS = 2
BRIGHTENING = 0.8
"""Exponent on the 0 .. 1 colours of a texture; upstream brightens textures so, and leaves vertex colours alone."""
MATERIAL = (
    "newmtl material_0\nKa 1.000 1.000 1.000\nKd 1.000 1.000 1.000\nKs 0.000 0.000 0.000\n"
    "d 1.0\nillum 2\nmap_Kd texture.png\n"
)
ColourAt = Callable[[Floats], Floats]
"""``points [P, 3] -> rgb [P, 3]`` in 0 .. 1."""


@dataclass(frozen=True)
class Atlas:
    """A mesh laid flat.

    Attributes:
        uv: ``[U, 2]`` in 0 .. 1; row r of the texture is at v = (r + 0.5) / height.
        faces: ``[F, 3]`` indices into ``uv``, in the order of the mesh's faces.
    """

    uv: Floats
    faces: Faces


def unwrap(mesh: Mesh) -> Atlas:
    """Charts of the mesh packed into the unit square, by xatlas with its own defaults."""
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    atlas.generate(xatlas.ChartOptions(), xatlas.PackOptions())
    _, faces, uv = atlas.get_mesh(0)
    return Atlas(uv, faces.astype(np.int64))


def bake(mesh: Mesh, atlas: Atlas, colour_at: ColourAt, side: int = TEXTURE_SIDE) -> npt.NDArray[np.uint8]:
    """The texture ``[side, side, 3]`` RGB: the colour of the surface point under each texel, gaps filled in."""
    clip = np.concatenate((atlas.uv * 2 - 1, np.zeros((len(atlas.uv), 1)), np.ones((len(atlas.uv), 1))), axis=1)
    raster = rasterise(clip, atlas.faces, side, side)
    points = raster.interpolate(mesh.vertices, mesh.faces)
    colours = np.zeros((side, side, 3))
    colours[raster.covered] = colour_at(points[raster.covered])
    levels = (colours * 255).clip(0, 255).astype(np.uint8)
    gaps = (~raster.covered).astype(np.uint8) * 255
    filled = cv2.inpaint(levels, gaps, FILL_RADIUS, cv2.INPAINT_TELEA)
    return (((filled / 255.0) ** BRIGHTENING) * 255).clip(0, 255).astype(np.uint8)


def write(folder: Path, mesh: Mesh, atlas: Atlas, texture: npt.NDArray[np.uint8]) -> tuple[Path, Path]:
    """``mesh.obj`` with ``texture.mtl`` and ``texture.png``, and ``mesh.glb``; returns the OBJ's and the GLB's path."""
    image = Image.fromarray(texture)
    image.save(folder / "texture.png")
    (folder / "texture.mtl").write_text(MATERIAL)
    obj, glb = folder / "mesh.obj", folder / "mesh.glb"
    obj.write_text(atlas_obj(mesh, atlas))
    textured(mesh, atlas, image).export(glb, file_type="glb")
    return obj, glb


def atlas_obj(mesh: Mesh, atlas: Atlas) -> str:
    """The mesh as Wavefront OBJ with texture coordinates; its material is in ``texture.mtl``."""
    pairs = np.stack((mesh.faces, atlas.faces), axis=2).reshape(-1, 6) + 1
    text = StringIO()
    text.write("mtllib texture.mtl\n")
    np.savetxt(text, mesh.vertices[:, OBJ_AXES], fmt="v %f %f %f")
    np.savetxt(text, _from_bottom(atlas), fmt="vt %f %f")
    text.write("usemtl material_0\n")
    np.savetxt(text, pairs, fmt="f %d/%d %d/%d %d/%d")
    return text.getvalue()


def textured(mesh: Mesh, atlas: Atlas, image: Image.Image) -> trimesh.Trimesh:
    """The mesh in the files' axes, with one vertex for each texture coordinate, as GLB wants it."""
    vertex_of_uv = np.zeros(len(atlas.uv), np.int64)
    vertex_of_uv[atlas.faces] = mesh.faces
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=image, metallicFactor=0.0, roughnessFactor=1.0)
    visual = trimesh.visual.TextureVisuals(uv=_from_bottom(atlas), material=material)
    return trimesh.Trimesh(mesh.vertices[:, OBJ_AXES][vertex_of_uv], atlas.faces, visual=visual, process=False)


def _from_bottom(atlas: Atlas) -> Floats:
    """Files count v from the bottom row of the picture, the atlas from the top."""
    return np.stack((atlas.uv[:, 0], 1 - atlas.uv[:, 1]), axis=1)
