"""The DAMO-YOLO tab: pictures, a video or a camera in, boxes out, with the plan before and the account after."""

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.damo_yolo import view
from adapters.damo_yolo.camera_part import CAMERAS, SEND_EVERY, CameraInput, CameraResult, Pulse, see
from adapters.damo_yolo.detecting import Detected, detect, open_pictures
from adapters.damo_yolo.endpoint import Endpoint
from adapters.damo_yolo.own_weights import OwnFile, OwnWeights, names_for, wished
from adapters.damo_yolo.pipeline import Seen
from adapters.damo_yolo.postprocess import Suppression
from adapters.damo_yolo.result_part import PicturesResult
from adapters.damo_yolo.spec import SPEC
from adapters.damo_yolo.video_part import VideoDone, VideoInput, VideoResult, run_video
from kit.parts import states
from kit.parts.context import QUIET, PageContext
from kit.parts.model_tab import ModelTab, Updates
from kit.parts.picture_input import EXAMPLES, PictureInput, example_pictures, paths_of
from kit.parts.saving import Saving
from kit.running import Asked
from loader.errors import AnyhostError
from loader.outcome import Kept, Result, Step

EXAMPLE_KINDS = ("coins", "scene")  # the others are there to be measured, animated or rebuilt


def tab(context: PageContext) -> None:
    """Build the tab inside the current one, with its events and the endpoint ``/detect``."""
    DetectTab(context).build()


def example_files(folder: Path = EXAMPLES) -> list[Path]:
    """Pictures that ship with the project, photographs before rendered scenes."""
    files = [path for path in example_pictures(folder) if path.stem.startswith(EXAMPLE_KINDS)]
    return sorted(files, key=lambda path: (path.stem.startswith("scene"), path.name))


class DetectTab(ModelTab[Detected | VideoDone]):
    """Three kinds of input, own weights, and a card for each kind of result."""

    spec = SPEC

    def build_input(self) -> None:
        self.kind = gr.State("pictures")
        with gr.Tabs(elem_id="detect-kinds") as self.kinds:
            with gr.Tab(self._("detect.pictures"), id="pictures") as pictures:
                self.input = PictureInput(self.language, self.prefix, example_files())
            with gr.Tab(self._("detect.video"), id="clip") as clip:
                self.video = VideoInput(self.language)
            with gr.Tab(self._("detect.camera"), id="camera", elem_id="detect-kind-camera") as camera:
                self.camera = CameraInput(self.language)
        self.kind_tabs = {"pictures": pictures, "clip": clip, "camera": camera}

    def build_options(self) -> None:
        with gr.Accordion(self._("own.title"), open=False, elem_classes="ah-fold", elem_id="detect-own"):
            self.own = OwnWeights(self.context)

    def build_result(self) -> None:
        self.saving = Saving(self.language, self.status)
        self.pictures = PicturesResult(self.language, self.saving)
        self.clip = VideoResult(self.language, self.saving)
        self.frames = CameraResult(self.language)

    def build_endpoint(self) -> None:
        Endpoint(self.context)

    # --- events

    def wire(self) -> None:
        self.input.wire(self.status)
        self.own.wire()
        for kind, chosen in self.kind_tabs.items():
            chosen.select(
                partial(self._turned_to, kind),
                [self.kind, self.camera.away, self.pictures.view, self.clip.seen],
                [self.kind, *self.camera.shown, *self.result_boxes()],
                **QUIET,
            )
        around = _tabs_around(self.kinds)
        if around is not None:
            around.select(self._left, [self.kind, self.camera.away], self.camera.shown, **QUIET)
        self.camera.camera.stream(
            self._frame,
            [self.camera.camera, self.frames.pulse, self.camera.threshold, *self.own.controls, *self.panel.controls],
            [*self.frames.outputs, *self.camera.shown],
            concurrency_id="camera",
            concurrency_limit=CAMERAS,
            stream_every=SEND_EVERY,
            show_progress="hidden",
            api_visibility="private",
        )

    def _turned_to(self, kind: str, before: str, away: bool, pictures: Any, clip: Any) -> list[Any]:
        """Another kind of input: its last result is shown, and the camera films only where it is looked at."""
        camera = self.camera.turned(away, looked_at=kind == "camera", was=before == "camera")
        shown = {"pictures": pictures is not None, "clip": clip is not None, "camera": False}
        return [kind, *camera, *(gr.update(visible=kind == name and there) for name, there in shown.items())]

    def _left(self, kind: str, away: bool, event: gr.SelectData) -> list[Any]:
        """Another model's tab was opened, or this one again."""
        filming = kind == "camera"
        return self.camera.turned(away, looked_at=filming and event.value == SPEC.title, was=filming)

    def inputs(self) -> Sequence[Any]:
        own = [*self.own.controls, self.kind]
        return [*own, self.input.pictures, *self.pictures.filters, *self.video.controls]

    def outputs(self) -> Sequence[Any]:
        return [*self.pictures.outputs, *self.clip.outputs]

    def settings(self) -> Mapping[str, Any]:
        pictures, video = self.pictures, self.video
        return {
            "threshold": (pictures.threshold, video.threshold, self.camera.threshold),
            "iou": (pictures.iou, video.iou),
            "classes": (pictures.classes, video.classes),
            "every": video.every,
        }

    def result_boxes(self) -> Sequence[Any]:
        return [self.pictures.box, self.clip.box, self.frames.box]

    def running_boxes(self) -> Sequence[Any]:
        return [self.clip.live]

    # --- runs

    def lacking(self, values: Sequence[Any]) -> str:
        _, _, kind, pictures, _, _, _, clip, *_ = values
        if kind == "camera":
            return states.notice(self._("detect.camera"), self._("detect.camera_start"), alert=True)
        if kind == "clip":
            empty = states.notice(self._("detect.empty_clip"), self._("detect.empty_words"), alert=True)
            return "" if clip else empty
        return "" if pictures else self.empty(alert=True)

    def checkpoint(self, values: Sequence[Any]) -> Path | None:
        own = self.own.read(values[0])
        return own.path if own is not None else None

    def job(self, values: Sequence[Any], asked: Asked) -> Generator[Step | Detected | VideoDone, None, None]:
        found, words, kind, pictures, _, _, _, *video = values
        own = self.own.read(found)
        asked, names = replace(asked, wishes=wished(asked.wishes, own)), names_for(own, words)
        engine = self.context.engine
        if kind == "clip":
            yield from run_video(engine, video, self.saving.folder(), asked, names)
        else:
            floor = Suppression(view.SCORE_FLOOR)
            yield from detect(engine, paths_of(pictures), floor, asked, names=names, keep_candidates=True)

    def step_shown(self, step: Step) -> Updates:
        return self.clip.step(step)

    def finished(self, outcome: Detected | VideoDone, values: Sequence[Any]) -> Updates:
        if isinstance(outcome, VideoDone):
            account = self.account(outcome.result) if outcome.result is not None else {}
            return {self.status: self.clip.status(outcome), **account, **self.clip.of(outcome)}
        problems = outcome.problems
        skipped = "\n".join(str(problem) for problem in problems)
        notice = states.notice(self._("detect.skipped", count=len(problems)), skipped) if problems else ""
        shown = self.pictures.of(outcome, *values[4:7])
        return {self.status: notice, **self.account(outcome.shown.result), **shown}

    def finished_part(self, kept: Sequence[Kept], values: Sequence[Any], ended: Result) -> tuple[str, Updates]:
        done: tuple[Seen, ...] = kept[-1].value
        opened, problems = open_pictures(paths_of(values[3]))
        part = replace(ended, outputs=done, items=len(done))
        detected = Detected(view.shown(part, opened[: len(done)]), problems)
        words = self._("kept.pictures", done=len(done), total=len(opened))
        return words, self.pictures.of(detected, *values[4:7])

    # --- the camera

    def _frame(
        self, request: gr.Request, rgb: Any, pulse: Pulse | None, threshold: float, found: OwnFile | None, *values: Any
    ) -> list[Any]:
        """One frame through the lane."""
        words, *wished_values = values
        stays = [gr.skip()] * len(self.camera.shown)
        beating = (pulse or Pulse()).at(time.monotonic())
        if rgb is None:
            return [*self.frames.said(beating, "detect.camera_none"), *stays]
        if beating.over(time.monotonic()):
            return [*self.frames.said(Pulse(), "detect.camera_over"), *self.camera.left(again=True)]
        try:
            own = self.own.read(found)
            asked = Asked(
                wished(self.panel.read(wished_values), own),
                session=request.session_hash or "",
                checkpoint=own.path if own is not None else None,
            )
            result = see(self.context.engine, rgb, Suppression(threshold), asked, names_for(own, words))
        except AnyhostError as error:
            return [*self.frames.failed(Pulse(), error), *self.camera.left(again=True)]
        if result is None:
            return [*self.frames.said(beating, "detect.camera_waits"), *stays]
        beating = beating.beat(time.monotonic(), result.seconds)
        return [*self.frames.of(result, rgb, beating), *stays]


def _tabs_around(inside: gr.Tabs) -> gr.Tabs | None:
    """The tabs that ``inside`` stands in, the page's own."""
    block = inside.parent
    while block is not None and not isinstance(block, gr.Tabs):
        block = block.parent
    return block
