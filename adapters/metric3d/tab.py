"""The Metric3D tab: pictures or a video in, metres out, with the plan before and the account after."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.metric3d.camera_panel import CameraPanel
from adapters.metric3d.endpoint import Endpoint
from adapters.metric3d.job import CLIP_FPS, CLIP_FRAMES
from adapters.metric3d.pipeline import ClipRequest, DepthRequest, clip_of
from adapters.metric3d.result_part import ResultPart
from adapters.metric3d.running import Opened, measure, open_shots
from adapters.metric3d.spec import SPEC
from adapters.metric3d.view import shown
from kit.parts import states
from kit.parts.context import LANE, QUIET, PageContext
from kit.parts.figures import figures
from kit.parts.intro import intro
from kit.parts.markup import element, para
from kit.parts.plain import html
from kit.parts.plan_card import download_of
from kit.parts.planning import Planning
from kit.parts.wishes_panel import WishesPanel
from kit.texts.labels import label, name_of
from loader.errors import AnyhostError, InputError
from loader.outcome import Cancel, Result, Step
from loader.wishes import Wishes

EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"
EXAMPLE_KINDS = (".png", ".jpg", ".jpeg", ".webp")
STYLE = Path(__file__).with_name("tab.css")
KEPT_SECONDS = 3600
MOST_CLIP_FRAMES = 600

_log = logging.getLogger(__name__)


def tab(context: PageContext) -> None:
    """Build the tab inside the current one, with its events and the endpoint ``/depth``."""
    DepthTab(context).build()


def example_files(folder: Path = EXAMPLES) -> list[Path]:
    """Pictures that ship with the project: those made for depth first, then rooms, then objects."""
    files = [path for path in folder.glob("*") if path.suffix.lower() in EXAMPLE_KINDS]
    order = ("depth", "scene")
    rank = {path: next((i for i, start in enumerate(order) if path.stem.startswith(start)), 9) for path in files}
    return sorted(files, key=lambda path: (rank[path], path.name))[:5]


def _named(files: Sequence[tuple[str, str | None]] | None) -> list[tuple[str, str]]:
    """Uploaded pictures under their file names: what a screen reader says, and how several are told apart."""
    return [(path, Path(path).name) for path, _ in files or ()]


class DepthTab:
    """Layout and events. Nothing about a request is kept here: that is in the session's states."""

    def __init__(self, context: PageContext) -> None:
        self.context, self.language = context, context.language
        self.planning = Planning(context, SPEC)

    # --- layout

    def build(self) -> None:
        self.cancel = gr.State(None, time_to_live=KEPT_SECONDS)
        self.kind = gr.State("pictures")
        html(element("style", STYLE.read_text(encoding="utf-8")))
        with gr.Row(elem_classes="ah-columns"):
            with gr.Column(scale=5, min_width=320, elem_classes="ah-side"):
                self._build_side()
            with gr.Column(scale=8, min_width=320, elem_classes="ah-main"):
                self.status = html(self._empty(), elem_id="depth-status")
                self.result = ResultPart(self.language, self.status)
                self.figures = html(elem_id="depth-figures")
                self.card = html(self.planning.show(Wishes()).card, elem_id="depth-plan")
        self._wire()
        Endpoint(self.context)

    def _build_side(self) -> None:
        html(intro(SPEC, self.language))
        with gr.Tabs(elem_id="depth-kinds"):
            with gr.Tab(self._("depth.pictures"), id="pictures") as self.pictures_tab:
                self._build_pictures()
            with gr.Tab(self._("depth.video"), id="clip") as self.clip_tab:
                self._build_clip()
        with gr.Accordion(self._("camera.title"), open=False, elem_classes="ah-fold", elem_id="depth-camera"):
            self.camera = CameraPanel(self.language)
        self.line = html(self.planning.show(Wishes()).line)
        with gr.Row(elem_classes="ah-actions"):
            self.run = gr.Button(self._("depth.run"), variant="primary", size="lg", elem_id="depth-run")
            self.stop = gr.Button(self._("action.stop"), variant="stop", size="lg", visible=False, elem_id="depth-stop")
        with gr.Accordion(self._("wish.title"), open=False, elem_classes="ah-fold"):
            self.panel = WishesPanel(self.context, SPEC)

    def _build_pictures(self) -> None:
        self.pictures = gr.Gallery(
            label=self._("detect.pictures"),
            file_types=["image"],
            sources=["upload", "clipboard"],
            type="filepath",
            columns=3,
            height=300,
            object_fit="contain",
            buttons=[],
            elem_id="depth-pictures",
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
            elem_id="depth-examples",
        )

    def _build_clip(self) -> None:
        self.clip = gr.Video(
            label=self._("depth.video"), sources=["upload"], height=300, buttons=[], elem_id="depth-clip"
        )
        with gr.Row(elem_classes="ah-filters"):
            self.fps = gr.Slider(1, 30, value=CLIP_FPS, step=1, label=self._("depth.fps"), buttons=[])
            self.frames = gr.Slider(
                1, MOST_CLIP_FRAMES, value=CLIP_FRAMES, step=1, label=self._("depth.most_frames"), buttons=[]
            )

    def _(self, key: str, **figures_: object) -> str:
        return label(key, self.language, **figures_)

    def _empty(self, *, alert: bool = False, kind: str = "pictures") -> str:
        key = "depth.empty" if kind == "pictures" else "depth.empty_clip"
        return states.notice(self._(key), self._("depth.empty_words"), alert=alert)

    # --- events

    def _wire(self) -> None:
        self.planning.wire(self.panel, self.card, self.line, self.run)
        self.camera.wire(self.pictures)
        said = self.camera.saying(self.pictures)
        self.examples.select(self._choose, None, [self.pictures], **QUIET).then(**said)
        self.pictures.upload(_named, [self.pictures], [self.pictures], **QUIET).then(**said)
        self.pictures.delete(**said)
        for chosen, kind in ((self.pictures_tab, "pictures"), (self.clip_tab, "clip")):
            chosen.select(lambda kind=kind: kind, None, [self.kind], **QUIET)
        self.run.click(
            self._begin, None, [self.cancel, self.status, self.run, self.stop, self.result.box, self.figures], **QUIET
        ).then(
            self._work,
            [
                *(self.kind, self.pictures, self.clip, self.fps, self.frames, self.cancel),
                *self.camera.controls,
                *self.panel.controls,
            ],
            [self.status, self.run, self.stop, self.figures, self.card, self.line, *self.result.outputs],
            concurrency_id=LANE,
            concurrency_limit=1,
            show_progress="hidden",
            api_visibility="private",
        )
        self.stop.click(self._request_stop, [self.cancel], [self.status, self.stop], **QUIET)

    def _choose(self, event: gr.SelectData) -> list[tuple[str, str]]:
        path = example_files()[event.index]
        return [(str(path), path.name)]

    def _begin(self) -> list[Any]:
        waiting = states.waiting(self.language)
        hidden = gr.update(visible=False)
        return [Cancel(), waiting, hidden, gr.update(visible=True, interactive=True), hidden, ""]

    def _request_stop(self, cancel: Cancel | None) -> list[Any]:
        if cancel is not None:
            cancel.request()
        stopping = states.progress(Step("waiting", 0, 0), self.language, stopping=True)
        return [stopping, gr.update(interactive=False)]

    def _work(
        self,
        kind: str,
        files: Sequence[tuple[str, str | None]] | None,
        clip: str | None,
        *values: Any,
    ) -> Iterator[dict[Any, Any]]:
        """Run and tell how it goes; whatever comes of it, the run button is back at the end."""
        fps, frames, cancel, *controls = values
        split = len(self.camera.controls)
        wishes = Wishes()
        try:
            wishes = self.panel.read(controls[split:])
            if not (files if kind == "pictures" else clip):
                yield {self.status: self._empty(alert=True, kind=kind), **self._idle(wishes)}
                return
            yield {self.status: states.progress(self._first_step(wishes), self.language)}
            camera = self.camera.read(controls[:split])
            opened: tuple[Opened, ...] = ()
            problems: tuple[InputError, ...] = ()
            request: DepthRequest | ClipRequest
            if kind == "pictures":
                opened, problems = open_shots([Path(path) for path, _ in files or ()], camera)
                request = DepthRequest(tuple(shot for _, shot in opened))
            else:
                request = clip_of(Path(str(clip)), camera, fps=float(fps), max_frames=int(frames))
            for item in measure(self.context.engine, request, wishes, cancel):
                if isinstance(item, Result):
                    yield {**self._finished(item, opened, problems), **self._idle(wishes)}
                else:
                    yield {self.status: states.progress(item, self.language, stopping=cancel.requested)}
        except Exception as error:  # noqa: BLE001 - whatever it is, the user is told and the page stays usable
            self._report(error)
            yield {self.status: states.failed(error, self.language), **self._idle(wishes)}

    def _first_step(self, wishes: Wishes) -> Step:
        made = self.planning.plan(wishes)
        download = download_of(SPEC.variant(made.variant), self.context.engine.folders)
        return Step("fetching" if download.bytes else "preparing", 0, 0)

    def _finished(self, result: Result, opened: Sequence[Opened], problems: Sequence[InputError]) -> dict[Any, Any]:
        skipped = "\n".join(str(problem) for problem in problems)
        notice = states.notice(self._("detect.skipped", count=len(problems)), skipped) if problems else ""
        parts = self.result.of_pictures(shown(result, opened)) if opened else self.result.of_clip(result)
        account = figures(result, self.language, requests=_batches(result))
        return {self.status: notice, self.figures: account, **parts}

    def _idle(self, wishes: Wishes) -> dict[Any, Any]:
        """Buttons for the next run, and the plan with what this one taught."""
        now = self.planning.show(wishes)
        return {
            self.run: gr.update(visible=True, interactive=now.fits),
            self.stop: gr.update(visible=False),
            self.card: now.card,
            self.line: now.line,
        }

    @staticmethod
    def _report(error: Exception) -> None:
        if not isinstance(error, AnyhostError):
            _log.error("a depth run failed", exc_info=error)


def _batches(result: Result) -> int:
    return -(-result.items // result.plan.batch)
