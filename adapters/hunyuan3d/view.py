"""What the tab shows of a run: pictures of the stages, numbers of the mesh, models for the viewer. No gradio here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from adapters.hunyuan3d.cameras import AZIMUTHS_DEG
from adapters.hunyuan3d.prepare import on_white
from adapters.hunyuan3d.products import STAGES, Made, MeshRequest, Products, Stage
from adapters.hunyuan3d.saving import figures_of, glb_bytes, notes_of, settings_of
from adapters.hunyuan3d.spec import SPEC
from kit.exports import write_bytes
from kit.parts.markup import div, element, sentence, text
from kit.texts.labels import label
from loader.host import Host
from loader.outcome import Result
from loader.plan import Plan

THUMBNAIL = 320


@dataclass(frozen=True)
class Preset:
    """A level of quality: which view model (None: the plan's), how many steps, how fine."""

    variant: str | None
    steps: int | None
    grid: int
    faces: int
    texture: bool


PRESETS: Mapping[str, Preset] = {
    "draft": Preset("lite", 20, 192, 10_000, texture=False),
    "standard": Preset(None, None, 384, 40_000, texture=True),
    "best": Preset("std", 75, 384, 90_000, texture=True),
}


def preset_on(name: str, host: Host) -> Preset:
    """The preset on a host: without an accelerator the standard has the steps that its patience allows."""
    preset = PRESETS[name]
    if preset.steps is None and not host.accelerators:
        return Preset(preset.variant, SPEC.cpu_only.steps, preset.grid, preset.faces, preset.texture)
    return preset


def preset_line(name: str, host: Host, language: str) -> str:
    """What a preset stands for."""
    preset = preset_on(name, host)
    planned = label("mesh.planned", language)
    return label(
        "mesh.preset_line",
        language,
        variant=preset.variant or planned,
        steps=preset.steps or SPEC.variant(SPEC.default).steps,
        grid=preset.grid,
        faces=f"{preset.faces:,}",
    )


def variant_for(*, words: bool, base: str | None, planned: Plan) -> str:
    """The variant to wish for: ``base`` or the planned one, with the drawing of words before it where there are any.

    "" leaves it to the plan. A miniature does both and stays.
    """
    if planned.variant == "miniature" or base == "miniature":
        return "miniature"
    if not words:
        return base or ""
    return f"text_{(base or planned.variant).removeprefix('text_')}"


@dataclass(frozen=True, eq=False)
class Kept:
    """What a visitor's page keeps: the request, what its stages have made, and the result if it came to one."""

    request: MeshRequest
    products: Products
    result: Result | None = None

    @property
    def made(self) -> Made:
        """Request and products as an outcome."""
        return Made(self.request, self.products)

    @property
    def unfinished(self) -> bool:
        """Whether stages are missing that were asked for."""
        last: Stage = "texture" if self.request.texture else "simplify"
        return not self.products.has(last)

    @property
    def begun(self) -> bool:
        """Whether anything is there to go on from."""
        return any(self.products.has(stage) for stage in STAGES)


def stage_pictures(products: Products, language: str) -> list[tuple[Image.Image, str]]:
    """Small pictures of the finished stages with their captions."""
    shown: list[tuple[Image.Image, str]] = []
    if products.drawn is not None:
        shown.append((_small(products.drawn), label("mesh.stage_drawn", language)))
    if products.cut is not None:
        shown.append((_small(on_white(products.cut)), label("mesh.stage_cut", language)))
    for index, seen in enumerate(products.views[: len(AZIMUTHS_DEG)]):
        degrees = round(AZIMUTHS_DEG[index])
        shown.append((_small(seen), label("mesh.stage_view", language, degrees=degrees)))
    return shown


def facts_markup(kept: Kept, language: str) -> str:
    """Faces, vertices, whether it is closed, and its extent, with what was done otherwise than asked."""
    found = figures_of(kept.products)
    low, high = found.bounds
    width, height, depth = (f"{b - a:.2f}" for a, b in zip(low, high, strict=True))
    extent = label("mesh.facts_size_value", language, width=width, height=height, depth=depth)
    rows = (
        ("mesh.facts_faces", f"{found.faces:,}", label("mesh.facts_grid", language, grid=found.grid)),
        ("mesh.facts_vertices", f"{found.vertices:,}", ""),
        ("mesh.facts_closed", label("mesh.closed" if found.watertight else "mesh.open", language), ""),
        ("mesh.facts_size", extent, label("mesh.facts_size_words", language)),
    )
    items = (
        div(
            "ah-fact",
            element("dt", text(label(key, language))),
            element("dd", element("strong", text(value)), element("p", text(words)) if words else ""),
        )
        for key, value, words in rows
    )
    return element("dl", *items, classes="ah-facts mesh-facts")


def note_markup(kept: Kept, language: str) -> str:
    """That a miniature means nothing, and what was done otherwise than asked; "" if there is nothing to say."""
    words = []
    if kept.result is not None and kept.result.weights == "miniature":
        words.append(label("mesh.miniature", language))
    made = kept.result.outputs[0] if kept.result is not None else kept.made
    words += notes_of(made, language)
    return div("ah-note", *(element("p", text(sentence(word))) for word in words)) if words else ""


def model_file(kept: Kept, look: str, folder: Path) -> Path:
    """The GLB for the viewer: textured, or with vertex colours.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    plain = look == "colours"
    name = "mesh-colours.glb" if plain else "mesh.glb"
    return write_bytes(folder / name, glb_bytes(kept.products, settings(kept), plain=plain))


def settings(kept: Kept) -> dict[str, object]:
    """What would give this mesh again, as far as it is known."""
    return settings_of(kept.result, kept.made) if kept.result is not None else {"adapter": SPEC.name}


def _small(image: Image.Image) -> Image.Image:
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return small
