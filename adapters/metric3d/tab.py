"""The Metric3D tab: pictures or a video in, metres out, with the plan before and the account after."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from kit.parts.context import QUIET, PageContext
from kit.parts.model_tab import ModelTab, Updates
from kit.parts.picture_input import PictureInput, example_pictures, paths_of
from kit.parts.upload_limit import upload_limit
from kit.running import Asked
from kit.uploads import MAX_CLIP_BYTES, check_clip
from loader.errors import InputError
from loader.outcome import Kept, Result, Step

MOST_CLIP_FRAMES = 600
EXAMPLES_SHOWN = 5


@dataclass(frozen=True)
class Depths:
    """A finished run, the pictures it was made of (none for a video), and why some files could not be used."""

    result: Result
    opened: tuple[Opened, ...]
    problems: tuple[InputError, ...]


def tab(context: PageContext) -> None:
    """Build the tab inside the current one, with its events and the endpoint ``/depth``."""
    DepthTab(context).build()


def example_files() -> list[Path]:
    """Pictures that ship with the project: those made for depth first, then rooms, then objects."""
    files = example_pictures()
    order = ("depth", "scene")
    rank = {path: next((i for i, start in enumerate(order) if path.stem.startswith(start)), 9) for path in files}
    return sorted(files, key=lambda path: (rank[path], path.name))[:EXAMPLES_SHOWN]


class DepthTab(ModelTab[Depths]):
    """Pictures or a video, a camera, and what ``ResultPart`` shows."""

    spec = SPEC
    style = Path(__file__).with_name("tab.css")

    def build_input(self) -> None:
        self.kind = gr.State("pictures")
        with gr.Tabs(elem_id="depth-kinds"):
            with gr.Tab(self._("depth.pictures"), id="pictures") as self.pictures_tab:
                self.input = PictureInput(self.language, self.prefix, example_files())
            with gr.Tab(self._("depth.video"), id="clip") as self.clip_tab:
                self._build_clip()

    def build_options(self) -> None:
        with gr.Accordion(self._("camera.title"), open=False, elem_classes="ah-fold", elem_id="depth-camera"):
            self.camera = CameraPanel(self.language)

    def build_result(self) -> None:
        self.result = ResultPart(self.language, self.status)

    def build_endpoint(self) -> None:
        Endpoint(self.context)

    def _build_clip(self) -> None:
        self.clip = gr.Video(
            label=self._("depth.video"), sources=["upload"], height=300, buttons=[], elem_id="depth-clip"
        )
        upload_limit(self.language, "video", MAX_CLIP_BYTES, of="depth-clip")
        with gr.Row(elem_classes="ah-filters"):
            self.fps = gr.Slider(1, 30, value=CLIP_FPS, step=1, label=self._("depth.fps"), buttons=[])
            self.frames = gr.Slider(
                1, MOST_CLIP_FRAMES, value=CLIP_FRAMES, step=1, label=self._("depth.most_frames"), buttons=[]
            )

    # --- events

    def wire(self) -> None:
        self.camera.wire(self.input.pictures)
        self.input.wire(self.status, self.camera.saying(self.input.pictures))
        for chosen, kind in ((self.pictures_tab, "pictures"), (self.clip_tab, "clip")):
            chosen.select(lambda kind=kind: kind, None, [self.kind], **QUIET)

    def inputs(self) -> Sequence[Any]:
        return [self.kind, self.input.pictures, self.clip, self.fps, self.frames, *self.camera.controls]

    def outputs(self) -> Sequence[Any]:
        return self.result.outputs

    def result_boxes(self) -> Sequence[Any]:
        return [self.result.box]

    def settings(self) -> Mapping[str, Any]:
        return self.camera.settings()

    def lacking(self, values: Sequence[Any]) -> str:
        kind, pictures, clip, *_ = values
        if kind == "pictures":
            return "" if pictures else self.empty(alert=True)
        return "" if clip else states.notice(self._("depth.empty_clip"), self._("depth.empty_words"), alert=True)

    def job(self, values: Sequence[Any], asked: Asked) -> Generator[Step | Depths, None, None]:
        kind, pictures, clip, fps, frames, *controls = values
        camera = self.camera.read(controls)
        opened: tuple[Opened, ...] = ()
        problems: tuple[InputError, ...] = ()
        request: DepthRequest | ClipRequest
        if kind == "pictures":
            opened, problems = open_shots(paths_of(pictures), camera)
            request = DepthRequest(tuple(shot for _, shot in opened))
        else:
            check_clip(Path(str(clip)))
            request = clip_of(Path(str(clip)), camera, fps=float(fps), max_frames=int(frames))
        for item in measure(self.context.engine, request, asked):
            yield Depths(item, opened, problems) if isinstance(item, Result) else item

    def finished(self, outcome: Depths, values: Sequence[Any]) -> Updates:
        del values
        result, problems = outcome.result, outcome.problems
        skipped = "\n".join(str(problem) for problem in problems)
        notice = states.notice(self._("detect.skipped", count=len(problems)), skipped) if problems else ""
        opened = outcome.opened
        parts = self.result.of_pictures(shown(result, opened)) if opened else self.result.of_clip(result)
        return {self.status: notice, **self.account(result, requests=_batches(result)), **parts}

    def finished_part(self, kept: Sequence[Kept], values: Sequence[Any], ended: Result) -> tuple[str, Updates]:
        kind, pictures, _, _, _, *controls = values
        done = kept[-1].value
        part = replace(ended, outputs=done, items=len(done))
        if kind == "clip":
            return self._("kept.frames", done=len(done[0].depths)), self.result.of_clip(part)
        opened, _ = open_shots(paths_of(pictures), self.camera.read(controls))
        words = self._("kept.pictures", done=len(done), total=len(opened))
        return words, self.result.of_pictures(shown(part, opened[: len(done)]))


def _batches(result: Result) -> int:
    return -(-result.items // result.plan.batch)
