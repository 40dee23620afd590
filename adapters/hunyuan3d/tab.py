"""The Hunyuan3D-1 tab: a picture or words in, a mesh out, every stage shown as it comes and kept."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.hunyuan3d import view
from adapters.hunyuan3d.endpoint import Endpoint
from adapters.hunyuan3d.products import (
    DRAW_STEPS,
    LEAST_FACES,
    MOST_FACES,
    MOST_WORDS,
    STAGES,
    Made,
    MeshRequest,
    Products,
    Stage,
    open_rgba,
)
from adapters.hunyuan3d.result_part import ResultPart
from adapters.hunyuan3d.spec import SPEC
from adapters.hunyuan3d.view import PRESETS, Kept
from kit.parts.context import QUIET, PageContext
from kit.parts.markup import para
from kit.parts.model_tab import ModelTab, Updates
from kit.parts.picture_input import PictureInput, example_pictures, paths_of
from kit.parts.plain import html
from kit.running import Asked, told
from loader.errors import InputError
from loader.outcome import Kept as KeptStage
from loader.outcome import Result, Step
from loader.wishes import Wishes

GRIDS = (96, 128, 192, 256, 320, 384)
MOST_SHOWN_FACES = 120_000
# What a run begins with, as the value of a constant input: everything anew, or from a stage of what is kept.
ANEW, GO_ON, REDRAW, REVIEW, REFACE = "", "go_on", "draw", "views", "simplify"


def tab(context: PageContext) -> None:
    """Build the tab inside the current one, with its events and the endpoint ``/mesh``."""
    MeshTab(context).build()


def example_files() -> list[Path]:
    """Pictures of single objects that ship with the project."""
    return [path for path in example_pictures() if path.stem.startswith("mesh")]


class MeshTab(ModelTab[Kept]):
    """Picture or words, quality, and what ``ResultPart`` shows."""

    spec = SPEC

    def build_input(self) -> None:
        self.kind = gr.State("picture")
        self.start = gr.State(ANEW)
        with gr.Tabs(elem_id="mesh-kinds") as self.kinds:
            with gr.Tab(self._("mesh.from_picture"), id="picture") as self.picture_tab:
                self.input = PictureInput(self.language, self.prefix, example_files())
                self.keep_alpha = gr.Checkbox(
                    False,
                    label=self._("mesh.keep_alpha"),
                    info=self._("mesh.keep_alpha_info"),
                    container=False,
                    elem_id="mesh-alpha",
                )
            with gr.Tab(self._("mesh.from_words"), id="words") as self.words_tab:
                self._build_words()

    def _build_words(self) -> None:
        self.words = gr.Textbox(
            "",
            label=self._("mesh.words"),
            placeholder=self._("mesh.words_hint"),
            info=self._("mesh.words_info", limit=MOST_WORDS),
            lines=3,
            max_length=MOST_WORDS,
            elem_id="mesh-words",
        )
        html(para("ah-label", self._("mesh.words_examples")))
        with gr.Row(elem_classes="ah-actions mesh-chips"):
            self.chips = [
                gr.Button(words, size="sm", variant="secondary", min_width=80)
                for words in self._("mesh.example_words").split("|")
            ]

    def build_options(self) -> None:
        lines = {name: view.preset_line(name, self.context.host, self.language) for name in PRESETS}
        self.preset = gr.Radio(
            [(self._(f"mesh.preset_{name}"), name) for name in PRESETS],
            value="standard",
            label=self._("mesh.preset"),
            info=self._("mesh.preset_info", **lines),
            elem_id="mesh-preset",
        )
        first = view.preset_on("standard", self.context.host)
        with gr.Accordion(self._("mesh.details"), open=False, elem_classes="ah-fold", elem_id="mesh-details"):
            with gr.Row():
                self.seed = gr.Number(0, label=self._("mesh.seed"), precision=0, minimum=0, elem_id="mesh-seed")
                self.draw_seed = gr.Number(0, label=self._("mesh.draw_seed"), precision=0, minimum=0)
            self.draw_steps = gr.Slider(1, 50, value=DRAW_STEPS, step=1, label=self._("mesh.draw_steps"), buttons=[])
            self.grid = gr.Dropdown(
                [(f"{n}³", n) for n in GRIDS],
                value=first.grid,
                label=self._("mesh.grid"),
                info=self._("mesh.grid_info"),
            )
            self.faces = gr.Slider(
                LEAST_FACES,
                MOST_SHOWN_FACES,
                value=first.faces,
                step=100,
                label=self._("mesh.faces"),
                buttons=[],
                elem_id="mesh-faces",
            )
            self.texture = gr.Checkbox(
                first.texture, label=self._("mesh.texture"), info=self._("mesh.texture_info"), container=False
            )
        html(para("ah-dim", self._("mesh.use")))

    def build_result(self) -> None:
        self.result = ResultPart(self.language, self.status)

    def build_endpoint(self) -> None:
        Endpoint(self.context)

    # --- events

    def wire(self) -> None:
        self.input.wire(self.status)
        for chosen, kind in ((self.picture_tab, "picture"), (self.words_tab, "words")):
            chosen.select(lambda kind=kind: kind, None, [self.kind], **QUIET).then(
                self._for_kind, [self.kind, self.preset, *self.panel.controls], self.panel.controls, **QUIET
            )
        # Words that are brought back are worked on, whichever tab is open; whoever types them has theirs open.
        self.words.change(_kind_with, [self.words, self.kind], [self.kinds, self.kind], **QUIET)
        for chip in self.chips:
            chip.click(lambda words: words, [chip], [self.words], **QUIET)
        self.preset.input(
            self._preset,
            [self.kind, self.preset, *self.panel.controls],
            [self.grid, self.faces, self.texture, *self.panel.controls],
            **QUIET,
        )
        shape = [self.grid, self.faces]
        variant = dict(zip(self.panel.names, self.panel.controls, strict=True))["variant"]
        variant.input(self._for_variant, [variant, *shape], shape, **QUIET)
        for button, start in (
            (self.result.go_on, GO_ON),
            (self.result.redraw, REDRAW),
            (self.result.review, REVIEW),
            (self.result.apply, REFACE),
        ):
            self._wire_from(button, start)

    def _wire_from(self, button: gr.Button, start: str) -> None:
        """A run that begins with what is kept: the events of the run button, with another constant."""
        begun = gr.State(start)
        self.begins(button, [begun if part is self.start else part for part in self.inputs()])

    def _for_kind(self, kind: str, preset: str, *wished: Any) -> list[Any]:
        """Wishes for pictures, or for words, which need a variant that draws first."""
        wishes = self.panel.read(wished)
        base = (wishes.variant or PRESETS[preset].variant or "").removeprefix("text_") or None
        return self._with(wished, variant=self._variant(kind, base, wishes))

    def _preset(self, kind: str, name: str, *wished: Any) -> list[Any]:
        preset = view.preset_on(name, self.context.host)
        wishes = self.panel.read(wished)
        base = "miniature" if wishes.variant == "miniature" else preset.variant
        steps = "" if preset.steps is None else str(preset.steps)
        controls = self._with(wished, variant=self._variant(kind, base, wishes), steps=steps)
        return [preset.grid, preset.faces, preset.texture, *controls]

    @staticmethod
    def _for_variant(variant: str, grid: int, faces: float) -> list[Any]:
        """An untrained field shows no more on a fine grid, and takes as long."""
        if variant != "miniature":
            return [grid, faces]
        small = SPEC.variant(variant).config
        return [int(small["grid"]), int(small["faces"])]

    def _variant(self, kind: str, base: str | None, wishes: Wishes) -> str:
        planned = self.planning.plan(replace(wishes, variant=base))
        return view.variant_for(words=kind == "words", base=base, planned=planned)

    def _with(self, wished: Sequence[Any], **changed: str) -> list[Any]:
        return [changed.get(name, value) for name, value in zip(self.panel.names, wished, strict=True)]

    # --- a run

    def inputs(self) -> Sequence[Any]:
        return [
            self.start,
            self.result.kept,
            self.result.faces,
            *(self.kind, self.input.pictures, self.keep_alpha, self.words),
            *(self.seed, self.draw_seed, self.draw_steps, self.grid, self.faces, self.texture),
        ]

    def outputs(self) -> Sequence[Any]:
        return self.result.outputs

    def result_boxes(self) -> Sequence[Any]:
        return [self.result.box]

    def settings(self) -> dict[str, Any]:
        return {
            "words": self.words,
            "seed": self.seed,
            "keep_alpha": self.keep_alpha,
            "draw_seed": self.draw_seed,
            "draw_steps": self.draw_steps,
            "grid": self.grid,
            "faces": self.faces,
            "texture": self.texture,
        }

    def lacking(self, values: Sequence[Any]) -> str:
        start, kept, _, kind, pictures, _, words, *_ = values
        given = kept is not None if start else bool(pictures) if kind == "picture" else bool((words or "").strip())
        return "" if given else self.empty(alert=True)

    def job(self, values: Sequence[Any], asked: Asked) -> Generator[Step | Kept, None, None]:
        request = self._request(values)
        if request.finished != request.again_from("draw", request.finished).finished:
            # What is there already is shown at once, and stays if this run comes to nothing.
            yield Step("preparing", 1, 1, preview=Kept(request, request.finished))
        for item in told(self.context.engine, SPEC, request, asked):
            if isinstance(item, Result):
                made: Made = item.outputs[0]
                yield Kept(made.request, made.products, item)
            elif isinstance(item.preview, Products):
                yield replace(item, preview=Kept(request, item.preview))
            else:
                yield item

    def _request(self, values: Sequence[Any]) -> MeshRequest:
        start, kept, again_faces, *given = values
        if start and isinstance(kept, Kept):
            return _again(start, kept, int(again_faces))
        kind, pictures, keep_alpha, words, seed, draw_seed, draw_steps, grid, faces, texture = given
        paths = paths_of(pictures) if kind == "picture" else []
        if kind == "picture" and len(paths) > 1:
            raise InputError(f"{len(paths)} pictures were given: a mesh is made of one, remove the others")
        return MeshRequest(
            picture=open_rgba(paths[0]) if paths else None,
            words="" if paths else words or "",
            name=paths[0].name if paths else "mesh",
            keep_alpha=bool(keep_alpha),
            seed=_whole(seed),
            draw_seed=_whole(draw_seed),
            draw_steps=int(draw_steps),
            grid=int(grid),
            faces=min(int(faces), MOST_FACES),
            texture=bool(texture),
        )

    def finished(self, outcome: Kept, values: Sequence[Any]) -> Updates:
        del values
        account = self.account(outcome.result) if outcome.result is not None else {}
        return {**account, **self.result.of(outcome)}

    def finished_part(self, kept: Sequence[KeptStage], values: Sequence[Any], ended: Result) -> tuple[str, Updates]:
        del ended
        products: Products = kept[-1].value
        done = (self._(f"kept.{stage}") for stage in STAGES if products.has(stage))
        return self._("terms.join").join(done), self.result.on_the_way(Kept(self._request(values), products))

    def step_shown(self, step: Step) -> Updates:
        return self.result.on_the_way(step.preview) if isinstance(step.preview, Kept) else {}


def _again(start: str, kept: Kept, faces: int) -> MeshRequest:
    """The kept request, from the stage that ``start`` names on."""
    request, products = kept.request, kept.products
    changes: dict[str, Callable[[], MeshRequest]] = {
        GO_ON: lambda: replace(request, finished=products),
        REDRAW: lambda: _from_stage(replace(request, draw_seed=request.draw_seed + 1), "draw", products),
        REVIEW: lambda: _from_stage(replace(request, seed=request.seed + 1), "views", products),
        REFACE: lambda: _from_stage(replace(request, faces=faces), "simplify", products),
    }
    return changes[start]()


def _from_stage(request: MeshRequest, stage: Stage, products: Products) -> MeshRequest:
    return request.again_from(stage, products)


def _kind_with(words: str, kind: str) -> list[Any]:
    """The tab to show and its kind: that of words where there are any."""
    if kind == "words" or not words.strip():
        return [gr.skip(), gr.skip()]
    return [gr.update(selected="words"), "words"]


def _whole(value: float | None) -> int:
    """A seed from a field that may have been emptied."""
    return 0 if value is None else int(value)
