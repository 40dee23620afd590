"""What the tab shows of a run: the stages as they come, the mesh in three dimensions, and files."""

from pathlib import Path
from typing import Any

import gradio as gr

from adapters.hunyuan3d import view
from adapters.hunyuan3d.products import LEAST_FACES
from adapters.hunyuan3d.saving import KINDS, write_kind
from adapters.hunyuan3d.view import Kept
from kit.parts.context import QUIET
from kit.parts.markup import element, para, text
from kit.parts.picture_input import thumbnails
from kit.parts.plain import html
from kit.parts.saving import Saving
from kit.texts.labels import label
from loader.errors import InputError

KEPT_SECONDS = 3600
LOOKS = ("texture", "colours", "wireframe")
HEIGHT = 520
MOST_SHOWN_FACES = 120_000


class ResultPart:
    """A card of the stages, which stays whatever becomes of the run, and a card of the mesh.

    Attributes:
        kept: the visitor's ``Kept``.
        stages, box: the two cards.
        outputs: everything that a step or a finished run sets.
    """

    def __init__(self, language: str, status: gr.HTML) -> None:
        self._language = language
        self.kept = gr.State(None, time_to_live=KEPT_SECONDS)
        self.saving = Saving(language, status)
        self._build_stages()
        with gr.Column(visible=False, elem_classes="ah-card ah-result", elem_id="mesh-result") as self.box:
            self.note = html(elem_id="mesh-note")
            self._build_model()
            self.facts = html(elem_id="mesh-facts")
            with gr.Row(elem_classes="ah-actions mesh-again"):
                self.faces = gr.Slider(
                    LEAST_FACES,
                    MOST_SHOWN_FACES,
                    value=view.PRESETS["standard"].faces,
                    step=100,
                    label=self._("mesh.faces"),
                    info=self._("mesh.apply_info"),
                    buttons=[],
                    elem_id="mesh-again-faces",
                )
                self.apply = gr.Button(self._("mesh.apply_faces"), size="sm", elem_id="mesh-apply")
            html(para("ah-label", self._("mesh.save")))
            with gr.Row(elem_classes="ah-actions mesh-chips"):
                self._savers = {
                    kind: gr.Button(self._(f"mesh.save_{kind}"), size="sm", min_width=70, elem_id=f"mesh-save-{kind}")
                    for kind in KINDS
                }
        self._wire()

    @property
    def outputs(self) -> list[Any]:
        return [self.kept, self.stages, self.box, *self._strip_parts, self.note, *self._model_parts]

    @property
    def _strip_parts(self) -> list[Any]:
        return [self.strip, self.go_on, self.redraw, self.review]

    @property
    def _model_parts(self) -> list[Any]:
        return [self.look, self.facts, self.faces]

    # --- layout

    def _build_stages(self) -> None:
        with gr.Column(visible=False, elem_classes="ah-card ah-result", elem_id="mesh-stages") as self.stages:
            html(element("h3", text(self._("mesh.stages"))) + para("ah-dim", self._("mesh.stages_words")))
            self.strip = thumbnails(self._("mesh.stages"), elem_id="mesh-strip", columns=4, format="jpeg")
            with gr.Row(elem_classes="ah-actions mesh-chips"):
                self.go_on = gr.Button(self._("mesh.go_on"), variant="primary", size="sm", elem_id="mesh-go-on")
                self.redraw = gr.Button(self._("mesh.redraw"), size="sm", elem_id="mesh-redraw")
                self.review = gr.Button(self._("mesh.review"), size="sm", elem_id="mesh-review")

    def _build_model(self) -> None:
        self.look = gr.Radio(
            [(self._(f"mesh.look_{look}"), look) for look in LOOKS],
            value="texture",
            label=self._("mesh.look"),
            show_label=False,
            container=False,
            elem_id="mesh-look",
        )
        self.model = gr.Model3D(
            label=self._("mesh.model"),
            show_label=False,
            container=False,
            interactive=False,
            clear_color=(0.94, 0.93, 0.91, 1.0),
            height=HEIGHT,
            elem_id="mesh-model",
        )
        html(para("ah-dim", self._("mesh.model_words")))

    def _(self, key: str, **figures: object) -> str:
        return label(key, self._language, **figures)

    # --- events

    def _wire(self) -> None:
        # Only now is the card there: a viewer that was given its model while hidden stays empty.
        self.kept.change(self._made, [self.kept], [self.model], **QUIET)
        self.look.input(self._looked, [self.kept, self.look], [self.model], **QUIET)
        for kind, button in self._savers.items():
            self.saving.on(button, self._saver(kind), [self.kept])

    def _made(self, kept: Kept | None) -> Any:
        """The model of a finished run, and none while one goes on."""
        if kept is None or kept.result is None:
            return None
        return self._looked(kept, _looks(kept)[0])

    def _looked(self, kept: Kept | None, look: str) -> Any:
        if kept is None or kept.products.shape is None:
            return gr.skip()
        mode = "wireframe" if look == "wireframe" else "solid"
        return gr.update(value=str(view.model_file(kept, look, self.saving.folder())), display_mode=mode)

    def _saver(self, kind: str) -> Any:
        def save(folder: Path, kept: Kept | None) -> Path:
            if kept is None:
                raise InputError("there is no mesh yet: run it first")
            return write_kind(kind, kept.products, view.settings(kept), folder, self._language)

        return save

    # --- what is shown

    def on_the_way(self, kept: Kept) -> dict[Any, Any]:
        """Updates while a run goes on: its finished stages."""
        shown = view.stage_pictures(kept.products, self._language)
        hidden = gr.update(visible=False)
        return {
            self.kept: kept,
            self.stages: gr.update(visible=bool(shown)),
            self.strip: shown,
            self.go_on: gr.update(visible=kept.unfinished and kept.begun),
            self.redraw: gr.update(visible=kept.products.drawn is not None),
            self.review: gr.update(visible=bool(kept.products.views)),
            self.box: hidden,
        }

    def of(self, kept: Kept) -> dict[Any, Any]:
        """Updates that show a finished run."""
        looks = [(self._(f"mesh.look_{look}"), look) for look in _looks(kept)]
        return {
            **self.on_the_way(kept),
            self.box: gr.update(visible=True),
            self.note: view.note_markup(kept, self._language),
            self.look: gr.update(choices=looks, value=looks[0][1]),
            self.facts: view.facts_markup(kept, self._language),
            self.faces: gr.update(value=min(kept.request.faces, MOST_SHOWN_FACES)),
        }


def _looks(kept: Kept) -> list[str]:
    """Ways to show the mesh, the best first."""
    return [look for look in LOOKS if look != "texture" or kept.products.texture is not None]
