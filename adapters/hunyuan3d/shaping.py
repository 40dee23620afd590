"""From the triplane to a mesh: the field on a grid, its surface, fewer faces, colours, texture."""

from collections.abc import Generator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adapters.hunyuan3d import mesh, texture
from adapters.hunyuan3d.grid import EXTENT
from adapters.hunyuan3d.mesh import Floats, Mesh
from adapters.hunyuan3d.products import LEAST_GRID, Products
from adapters.hunyuan3d.texture import Atlas
from loader.errors import InputError
from loader.outcome import Step, Unit
from loader.pipeline import Parts
from loader.plan import Plan

Stage = Generator[Step | Unit, Any, Any]
DECODER = "triplane_decoder"
ROWS_PER_UNIT = 64
COARSE_SAVER = "coarse_grid"
SMALLEST_TRIANGLES = 4
"""Of a closed surface; what has fewer after clean-up is no object."""


def grid_of(plan: Plan, wished: int) -> int:
    """Points along an axis under ``plan``: two thirds of the wish where memory is short."""
    return max(LEAST_GRID, wished * 2 // 3) if COARSE_SAVER in plan.savers else wished


# --- the field and its surface --------------------------------------------------------------------------------------


def find_surface(parts: Parts, planes: Tensor, wished: int) -> Stage:
    """The cleaned surface in world units and the grid it was found on.

    The grid is evaluated a slab at a time. When memory runs out the plan's next step down has a coarser one, and the
    slabs start anew.

    Raises:
        InputError: no surface crosses the grid, or only crumbs of one.
    """
    size = grid_of(parts.plan, wished)
    slabs: list[npt.NDArray[np.float32]] = []
    done = 0
    while done < size:
        unit = partial(_slab, parts, planes, wished, done)
        got, slab = yield Unit(f"grid from row {done + 1}", DECODER, unit)
        if got != size:
            size, slabs, done = got, [], 0
            continue
        slabs.append(slab)
        done += len(slab)
        yield Step("mesh_field", done, size, detail={"grid": size})
    sdf = np.concatenate(slabs)
    del slabs
    yield Step("mesh_surface", 0, 1, detail={"grid": size})
    found = yield Unit("surface", DECODER, partial(_surface, sdf))
    return found, size


def _slab(parts: Parts, planes: Tensor, wished: int, start: int, plan: Plan) -> tuple[int, npt.NDArray[np.float32]]:
    size = grid_of(plan, wished)
    first = start if start < size else 0
    rows = (first, min(size, first + ROWS_PER_UNIT))
    slab: Tensor = parts.call(DECODER, planes, size=size, rows=rows, extent=EXTENT)
    return size, slab.cpu().numpy()


def _surface(sdf: npt.NDArray[np.float32], plan: Plan) -> Mesh:
    del plan
    raw = mesh.to_world(mesh.extract(sdf), len(sdf), EXTENT)
    found = mesh.outward(mesh.drop_folded(mesh.refine(raw)))
    if len(found.faces) < SMALLEST_TRIANGLES:
        raise InputError(
            f"no surface worth the name: {len(raw.faces)} triangles were found and {len(found.faces)} are left after "
            "clean-up; try another seed, a finer grid or a clearer picture"
        )
    return found


# --- faces, colours, texture ----------------------------------------------------------------------------------------


def simplify(parts: Parts, products: Products, faces: int) -> Stage:
    """The surface with at most ``faces`` faces, and its vertices' colours."""
    assert products.surface is not None, "the field comes first"
    assert products.planes is not None, "the field comes first"
    yield Step("mesh_simplify", 0, 1)
    shape = yield Unit("faces", DECODER, partial(_simplified, products.surface, faces))
    colours = yield Unit("vertex colours", DECODER, partial(_colours, parts, products.planes, shape.vertices))
    yield Step("mesh_simplify", 1, 1)
    return shape, colours


def _simplified(surface: Mesh, faces: int, plan: Plan) -> Mesh:
    del plan
    return mesh.outward(mesh.decimate(surface, faces))


def _colours(parts: Parts, planes: Tensor, points: Floats, plan: Plan) -> Floats:
    del plan
    where = torch.from_numpy(np.ascontiguousarray(points, np.float32))[None]
    rgb: Tensor = parts.call(DECODER, planes, where).rgb
    return np.asarray(rgb[0].cpu().numpy()).clip(0.0, 1.0)


def paint(parts: Parts, products: Products, side: int) -> Stage:
    """The shape laid flat and its texture."""
    assert products.shape is not None, "the mesh comes first"
    assert products.planes is not None, "the field comes first"
    yield Step("mesh_texture", 0, 2)
    atlas = yield Unit("atlas", DECODER, partial(_unwrapped, products.shape))
    yield Step("mesh_texture", 1, 2)
    unit = partial(_baked, parts, products.planes, products.shape, atlas, side)
    pixels = yield Unit("texture", DECODER, unit)
    yield Step("mesh_texture", 2, 2)
    return replace(products, atlas=atlas, texture=pixels)


def _unwrapped(shape: Mesh, plan: Plan) -> Atlas:
    del plan
    return texture.unwrap(shape)


def _baked(parts: Parts, planes: Tensor, shape: Mesh, atlas: Atlas, side: int, plan: Plan) -> npt.NDArray[np.uint8]:
    return texture.bake(shape, atlas, lambda points: _colours(parts, planes, points, plan), side)
