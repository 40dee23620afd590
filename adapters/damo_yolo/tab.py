"""The DAMO-YOLO tab: pictures in, boxes out, with the plan before and the account after."""

import logging
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.damo_yolo import view
from adapters.damo_yolo.detecting import Detected, detect
from adapters.damo_yolo.endpoint import Endpoint
from adapters.damo_yolo.job import DEFAULT_THRESHOLD
from adapters.damo_yolo.postprocess import Suppression
from adapters.damo_yolo.spec import SPEC
from adapters.damo_yolo.view import Filter, Shown
from kit.parts import states
from kit.parts.context import LANE, QUIET, PageContext
from kit.parts.figures import figures
from kit.parts.intro import intro
from kit.parts.markup import para
from kit.parts.plain import html
from kit.parts.plan_card import download_of
from kit.parts.planning import Planning
from kit.parts.wishes_panel import WishesPanel
from kit.texts.labels import label, name_of
from loader.errors import AnyhostError
from loader.outcome import Cancel, Step
from loader.wishes import Wishes

EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"
EXAMPLE_KINDS = (".png", ".jpg", ".jpeg", ".webp")
KEPT_SECONDS = 3600
# The browser fetches what was just written; a button of its own would need the file before it is asked for.
FETCH_JS = """(file) => { for (const one of [file].flat()) { if (one && one.url) {
  const a = document.createElement('a'); a.href = one.url; a.download = one.orig_name || '';
  document.body.append(a); a.click(); a.remove(); } } }"""

_log = logging.getLogger(__name__)


def tab(context: PageContext) -> None:
    """Build the tab inside the current one, with its events and the endpoint ``/detect``."""
    DetectTab(context).build()


def example_files(folder: Path = EXAMPLES) -> list[Path]:
    """Pictures that ship with the project, photographs before rendered scenes."""
    files = [path for path in folder.glob("*") if path.suffix.lower() in EXAMPLE_KINDS and not _for_depth(path)]
    return sorted(files, key=lambda path: (path.stem.startswith("scene"), path.name))


def _for_depth(path: Path) -> bool:
    """Rooms and yards are there to be measured: nothing in them has a name here."""
    return path.stem.startswith("depth")


def _named(files: Sequence[tuple[str, str | None]] | None) -> list[tuple[str, str]]:
    """Uploaded pictures under their file names: what a screen reader says, and how several are told apart."""
    return [(path, Path(path).name) for path, _ in files or ()]


class DetectTab:
    """Layout and events. Nothing about a request is kept here: that is in the session's states."""

    def __init__(self, context: PageContext) -> None:
        self.context, self.language = context, context.language
        self.planning = Planning(context, SPEC)

    # --- layout

    def build(self) -> None:
        self.cancel = gr.State(None, time_to_live=KEPT_SECONDS)
        self.view = gr.State(None, time_to_live=KEPT_SECONDS)
        self.index = gr.State(0)
        with gr.Row(elem_classes="ah-columns"):
            with gr.Column(scale=5, min_width=320, elem_classes="ah-side"):
                self._build_side()
            with gr.Column(scale=8, min_width=320, elem_classes="ah-main"):
                self._build_main()
        self._wire()
        Endpoint(self.context)

    def _build_side(self) -> None:
        html(intro(SPEC, self.language))
        self.pictures = gr.Gallery(
            label=self._("detect.pictures"),
            file_types=["image"],
            sources=["upload", "clipboard"],
            type="filepath",
            columns=3,
            height=300,
            object_fit="contain",
            buttons=[],
            elem_id="detect-pictures",
        )
        examples = example_files()
        html(para("ah-label", self._("detect.examples")))
        self.examples = gr.Gallery(
            [(str(path), name_of("example", path.stem, self.language)) for path in examples],
            label=self._("detect.examples"),
            show_label=False,
            container=False,
            columns=5,
            height="auto",
            object_fit="cover",
            allow_preview=False,
            interactive=False,
            buttons=[],
            visible=bool(examples),
            elem_id="detect-examples",
        )
        self.line = html(self.planning.show(Wishes()).line)
        with gr.Row(elem_classes="ah-actions"):
            self.run = gr.Button(self._("detect.run"), variant="primary", size="lg", elem_id="detect-run")
            self.stop = gr.Button(
                self._("action.stop"), variant="stop", size="lg", visible=False, elem_id="detect-stop"
            )
        with gr.Accordion(self._("wish.title"), open=False, elem_classes="ah-fold"):
            self.panel = WishesPanel(self.context, SPEC)

    def _build_main(self) -> None:
        self.status = html(self._empty(), elem_id="detect-status")
        with gr.Column(visible=False, elem_classes="ah-card ah-result", elem_id="detect-result") as self.result:
            self.note = html()
            self.image = gr.Image(
                label=self._("detect.result"),
                show_label=False,
                interactive=False,
                format="jpeg",
                buttons=["fullscreen"],
                elem_id="detect-image",
            )
            self.strip = gr.Gallery(
                label=self._("detect.strip"),
                show_label=False,
                container=False,
                format="jpeg",
                columns=6,
                height="auto",
                object_fit="cover",
                allow_preview=False,
                interactive=False,
                buttons=[],
                visible=False,
                elem_id="detect-strip",
            )
            self._build_filters()
            self.counts = html(elem_id="detect-counts")
            self.table = html(elem_id="detect-table")
            with gr.Row(elem_classes="ah-actions"):
                self.save_image = gr.Button(self._("detect.save_picture"), size="sm", elem_id="detect-save-picture")
                self.save_json = gr.Button(self._("detect.save_data"), size="sm", elem_id="detect-save-data")
        self.file = gr.File(label=self._("detect.file"), elem_classes="ah-off")
        self.figures = html(elem_id="detect-figures")
        self.card = html(self.planning.show(Wishes()).card, elem_id="detect-plan")

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
            self.classes = gr.Dropdown([], multiselect=True, label=self._("detect.classes"), elem_id="detect-classes")

    def _(self, key: str, **figures_: object) -> str:
        return label(key, self.language, **figures_)

    def _empty(self, *, alert: bool = False) -> str:
        return states.notice(self._("detect.empty"), self._("detect.empty_words"), alert=alert)

    # --- events

    def _wire(self) -> None:
        self.planning.wire(self.panel, self.card, self.line, self.run)
        self.examples.select(self._choose, None, [self.pictures], **QUIET)
        self.pictures.upload(_named, [self.pictures], [self.pictures], **QUIET)
        self.run.click(
            self._begin, None, [self.cancel, self.status, self.run, self.stop, self.result, self.figures], **QUIET
        ).then(
            self._work,
            [self.pictures, self.cancel, self.threshold, *self.panel.controls],
            [
                *(self.status, self.run, self.stop, self.result, self.figures, self.card, self.line),
                *(self.view, self.index, self.classes, self.strip, self.note),
                *self._drawn_parts(),
            ],
            concurrency_id=LANE,
            concurrency_limit=1,
            show_progress="hidden",
            api_visibility="private",
        )
        self.stop.click(self._request_stop, [self.cancel], [self.stop], **QUIET)
        filters = [self.view, self.index, self.threshold, self.classes]
        for control in (self.threshold, self.classes):
            control.change(self._draw, filters, self._drawn_parts(), trigger_mode="always_last", **QUIET)
        self.strip.select(self._pick, None, [self.index], **QUIET).then(
            self._draw, filters, self._drawn_parts(), **QUIET
        )
        for button, save in ((self.save_image, view.save_pictures), (self.save_json, view.save_data)):
            button.click(
                lambda shown, threshold, classes, save=save: self._save(save, shown, threshold, classes),
                [self.view, self.threshold, self.classes],
                [self.file, self.status],
                **QUIET,
            ).then(None, [self.file], None, js=FETCH_JS, **QUIET)

    def _drawn_parts(self) -> list[Any]:
        return [self.image, self.counts, self.table]

    def _choose(self, event: gr.SelectData) -> list[tuple[str, str]]:
        path = example_files()[event.index]
        return [(str(path), path.name)]

    def _pick(self, event: gr.SelectData) -> int:
        return int(event.index)

    def _begin(self) -> list[Any]:
        waiting = states.waiting(self.language)
        hidden = gr.update(visible=False)
        return [Cancel(), waiting, hidden, gr.update(visible=True, interactive=True), hidden, ""]

    def _request_stop(self, cancel: Cancel | None) -> Any:
        """Ask for the end. The status is the run's to write: an answer from here could come after its last word."""
        if cancel is not None:
            cancel.request()
        return gr.update(interactive=False)

    def _work(
        self, files: Sequence[tuple[str, str | None]] | None, cancel: Cancel, threshold: float, *values: Any
    ) -> Iterator[dict[Any, Any]]:
        """Run and tell how it goes; whatever comes of it, the run button is back at the end."""
        wishes = Wishes()
        try:
            wishes = self.panel.read(values)
            paths = [Path(path) for path, _ in files or ()]
            if not paths:
                yield {self.status: self._empty(alert=True), **self._idle(wishes)}
                return
            yield {self.status: states.progress(self._first_step(wishes), self.language)}
            for item in detect(self.context.engine, paths, wishes, Suppression(view.SCORE_FLOOR), cancel):
                if isinstance(item, Detected):
                    yield self._finished(item, threshold, wishes)
                else:
                    yield {self.status: states.progress(item, self.language, stopping=cancel.requested)}
        except Exception as error:  # noqa: BLE001 - whatever it is, the user is told and the page stays usable
            self._report(error)
            yield {self.status: states.failed(error, self.language), **self._idle(wishes)}

    def _first_step(self, wishes: Wishes) -> Step:
        made = self.planning.plan(wishes)
        download = download_of(SPEC.variant(made.variant), self.context.engine.folders)
        return Step("fetching" if download.bytes else "preparing", 0, 0)

    def _finished(self, detected: Detected, threshold: float, wishes: Wishes) -> dict[Any, Any]:
        shown, problems = detected.shown, detected.problems
        several = len(shown.shots) > 1
        skipped = "\n".join(str(problem) for problem in problems)
        thumbs = [(view.thumbnail(shot), shot.seen.name) for shot in shown.shots] if several else None
        image, counts, table = self._draw(shown, 0, threshold, [])
        return {
            self.status: states.notice(self._("detect.skipped", count=len(problems)), skipped) if problems else "",
            self.result: gr.update(visible=True),
            self.view: shown,
            self.index: 0,
            self.classes: gr.update(choices=shown.labels, value=[]),
            self.strip: gr.update(value=thumbs, visible=several),
            self.note: view.weights_markup(shown, self.language),
            self.figures: figures(shown.result, self.language),
            self.image: image,
            self.counts: counts,
            self.table: table,
            **self._idle(wishes),
        }

    def _idle(self, wishes: Wishes) -> dict[Any, Any]:
        """Buttons for the next run, and the plan with what this one taught."""
        now = self.planning.show(wishes)
        return {
            self.run: gr.update(visible=True, interactive=now.fits),
            self.stop: gr.update(visible=False),
            self.card: now.card,
            self.line: now.line,
        }

    def _draw(self, shown: Shown | None, index: int, threshold: float, classes: Sequence[str]) -> list[Any]:
        """One picture as filtered. No forward pass: everything above the floor was kept."""
        if shown is None:
            return [gr.skip(), gr.skip(), gr.skip()]
        passing = Filter(threshold, tuple(classes))
        seen = passing.of(shown.shots[index].seen)
        words = self._("detect.alt", name=seen.name, found=view.spoken(seen, self.language))
        return [
            gr.update(value=view.drawn(shown, index, passing), alt_text=words),
            view.counts_markup(seen, self.language),
            view.table_markup(seen, self.language),
        ]

    def _save(self, save: Any, shown: Shown | None, threshold: float, classes: Sequence[str]) -> list[Any]:
        if shown is None:
            return [None, gr.skip()]
        folder = Path(self.file.GRADIO_CACHE) / uuid.uuid4().hex
        try:
            return [str(save(shown, Filter(threshold, tuple(classes)), folder)), gr.skip()]
        except AnyhostError as error:
            return [None, states.failed(error, self.language)]

    @staticmethod
    def _report(error: Exception) -> None:
        if not isinstance(error, AnyhostError):
            _log.error("a detection failed", exc_info=error)
