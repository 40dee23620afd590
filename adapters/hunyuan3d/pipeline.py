"""Hunyuan3D-1 on loaded components: from words or a picture to a mesh, stage by stage."""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from adapters.hunyuan3d import shaping, stages
from adapters.hunyuan3d.loading import cut_by, load_component_of
from adapters.hunyuan3d.painting import draw_picture
from adapters.hunyuan3d.products import Made, MeshRequest, Products
from loader.errors import InputError
from loader.outcome import Kept, Step, Unit
from loader.pipeline import Parts, Work
from loader.plan import Plan
from loader.spec import Variant

DRAWING = ("prompt_encoder", "prompt_encoder_t5", "painter", "painter_vae")
VIEWS = ("vision_encoder", "text_encoder", "vision_encoder_2", "vae", "view_unet")


@dataclass(frozen=True)
class Hunyuan3D:
    """See ``loader.pipeline.Pipeline``."""

    own_edges: Mapping[str, tuple[str, ...]]

    def load(self, component: str, plan: Plan, files: Mapping[str, Path], checkpoint: Path | None) -> nn.Module:
        """A network behind the call that the stages make.

        Raises:
            InputError: an own checkpoint: the model is many files.
        """
        if checkpoint is not None:
            raise InputError(
                f"{checkpoint.name}: Hunyuan3D-1 is many files, not one checkpoint; put them under their published "
                "names into a folder named by ANYHOST_WEIGHTS"
            )
        return load_component_of(component, plan.situation.spec.variant(plan.variant), files)

    def run(self, parts: Parts, request: MeshRequest) -> Work:
        """Run the stages that ``request.finished`` lacks; each finished one is kept and shown as a step's preview."""
        request = _settled(request, _variant(parts.plan))
        products = request.finished
        if not products.has("simplify"):
            products = yield from self._up_to_surface(parts, request, products)
            shape, colours = yield from shaping.simplify(parts, products, request.faces)
            products = replace(products, shape=shape, colours=colours)
            yield from _finished("simplify", products)
        if request.texture and not products.has("texture"):
            products = yield from shaping.paint(parts, products, int(_variant(parts.plan).config["texture_side"]))
            yield from _finished("texture", products)
        notes = ("coarse_grid",) if products.grid < request.grid else ()
        return (Made(request, products, notes),)

    def _up_to_surface(
        self, parts: Parts, request: MeshRequest, products: Products
    ) -> Generator[Step | Unit | Kept, Any, Products]:
        if products.has("surface"):
            return products
        if not products.has("reconstruct"):
            products = yield from self._up_to_views(parts, request, products)
            products = replace(products, planes=(yield from stages.reconstruct(parts, products.views)))
            yield from _finished("reconstruct", products)
        assert products.planes is not None, "reconstruction has just been finished"
        surface, size = yield from shaping.find_surface(parts, products.planes, request.grid)
        products = replace(products, surface=surface, grid=size)
        yield from _finished("surface", products)
        return products

    def _up_to_views(
        self, parts: Parts, request: MeshRequest, products: Products
    ) -> Generator[Step | Unit | Kept, Any, Products]:
        if not products.has("views"):
            if not products.has("cut_out"):
                products = yield from self._up_to_cut_out(parts, request, products)
            assert products.cut is not None, "the cut-out has just been finished"
            products = replace(products, views=(yield from stages.make_views(parts, products.cut, request.seed)))
            yield from _finished("views", products)
        return products

    def _up_to_cut_out(
        self, parts: Parts, request: MeshRequest, products: Products
    ) -> Generator[Step | Unit | Kept, Any, Products]:
        variant = _variant(parts.plan)
        picture = request.picture or products.drawn
        if picture is None:
            picture = yield from draw_picture(parts, request, _draw_side(variant))
            products = replace(products, drawn=picture)
            yield from _finished("draw", products)
        cut, how = yield from stages.cut_out(parts, picture, request, cut_by(variant))
        products = replace(products, cut=cut, cut_by=how)
        yield from _finished("cut_out", products)
        return products

    def uses(self, request: MeshRequest, plan: Plan) -> tuple[str, ...]:
        """The components of the stages that ``request.finished`` lacks, in order of their first call."""
        finished, names = request.finished, [c.name for c in _variant(plan).components]
        called: tuple[str, ...] = ("triplane_decoder",)
        if not finished.has("reconstruct"):
            called = ("image_encoder", "triplane_transformer", *called)
        if not finished.has("reconstruct") and not finished.has("views"):
            called = (*(name for name in VIEWS if name in names), *called)
            if not finished.has("cut_out"):
                drawing = () if request.picture is not None or finished.has("draw") else DRAWING
                called = (*drawing, "cut_out", *called)
        return called

    def sample(self, plan: Plan) -> None:
        """None: the smallest run there is costs as much as a request, and precision is as the authors run it."""
        del plan

    def drift(self, reference: tuple[Any, ...], outputs: tuple[Any, ...]) -> float:
        """Mean absolute difference of the decoded views, 0 .. 1."""
        differences = [
            np.abs(_pixels(there) - _pixels(here)).mean()
            for first, second in zip(reference, outputs, strict=True)
            for here, there in zip(first.products.views, second.products.views, strict=True)
        ]
        return float(np.mean(differences)) if differences else 0.0


def build_pipeline() -> Hunyuan3D:
    """The adapter's pipeline, as its spec names it."""
    return Hunyuan3D({})


def _finished(stage: str, products: Products) -> Iterator[Step | Kept]:
    """What the stages have made so far, to be shown, and to be had even if a later one fails."""
    # Kept before it is shown: who presses Stop at the sight of it has it.
    yield Kept("products", products)
    yield Step(f"mesh_{stage}_done", 1, 1, preview=products)


def _settled(request: MeshRequest, variant: Variant) -> MeshRequest:
    """The request with the variant's own grid and faces where it asks for none."""
    grid, faces = (int(variant.config[name]) for name in ("grid", "faces"))
    return replace(request, grid=request.grid or grid, faces=request.faces or faces)


def _variant(plan: Plan) -> Variant:
    return plan.situation.spec.variant(plan.variant)


def _draw_side(variant: Variant) -> int:
    side = int(variant.config.get("draw_side", 0))
    if not side:
        raise InputError(
            f"variant {variant.name} starts from a picture: for a description in words choose variant "
            f"text_{variant.name}, which draws it first"
        )
    return side


def _pixels(image: Image.Image) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(image, np.float64) / 255
