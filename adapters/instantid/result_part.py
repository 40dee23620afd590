"""What the tab shows of a drawing: how it comes about, the pictures, before and after, files and settings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from adapters.instantid import view
from adapters.instantid.saving import FORMATS, shown_rgb
from adapters.instantid.view import Drawings
from kit.parts.context import QUIET
from kit.parts.plain import html
from kit.parts.saving import Saving
from kit.texts.labels import label
from loader.outcome import Step

KEPT_SECONDS = 3600


class ResultPart:
    """A picture while it is drawn, and a card with the finished ones.

    Attributes:
        live: shown while it runs.
        box: the card.
        seed: "use this seed"; the tab says what with.
        outputs: everything a run sets.
    """

    def __init__(self, language: str, status: gr.HTML) -> None:
        self.language = language
        self.drawings = gr.State(None, time_to_live=KEPT_SECONDS)
        self.chosen = gr.State(0)
        self.live = gr.Image(
            label=self._("identity.live"),
            interactive=False,
            visible=False,
            height=420,
            buttons=[],
            elem_id="identity-live",
        )
        with gr.Column(visible=False, elem_classes="ah-card ah-result", elem_id="identity-result") as self.box:
            self.facts = html(elem_id="identity-facts")
            with gr.Tabs(elem_id="identity-views"):
                with gr.Tab(self._("identity.gallery"), id="gallery"):
                    self._build_gallery()
                with gr.Tab(self._("identity.compare"), id="compare"):
                    self.slider = gr.ImageSlider(
                        show_label=False, height=460, interactive=False, buttons=[], elem_id="identity-compare"
                    )
                with gr.Tab(self._("identity.record"), id="record"):
                    self.record = gr.Textbox(
                        label=self._("identity.record_label"),
                        info=self._("identity.record_info"),
                        lines=10,
                        max_lines=24,
                        interactive=False,
                        buttons=["copy"],
                        elem_id="identity-record",
                    )
            self._build_savers()
        self.saving = Saving(language, status)
        self._wire()

    def _build_gallery(self) -> None:
        self.gallery = gr.Gallery(
            show_label=False,
            columns=2,
            height="auto",
            object_fit="contain",
            interactive=False,
            buttons=["fullscreen"],
            elem_id="identity-gallery",
        )

    def _build_savers(self) -> None:
        with gr.Row(elem_classes="ah-actions", elem_id="identity-savers"):
            self.kind = gr.Dropdown(
                [(kind.upper(), kind) for kind in FORMATS],
                value=FORMATS[0],
                label=self._("identity.kind"),
                container=False,
                min_width=90,
                elem_id="identity-kind",
            )
            self.save_one = gr.Button(self._("identity.save"), size="sm", elem_id="identity-save")
            self.save_all = gr.Button(self._("identity.save_all"), size="sm", elem_id="identity-save-all")
            self.seed = gr.Button(self._("identity.use_seed"), size="sm", elem_id="identity-use-seed")

    def _wire(self) -> None:
        self.gallery.select(self._choose, [self.drawings], self._of_one(), **QUIET)
        self.saving.on(self.save_one, self._save_one, [self.drawings, self.chosen, self.kind])
        self.saving.on(self.save_all, self._save_all, [self.drawings, self.kind])

    def _of_one(self) -> list[Any]:
        return [self.chosen, self.facts, self.slider, self.record]

    @property
    def outputs(self) -> Sequence[Any]:
        return [self.live, self.box, self.drawings, self.gallery, *self._of_one()]

    # --- what a run shows

    def step(self, step: Step) -> dict[Any, Any]:
        """How a drawing comes about."""
        if step.preview is None or step.stage not in ("drawing_steps", "decoding_pictures"):
            return {}
        picture = np.asarray(view.live_picture(step.preview), np.uint8)
        return {self.live: gr.update(value=shown_rgb(picture, self.language), visible=True)}

    def finished(self, drawings: Drawings) -> dict[Any, Any]:
        """The pictures of a run."""
        files = view.picture_files(drawings, self.saving.folder(), language=self.language)
        return {
            self.live: gr.update(value=None, visible=False),
            self.box: gr.update(visible=True),
            self.drawings: drawings,
            self.gallery: gr.update(
                value=[(str(path), str(one.seed)) for path, one in zip(files, drawings.drawn, strict=True)],
                columns=1 if len(files) == 1 else 2,
                selected_index=None,
            ),
            **dict(zip(self._of_one(), self._shown(drawings, 0), strict=True)),
        }

    def _shown(self, drawings: Drawings, index: int) -> list[Any]:
        one = drawings.one(index)
        pair = (one.shape, shown_rgb(one.rgb, self.language))
        words = view.facts(drawings, index, self.language)
        return [index, words, pair, view.settings_text(drawings, index)]

    def _choose(self, event: gr.SelectData, drawings: Drawings | None) -> list[Any]:
        if drawings is None:
            return [gr.skip()] * len(self._of_one())
        return self._shown(drawings, int(event.index))

    # --- files

    def _save_one(self, folder: Path, drawings: Drawings | None, index: int, kind: str) -> Path | None:
        if drawings is None:
            return None
        return view.picture_file(drawings, index, folder, kind=kind, language=self.language)

    def _save_all(self, folder: Path, drawings: Drawings | None, kind: str) -> Path | None:
        return None if drawings is None else view.archive(drawings, folder, kind=kind, language=self.language)

    def _(self, key: str) -> str:
        return label(key, self.language)
