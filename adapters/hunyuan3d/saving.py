"""A made mesh as files: GLB, OBJ, PLY, STL, a turning clip, the pictures on the way; each says it is AI-generated."""

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import trimesh
from PIL import Image

from adapters.hunyuan3d import turntable
from adapters.hunyuan3d.mesh import OBJ_AXES, Floats, Mesh
from adapters.hunyuan3d.products import Made, MeshRequest, Products
from adapters.hunyuan3d.texture import MATERIAL, atlas_obj, textured
from adapters.hunyuan3d.turntable import Skin, Turntable
from kit import ai_label
from kit.exports import safe_stem, write_bytes, write_json
from kit.settings import settings_record
from kit.texts.labels import label
from loader.errors import InputError
from loader.outcome import Result

MINIATURE_NOTE = "untrained miniature: the shape means nothing"
KINDS = ("glb", "obj", "ply", "stl", "mp4", "gif")
COMMENT = "AI-generated (trainedAlgorithmicMedia), made with Anyhost"


@dataclass(frozen=True)
class Figures:
    """What a mesh is, in numbers.

    Attributes:
        watertight: whether every edge joins exactly two faces.
        bounds: least and greatest corner in the files' axes, y up; the searched cube is ±0.6.
    """

    faces: int
    vertices: int
    watertight: bool
    bounds: tuple[tuple[float, ...], tuple[float, ...]]
    grid: int

    def record(self) -> dict[str, Any]:
        """As data."""
        low, high = self.bounds
        return {
            "faces": self.faces,
            "vertices": self.vertices,
            "watertight": self.watertight,
            "bounds": {"min": list(low), "max": list(high)},
            "grid": self.grid,
        }


def figures_of(products: Products) -> Figures:
    """Numbers of the shape.

    Raises:
        InputError: there is none yet.
    """
    shape = _shape_of(products)
    whole = trimesh.Trimesh(shape.vertices, shape.faces, process=False)
    turned = shape.vertices[:, OBJ_AXES]
    low, high = (tuple(round(float(v), 4) for v in corner) for corner in (turned.min(axis=0), turned.max(axis=0)))
    return Figures(len(shape.faces), len(shape.vertices), bool(whole.is_watertight), (low, high), products.grid)


def settings_of(result: Result, made: Made) -> dict[str, Any]:
    """What would give this mesh again, as ``kit.settings`` brings it back, and what it was made by.

    ``grid`` is what the surface was found on, which is coarser than the option of that name where memory ran out.
    """
    plan, request = result.plan, made.request
    weights = MINIATURE_NOTE if result.weights == "miniature" else result.weights
    return settings_record(plan, weights, options_of(request)) | {
        "steps": plan.steps,
        "seed": request.seed,
        "grid": made.products.grid,
        "cut_out_by": made.products.cut_by,
        "dtype": {p.name: p.compute_dtype for p in plan.components},
    }


def options_of(request: MeshRequest) -> dict[str, Any]:
    """Every setting of a request by the name of its option; those of drawing only where words were drawn."""
    names = ("seed", "keep_alpha", "grid", "faces", "texture")
    drawn = ("words", "draw_seed", "draw_steps") if request.words else ()
    return {name: getattr(request, name) for name in (*names, *drawn)}


# --- one file each ------------------------------------------------------------------------------------------------


def glb_bytes(products: Products, settings: Mapping[str, Any], *, plain: bool = False) -> bytes:
    """Binary glTF with texture, or with vertex colours if there is none or ``plain``."""
    shape, colours = _shape_of(products), _colours_of(products)
    if products.atlas is not None and products.texture is not None and not plain:
        whole = textured(shape, products.atlas, Image.fromarray(products.texture))
    else:
        # glTF's vertex colours are linear light, where a picture's are not.
        whole = _coloured(shape, _linear(colours))
    data = cast(bytes, whole.export(file_type="glb", include_normals=True))
    return ai_label.label_glb(data, settings, labelled=ai_label.enabled(os.environ))


def obj_files(products: Products) -> dict[str, bytes]:
    """Wavefront files by name: with a texture if there is one, else a colour after each vertex."""
    shape = _shape_of(products)
    head = f"# {COMMENT}\n" if ai_label.enabled(os.environ) else ""
    if products.atlas is not None and products.texture is not None:
        picture = BytesIO()
        Image.fromarray(products.texture).save(picture, "PNG")
        return {
            "mesh.obj": (head + atlas_obj(shape, products.atlas)).encode(),
            "texture.mtl": MATERIAL.encode(),
            "texture.png": picture.getvalue(),
        }
    rows = np.concatenate((shape.vertices[:, OBJ_AXES], _colours_of(products)), axis=1)
    text = BytesIO()
    np.savetxt(text, rows, fmt="v %f %f %f %f %f %f")
    np.savetxt(text, shape.faces + 1, fmt="f %d %d %d")
    return {"mesh.obj": head.encode() + text.getvalue()}


def ply_bytes(products: Products) -> bytes:
    """Binary PLY with vertex colours."""
    data = cast(bytes, _coloured(_shape_of(products), _colours_of(products)).export(file_type="ply"))
    if not ai_label.enabled(os.environ):
        return data
    first, rest = data.split(b"\n", 1)
    kind, rest = rest.split(b"\n", 1)
    return b"\n".join((first, kind, f"comment {COMMENT}".encode(), rest))


def stl_bytes(products: Products) -> bytes:
    """Binary STL: the form alone."""
    shape = _shape_of(products)
    whole = trimesh.Trimesh(shape.vertices[:, OBJ_AXES], shape.faces, process=False)
    data = cast(bytes, whole.export(file_type="stl"))
    if not ai_label.enabled(os.environ):
        return data
    # The first 80 bytes are a header that readers skip.
    return COMMENT.encode().ljust(80)[:80] + data[80:]


def spun(products: Products, side: int = turntable.SIDE) -> Turntable:
    """The mesh on its turntable."""
    skin = Skin(_colours_of(products), products.atlas, products.texture)
    return Turntable(_shape_of(products), skin, side)


def write_kind(kind: str, products: Products, settings: Mapping[str, Any], folder: Path, language: str = "en") -> Path:
    """One file of ``KINDS`` in ``folder``; an OBJ with a texture becomes a zip of its three files.

    Raises:
        InputError: no such kind, or no mesh yet.
        OutputError: the disk is full or the folder cannot be written.
    """
    labelled = ai_label.enabled(os.environ)
    match kind:
        case "glb":
            return write_bytes(folder / "mesh.glb", glb_bytes(products, settings))
        case "obj":
            files = obj_files(products)
            if len(files) == 1:
                return write_bytes(folder / "mesh.obj", files["mesh.obj"])
            return write_bytes(folder / "mesh-obj.zip", zipped(files))
        case "ply":
            return write_bytes(folder / "mesh.ply", ply_bytes(products))
        case "stl":
            return write_bytes(folder / "mesh.stl", stl_bytes(products))
        case "mp4":
            mark = ai_label.mark_for((turntable.SIDE, turntable.SIDE), language) if labelled else None
            path = turntable.write_mp4(folder / "turntable.mp4", spun(products), mark)
            return ai_label.label_clip(path, settings, labelled=labelled)
        case "gif":
            side = turntable.GIF_SIDE
            mark = ai_label.mark_for((side, side), language) if labelled else None
            folder.mkdir(parents=True, exist_ok=True)
            return turntable.write_gif(folder / "turntable.gif", spun(products, side), mark)
    raise InputError(f"a mesh is written as {', '.join(KINDS)}, not {kind!r}")


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip archive of ``files`` by name."""
    data = BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


# --- a whole run ----------------------------------------------------------------------------------------------------


def save_all(result: Result, made: Made, folder: Path, kinds: Sequence[str]) -> list[Path]:
    """Every file of a run in a folder of its own below ``folder``: pictures on the way, the mesh, the record.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    place = _free_folder(folder, safe_stem(made.request.name))
    settings = settings_of(result, made)
    written = [write_bytes(place / name, data) for name, data in picture_files(made.products, settings).items()]
    for kind in kinds:
        if kind == "obj":
            written += [write_bytes(place / name, data) for name, data in obj_files(made.products).items()]
        else:
            written.append(write_kind(kind, made.products, settings, place))
    told = ai_label.declared(settings, labelled=ai_label.enabled(os.environ))
    record = {**figures_of(made.products).record(), "settings": told, "notes": list(made.notes)}
    return [*written, write_json(place / "mesh.json", record)]


def picture_files(products: Products, settings: Mapping[str, Any]) -> dict[str, bytes]:
    """PNG files of the pictures made on the way, by name."""
    labelled = ai_label.enabled(os.environ)
    files: dict[str, bytes] = {}
    if products.drawn is not None:
        files["drawn.png"] = ai_label.encode_picture(_rgb(products.drawn), ".png", settings, labelled=labelled)
    if products.cut is not None:
        picture = BytesIO()
        products.cut.save(picture, "PNG")
        files["cut-out.png"] = picture.getvalue()
    if products.views:
        files["views.png"] = ai_label.encode_picture(view_grid(products), ".png", settings, labelled=labelled)
    return files


def view_grid(products: Products) -> npt.NDArray[np.uint8]:
    """The six views in two rows of three, by azimuth."""
    tiles = [_rgb(view) for view in products.views[:6]]
    return np.concatenate([np.concatenate(tiles[row * 3 : row * 3 + 3], axis=1) for row in range(2)], axis=0)


def notes_of(made: Made, language: str = "en") -> list[str]:
    """What was done otherwise than asked, in words."""
    figures = {"grid": made.products.grid, "wished": made.request.grid}
    words = [label(f"mesh.note_{note}", language, **figures) for note in made.notes]
    if made.products.cut_by == "border":
        words.append(label("mesh.note_border", language))
    return words


def _free_folder(folder: Path, stem: str) -> Path:
    place, number = folder / f"{stem}-mesh", 2
    while place.exists():
        place, number = folder / f"{stem}-mesh-{number}", number + 1
    return place


def _shape_of(products: Products) -> Mesh:
    if products.shape is None:
        raise InputError("there is no mesh yet: run it first")
    return products.shape


def _colours_of(products: Products) -> Floats:
    assert products.colours is not None, "a shape has colours"
    return products.colours


def _rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(image.convert("RGB"), np.uint8)


def _linear(colours: Floats) -> Floats:
    """From sRGB, 0 .. 1, to linear light (IEC 61966-2-1)."""
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def _coloured(shape: Mesh, colours: Floats) -> trimesh.Trimesh:
    levels = (colours * 255).round().clip(0, 255).astype(np.uint8)
    return trimesh.Trimesh(shape.vertices[:, OBJ_AXES], shape.faces, vertex_colors=levels, process=False)
