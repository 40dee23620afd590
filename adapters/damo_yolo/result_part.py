"""What the tab shows of pictures that were looked through: boxes, filters that need no second run, table, files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.damo_yolo import files, view
from adapters.damo_yolo.detecting import Detected
from adapters.damo_yolo.job import DEFAULT_THRESHOLD
from adapters.damo_yolo.view import DEFAULT_IOU, Filter, Shown
from kit.parts.context import QUIET
from kit.parts.markup import para
from kit.parts.model_tab import KEPT_SECONDS, Updates
from kit.parts.picture_input import thumbnails
from kit.parts.plain import html
from kit.parts.saving import Saving
from kit.texts.labels import label
from loader.outcome import Result

Save = Callable[[Shown, Filter, Path], Path]


class PicturesResult:
    """The card of a run of pictures.

    Attributes:
        box: the card.
        filters: threshold, overlap and names, in the order of ``drawn_at``.
        outputs: everything a finished run sets.
    """

    def __init__(self, language: str, saving: Saving) -> None:
        self._language, self._saving = language, saving
        self.view = gr.State(None, time_to_live=KEPT_SECONDS)
        self.index = gr.State(0)
        with gr.Column(visible=False, elem_classes="ah-card ah-result", elem_id="detect-result") as self.box:
            self.note = html()
            self.image = gr.Image(
                label=self._("detect.result"),
                show_label=False,
                interactive=False,
                format="jpeg",
                buttons=["fullscreen"],
                elem_id="detect-image",
            )
            self.strip = thumbnails(self._("detect.strip"), elem_id="detect-strip", format="jpeg", visible=False)
            self._build_filters()
            self.counts = html(elem_id="detect-counts")
            self.streams = html(elem_id="detect-streams")
            self.table = html(elem_id="detect-table")
            with gr.Column(elem_classes="ah-cuts") as self.cuts_box:
                html(para("ah-label", self._("detect.cuts")))
                self.cuts = thumbnails(self._("detect.cuts"), elem_id="detect-cuts", columns=6, format="jpeg")
            self._build_savers()
        self._wire()

    def _build_filters(self) -> None:
        with gr.Row(elem_classes="ah-filters"):
            self.threshold = gr.Slider(
                view.SCORE_FLOOR,
                1.0,
                value=DEFAULT_THRESHOLD,
                step=0.01,
                label=self._("detect.threshold"),
                buttons=[],
                elem_id="detect-threshold",
            )
            self.iou = gr.Slider(
                0.0, 1.0, value=DEFAULT_IOU, step=0.01, label=self._("detect.iou"), buttons=[], elem_id="detect-iou"
            )
            self.classes = gr.Dropdown([], multiselect=True, label=self._("detect.classes"), elem_id="detect-classes")

    def _build_savers(self) -> None:
        with gr.Row(elem_classes="ah-actions ah-savers"):
            self._saver("save_picture", "save-picture", files.save_pictures)
            self._saver("save_crops", "save-crops", files.save_crops)
            self._saver("save_data", "save-data", files.save_data)
            self._saver("save_csv", "save-csv", files.save_csv)
            self._saver("save_coco", "save-coco", files.save_coco)

    def _saver(self, words: str, name: str, save: Save) -> None:
        button = gr.Button(label(f"detect.{words}", self._language), size="sm", elem_id=f"detect-{name}")

        def saved(folder: Path, shown: Shown | None, *filters: Any) -> Path | None:
            return save(shown, passing(*filters), folder) if shown is not None else None

        self._saving.on(button, saved, [self.view, *self.filters])

    @property
    def filters(self) -> list[Any]:
        return [self.threshold, self.iou, self.classes]

    @property
    def outputs(self) -> list[Any]:
        parts = [self.box, self.view, self.index, self.classes, self.strip, self.note, self.streams]
        return [*parts, *self._drawn]

    @property
    def _drawn(self) -> list[Any]:
        return [self.image, self.counts, self.table, self.cuts, self.cuts_box]

    def _(self, key: str, **figures: object) -> str:
        return label(key, self._language, **figures)

    # --- events

    def _wire(self) -> None:
        seen = [self.view, self.index, *self.filters]
        for control in self.filters:
            control.change(self._draw, seen, self._drawn, trigger_mode="always_last", **QUIET)
        self.strip.select(self._pick, None, [self.index], **QUIET).then(self._draw, seen, self._drawn, **QUIET)
        self._saving.on(self.cuts.select, self._cut, seen)

    def _pick(self, event: gr.SelectData) -> int:
        return int(event.index)

    def _cut(
        self, folder: Path, shown: Shown | None, index: int, *filters: Any, chosen: int | None = None
    ) -> Path | None:
        if shown is None or chosen is None:
            return None
        return files.save_crop(shown, index, chosen, passing(*filters), folder)

    def _draw(self, shown: Shown | None, index: int, *filters: Any) -> list[Any]:
        """One picture as filtered. No forward pass: the candidates were kept."""
        if shown is None:
            return [gr.skip()] * len(self._drawn)
        chosen = passing(*filters)
        seen = chosen.of(shown.shots[index].seen)
        words = self._("detect.alt", name=seen.name, found=view.spoken(seen, self._language))
        return [
            gr.update(value=view.drawn(shown, index, seen), alt_text=words),
            view.counts_markup(seen, self._language),
            view.table_markup(seen, self._language),
            view.cuts(shown, index, seen),
            gr.update(visible=bool(seen.detections)),
        ]

    def _streams(self, result: Result) -> str:
        # A run that ended early was not timed.
        return view.streams_markup(result.seconds, result.items, self._language) if result.seconds else ""

    def of(self, detected: Detected, threshold: float, iou: float, classes: Sequence[str] | None) -> Updates:
        """Updates that show a finished run: the names chosen that were seen, all of them if none was."""
        shown = detected.shown
        chosen = [name for name in classes or () if name in shown.labels]
        several = len(shown.shots) > 1
        thumbs = [(view.thumbnail(shot), shot.seen.name) for shot in shown.shots] if several else None
        return {
            self.box: gr.update(visible=True),
            self.view: shown,
            self.index: 0,
            self.classes: gr.update(choices=shown.labels, value=chosen),
            self.strip: gr.update(value=thumbs, visible=several),
            self.note: view.weights_markup(shown, self._language),
            self.streams: self._streams(shown.result),
            **dict(zip(self._drawn, self._draw(shown, 0, threshold, iou, chosen), strict=True)),
        }


def passing(threshold: float, iou: float, classes: Sequence[str] | None) -> Filter:
    """The filter that the controls say."""
    return Filter(float(threshold), tuple(classes or ()), float(iou))
