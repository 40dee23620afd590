"""What a request asks for and what its stages have made so far; both plain values, so that a stage can be run again."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from torch import Tensor

from adapters.hunyuan3d.mesh import Floats, Mesh
from adapters.hunyuan3d.texture import Atlas
from kit.images import open_picture
from loader.errors import InputError

Stage = Literal["draw", "cut_out", "views", "reconstruct", "surface", "simplify", "texture"]
STAGES: tuple[Stage, ...] = ("draw", "cut_out", "views", "reconstruct", "surface", "simplify", "texture")
CutBy = Literal["u2net", "alpha", "border"]

LEAST_FACES, MOST_FACES = 200, 300_000
LEAST_GRID, MOST_GRID = 16, 512
DRAW_STEPS = 25
MOST_WORDS = 300
"""Characters of a description; the networks read 77 and 256 tokens of it."""
LARGEST_SIDE = 2048
"""A larger picture is scaled down before the cut-out: the networks see 640 pixels of it at most."""
MOST_SEED = 2**63 - 1
WRITTEN = ("glb", "obj", "ply", "stl")
"""Kinds of files that are written unless others are asked for."""


@dataclass(frozen=True, eq=False)
class Products:
    """What the stages made; None where a stage has not been reached, or is to be run again.

    Attributes:
        drawn: RGB picture made from words.
        cut: RGBA, 512 × 512, the object alone; ``cut_by`` says how it was cut out.
        views: six RGB pictures, azimuth 0° to 300°, and last the picture that reconstruction sees with them.
        planes: ``[1, 3, C, R, R]`` fp32 on the CPU.
        surface: the mesh as found on a grid of ``grid`` points an axis, before its faces are reduced.
        shape: the mesh with at most the wished number of faces; ``colours [V, 3]`` of its vertices, 0 .. 1.
        atlas: the shape laid flat, and its ``texture [side, side, 3]``.
    """

    drawn: Image.Image | None = None
    cut: Image.Image | None = None
    cut_by: CutBy = "u2net"
    views: tuple[Image.Image, ...] = ()
    planes: Tensor | None = None
    surface: Mesh | None = None
    grid: int = 0
    shape: Mesh | None = None
    colours: Floats | None = None
    atlas: Atlas | None = None
    texture: npt.NDArray[np.uint8] | None = None

    def has(self, stage: Stage) -> bool:
        """Whether ``stage`` has been finished."""
        return {
            "draw": self.drawn is not None,
            "cut_out": self.cut is not None,
            "views": bool(self.views),
            "reconstruct": self.planes is not None,
            "surface": self.surface is not None,
            "simplify": self.shape is not None,
            "texture": self.texture is not None,
        }[stage]

    def before(self, stage: Stage) -> "Products":
        """Without what ``stage`` and those after it made."""
        after = STAGES[STAGES.index(stage) :]
        kept = self
        for name in after:
            kept = replace(kept, **_EMPTY[name])
        return kept

    @property
    def picture(self) -> Image.Image | None:
        """What best shows the progress: the last picture made."""
        return self.views[0] if self.views else self.cut or self.drawn


_EMPTY: dict[Stage, dict[str, Any]] = {
    "draw": {"drawn": None},
    "cut_out": {"cut": None, "cut_by": "u2net"},
    "views": {"views": ()},
    "reconstruct": {"planes": None},
    "surface": {"surface": None, "grid": 0},
    "simplify": {"shape": None, "colours": None},
    "texture": {"atlas": None, "texture": None},
}


@dataclass(frozen=True)
class MeshRequest:
    """A picture, or words, to a mesh.

    Attributes:
        picture: RGBA, or RGB; None when ``words`` are given.
        words: what to draw first, in Chinese or English.
        name: of the outputs.
        keep_alpha: use the picture's own transparency instead of cutting it out, if it has any.
        draw_seed: of the picture drawn from words; ``seed`` of the views.
        draw_steps: denoising steps of that picture; those of the views are the plan's.
        grid: points along an axis of the grid that is searched for the surface; 0 for the variant's own.
        faces: at most so many; 0 for the variant's own.
        texture: make a texture; vertex colours are made always.
        finished: what earlier runs made; those stages are not run again.
        kinds: of files to write, for those who write files.

    Raises:
        InputError: neither or both of picture and words, or a number out of its limits.
    """

    picture: Image.Image | None = None
    words: str = ""
    name: str = "mesh"
    keep_alpha: bool = False
    seed: int = 0
    draw_seed: int = 0
    draw_steps: int = DRAW_STEPS
    grid: int = 0
    faces: int = 0
    texture: bool = True
    finished: Products = field(default_factory=Products)
    kinds: tuple[str, ...] = WRITTEN
    items = 1

    def __post_init__(self) -> None:
        if bool(self.words.strip()) == (self.picture is not None):
            raise InputError("give a picture or a description in words, one of the two")
        if len(self.words) > MOST_WORDS:
            raise InputError(f"the description has {len(self.words)} characters; the limit is {MOST_WORDS}: shorten it")
        limits = (
            ("seed", self.seed, 0, MOST_SEED),
            ("draw_seed", self.draw_seed, 0, MOST_SEED),
            ("draw_steps", self.draw_steps, 1, 200),
            ("grid", self.grid, LEAST_GRID, MOST_GRID),
            ("faces", self.faces, LEAST_FACES, MOST_FACES),
        )
        for name, value, least, most in limits:
            if not least <= value <= most and (value, name) not in ((0, "grid"), (0, "faces")):
                raise InputError(f"{name} {value:,} is out of its limits: {least:,} to {most:,}")

    @property
    def teaches(self) -> bool:
        """Only a whole run from a picture tells what a run takes."""
        return not any(self.finished.has(stage) for stage in STAGES) and not self.words

    def again_from(self, stage: Stage, finished: Products) -> "MeshRequest":
        """The same request that runs ``stage`` and those after it again."""
        return replace(self, finished=finished.before(stage))


def open_rgba(path: Path) -> Image.Image:
    """A picture file upright, RGBA if it is transparent anywhere, else RGB; its longer side at most 2048 pixels.

    Raises:
        InputError: as ``kit.images.open_picture``.
    """
    picture = open_picture(path)
    image = Image.fromarray(picture.rgb)
    if "transparent" in picture.notes:
        with Image.open(path) as raw:
            image = ImageOps.exif_transpose(raw).convert("RGBA")
    return limited(image)


def limited(image: Image.Image) -> Image.Image:
    """``image``, scaled down if its longer side is above 2048 pixels."""
    side = max(image.size)
    if side <= LARGEST_SIDE:
        return image
    width, height = (max(1, round(edge * LARGEST_SIDE / side)) for edge in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def has_alpha(image: Image.Image) -> bool:
    """Whether any pixel is transparent."""
    if image.mode != "RGBA":
        return False
    extremes: Sequence[float] = image.getchannel("A").getextrema()  # type: ignore[assignment]
    return extremes[0] < 255


class Made(NamedTuple):
    """A run's outcome: what was asked, what the stages made, what was done differently.

    Attributes:
        notes: ids of words: "coarse_grid" where memory forced a coarser grid than asked for.
    """

    request: MeshRequest
    products: Products
    notes: tuple[str, ...] = ()
