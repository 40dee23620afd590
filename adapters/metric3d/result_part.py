"""What the tab shows of a depth run: comparison, measuring with clicks, three dimensions, a video, and files."""

from typing import Any

import gradio as gr

from adapters.metric3d import view
from adapters.metric3d.pipeline import MeasuredClip
from adapters.metric3d.saving import clip_scale, save_clip
from adapters.metric3d.view import Look, Shown
from kit.parts import states
from kit.parts.context import QUIET
from kit.parts.picture_input import thumbnails
from kit.parts.plain import html
from kit.parts.saving import Saving
from kit.texts.labels import label
from loader.errors import AnyhostError
from loader.outcome import Result

KEPT_SECONDS = 3600


class ResultPart:
    """A card with everything about a finished run.

    Attributes:
        box: the card.
        outputs: everything a finished run sets.
    """

    def __init__(self, language: str, status: gr.HTML) -> None:
        self._language, self._status = language, status
        self.view = gr.State(None, time_to_live=KEPT_SECONDS)
        self.look = gr.State(Look())
        with gr.Column(visible=False, elem_classes="ah-card ah-result", elem_id="depth-result") as self.box:
            self.note = html()
            self.facts = html(elem_id="depth-facts")
            self._build_strip()
            with gr.Tabs(elem_id="depth-views") as self.tabs:
                with gr.Tab(self._("depth.compare"), id="compare"):
                    self._build_compare()
                with gr.Tab(self._("depth.measure"), id="measure"):
                    self._build_measure()
                with gr.Tab(self._("depth.space"), id="space") as self.space_tab:
                    self._build_space()
            self.clip = gr.Video(
                label=self._("depth.clip_result"),
                visible=False,
                autoplay=True,
                loop=True,
                buttons=["download"],
                elem_id="depth-clip-result",
            )
            with gr.Row(elem_classes="ah-actions") as self.savers:
                self.save_all = gr.Button(self._("depth.save_all"), size="sm", elem_id="depth-save-all")
                self.save_ply = gr.Button(self._("depth.save_points"), size="sm", elem_id="depth-save-points")
                self.save_glb = gr.Button(self._("depth.save_surface"), size="sm", elem_id="depth-save-surface")
        self.saving = Saving(language, status)
        self._wire()

    @property
    def outputs(self) -> list[Any]:
        return [
            *(self.box, self.view, self.look, self.note, self.strip, self.tabs, self.clip, self.savers, self.layer),
            *self._drawn,
        ]

    # --- layout

    def _build_strip(self) -> None:
        self.strip = thumbnails(self._("detect.strip"), elem_id="depth-strip", format="jpeg", visible=False)

    def _build_compare(self) -> None:
        self.layer = gr.Radio(
            [(self._(f"depth.layer_{layer}"), layer) for layer in view.LAYERS],
            value="depth",
            show_label=False,
            container=False,
            label=self._("depth.layer"),
            elem_id="depth-layer",
        )
        self.slider = gr.ImageSlider(
            label=self._("depth.slider"),
            show_label=False,
            container=False,
            format="jpeg",
            interactive=False,
            buttons=["fullscreen"],
            max_height=640,
            elem_id="depth-slider",
        )
        self.legend = html(elem_id="depth-legend")

    def _build_measure(self) -> None:
        self.canvas = gr.Image(
            label=self._("depth.canvas"),
            show_label=False,
            interactive=False,
            format="jpeg",
            buttons=[],
            elem_id="depth-canvas",
        )
        self.readout = html(elem_id="depth-readout")
        with gr.Row(elem_classes="ah-actions depth-known"):
            self.known = gr.Number(1.0, label=self._("depth.known"), min_width=170, elem_id="depth-known-length")
            self.apply = gr.Button(self._("depth.apply"), size="sm", elem_id="depth-apply")
            self.clear = gr.Button(self._("depth.clear"), size="sm", elem_id="depth-clear")

    def _build_space(self) -> None:
        self.model = gr.Model3D(
            label=self._("depth.model"),
            show_label=False,
            container=False,
            interactive=False,
            clear_color=(0.11, 0.11, 0.1, 1.0),
            height=520,
            elem_id="depth-model",
        )
        html(f'<p class="ah-dim">{self._("depth.space_words")}</p>')

    def _(self, key: str, **figures: object) -> str:
        return label(key, self._language, **figures)

    # --- events

    def _wire(self) -> None:
        seen = [self.view, self.look]
        self.strip.select(self._pick, [self.look], [self.look], **QUIET).then(self._draw, seen, self._drawn, **QUIET)
        self.layer.input(self._choose_layer, [self.look, self.layer], [self.look], **QUIET).then(
            self._compare, seen, [self.slider, self.legend], **QUIET
        )
        self.canvas.select(self._click, [self.look], [self.look], **QUIET).then(
            self._measure, seen, [self.canvas, self.readout], **QUIET
        )
        self.clear.click(lambda look: look.at(look.index), [self.look], [self.look], **QUIET).then(
            self._measure, seen, [self.canvas, self.readout], **QUIET
        )
        self.apply.click(self._calibrate, [*seen, self.known], [self.look, self._status], **QUIET).then(
            self._draw, seen, self._drawn, **QUIET
        )
        self.space_tab.select(self._surface, seen, [self.model, self._status], **QUIET)
        for button, save in (
            (self.save_all, view.save_all),
            (self.save_ply, view.save_points),
            (self.save_glb, view.save_surface),
        ):
            self.saving.on(button, lambda folder, shown, look, save=save: shown and save(shown, look, folder), seen)

    @property
    def _drawn(self) -> list[Any]:
        return [self.facts, self.slider, self.legend, self.canvas, self.readout, self.model]

    def _pick(self, look: Look, event: gr.SelectData) -> Look:
        return look.at(int(event.index))

    def _choose_layer(self, look: Look, layer: str) -> Look:
        return Look(look.index, layer, look.points, look.factors)

    def _click(self, look: Look, event: gr.SelectData) -> Look:
        column, row = event.index
        return look.clicked(int(column), int(row))

    def _calibrate(self, shown: Shown | None, look: Look, known: float | None) -> list[Any]:
        if shown is None:
            return [look, gr.skip()]
        try:
            return [view.calibrated(shown, look, known), ""]
        except AnyhostError as error:
            return [look, states.failed(error, self._language)]

    def _draw(self, shown: Shown | None, look: Look) -> list[Any]:
        """Everything about one picture; the surface is made when its tab is opened."""
        if shown is None:
            return [gr.skip()] * len(self._drawn)
        facts = view.facts_markup(shown, look, self._language)
        return [facts, *self._compare(shown, look), *self._measure(shown, look), None]

    def _compare(self, shown: Shown | None, look: Look) -> list[Any]:
        if shown is None:
            return [gr.skip(), gr.skip()]
        return [view.compared(shown, look), view.legend_markup(shown, look, self._language)]

    def _measure(self, shown: Shown | None, look: Look) -> list[Any]:
        if shown is None:
            return [gr.skip(), gr.skip()]
        name = shown.kept[look.index].measured.name
        drawn = gr.update(value=view.marked(shown, look), alt_text=self._("depth.canvas_alt", name=name))
        return [drawn, view.readout_markup(shown, look, self._language)]

    def _surface(self, shown: Shown | None, look: Look) -> list[Any]:
        if shown is None:
            return [gr.skip(), gr.skip()]
        try:
            return [str(view.save_surface(shown, look, self.saving.folder())), gr.skip()]
        except AnyhostError as error:
            return [None, states.failed(error, self._language)]

    # --- finished runs

    def of_pictures(self, shown: Shown) -> dict[Any, Any]:
        """Updates that show a run of pictures."""
        several = len(shown.kept) > 1
        thumbs = [(view.thumbnail(kept), kept.measured.name) for kept in shown.kept] if several else None
        look = Look()
        layers = [(self._(f"depth.layer_{layer}"), layer) for layer in shown.layers]
        return {
            self.box: gr.update(visible=True),
            self.view: shown,
            self.look: look,
            self.note: view.weights_markup(shown.result, self._language),
            self.strip: gr.update(value=thumbs, visible=several),
            self.tabs: gr.update(visible=True, selected="compare"),
            self.clip: gr.update(value=None, visible=False),
            self.savers: gr.update(visible=True),
            self.layer: gr.update(choices=layers, value="depth"),
            **dict(zip(self._drawn, self._draw(shown, look), strict=True)),
        }

    def of_clip(self, result: Result) -> dict[Any, Any]:
        """Updates that show a run of a video."""
        (clip,) = result.outputs
        assert isinstance(clip, MeasuredClip), "a clip is measured as one"
        video, _ = save_clip(clip, result, self.saving.folder())
        return {
            self.box: gr.update(visible=True),
            self.view: None,
            self.look: Look(),
            self.note: view.weights_markup(result, self._language),
            self.facts: view.clip_markup(clip, clip_scale(clip), self._language),
            self.strip: gr.update(value=None, visible=False),
            self.tabs: gr.update(visible=False),
            self.clip: gr.update(value=str(video), visible=True),
            self.savers: gr.update(visible=False),
        }
