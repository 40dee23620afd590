"""The AniPortrait tab: a portrait and what moves it, the cost before, the clip after, and a Stop that loses nothing."""

import os
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.aniportrait import view
from adapters.aniportrait.endpoint import Endpoint
from adapters.aniportrait.input_part import Given, InputPart
from adapters.aniportrait.posing import look_at
from adapters.aniportrait.requests import AnimateRequest, Look
from adapters.aniportrait.result_part import ResultPart
from adapters.aniportrait.running import Closeness, Made, Stopped, animate, compare
from adapters.aniportrait.spec import INTERPOLATED, PUBLISHED, SPEC, WINDOW
from kit.ai_label import enabled
from kit.consent import require_consent
from kit.images import open_picture
from kit.parts import states
from kit.parts.consent import consent_tick
from kit.parts.context import QUIET, PageContext
from kit.parts.markup import element, para, text
from kit.parts.model_tab import ModelTab, Updates
from kit.parts.plain import html
from kit.running import Asked
from loader.errors import AnyhostError
from loader.folders import find, size_text
from loader.outcome import Step
from loader.wishes import Wishes

STYLE = Path(__file__).with_name("tab.css")
# How a run begins, as the value of a constant input.
ANEW, GO_ON, AS_IT_IS, MEASURE = "", "go_on", "as_it_is", "measure"
Outcome = Made | Stopped | Closeness


def tab(context: PageContext) -> None:
    """Build the tab inside the current one, with its events and the endpoint ``/animate``."""
    AnimateTab(context).build()


class AnimateTab(ModelTab[Outcome]):
    """Input, what it costs, and what ``ResultPart`` shows."""

    spec = SPEC
    style = STYLE

    # --- layout

    def build_input(self) -> None:
        self.start = gr.State(ANEW)
        self.given = InputPart(self.language)

    def build_options(self) -> None:
        self.consent = consent_tick(self.language, elem_id="animate-consent")
        self.preset = gr.Radio(
            [(self._(f"animate.preset_{name}"), name) for name in view.PRESETS],
            value="planned",
            label=self._("animate.preset"),
            elem_id="animate-preset",
        )
        self.costs = html(self._costs(Wishes(), view.FRAMES), elem_id="animate-costs")
        self.length = gr.Slider(
            2,
            view.MOST_FRAMES,
            value=view.FRAMES,
            step=1,
            label=self._("animate.length"),
            info=self._("animate.length_info"),
            buttons=[],
            elem_id="animate-length",
        )
        self.between = gr.Radio(
            [(self._("animate.between_none"), PUBLISHED.name), (self._("animate.between_film"), INTERPOLATED.name)],
            value=PUBLISHED.name,
            label=self._("animate.between"),
            info=self._("animate.between_info"),
            elem_id="animate-between",
        )
        with gr.Accordion(self._("animate.details"), open=False, elem_classes="ah-fold", elem_id="animate-details"):
            self._build_details()
        self.passes = html(view.passes(self.planning.plan(Wishes()), self.language), elem_id="animate-passes")

    def _build_details(self) -> None:
        with gr.Row():
            self.seed = gr.Number(
                42,
                label=self._("animate.seed"),
                info=self._("animate.seed_info"),
                precision=0,
                minimum=0,
                elem_id="animate-seed",
            )
            self.style_id = gr.Number(
                -1,
                label=self._("animate.style"),
                info=self._("animate.style_info"),
                precision=0,
                minimum=-1,
                maximum=99,
            )
        self.guidance = gr.Slider(
            1,
            10,
            value=3.5,
            step=0.1,
            label=self._("animate.guidance"),
            info=self._("animate.guidance_info"),
            buttons=[],
        )
        self.guider = gr.Radio(
            [(self._("animate.guider_faithful"), "faithful"), (self._("animate.guider_clean"), "clean")],
            value="faithful",
            label=self._("animate.guider"),
            info=self._("animate.guider_info"),
        )
        self.crop = gr.Checkbox(True, label=self._("animate.crop"), container=False)
        self.compare = gr.Checkbox(True, label=self._("animate.compare"), container=False, elem_id="animate-compare")
        self.measure = gr.Button(self._("animate.measure"), size="sm", elem_id="animate-measure")
        html(para("ah-dim", self._("animate.measure_info", frames=WINDOW)))

    def build_result(self) -> None:
        self.result = ResultPart(self.language, self.status)

    def build_endpoint(self) -> None:
        Endpoint(self.context)

    # --- events

    def wire(self) -> None:
        self.given.wire(self.status)
        self.given.show.click(
            self._show, [self.given.portrait, *self.panel.controls], [self.status, *self._look_parts()], **QUIET
        )
        clip: list[Any] = [self.length, self.between]
        for control in clip:
            control.input(self._clip, [*clip, *self.panel.controls], self.panel.controls, **QUIET)
        wishes = dict(zip(self.panel.names, self.panel.controls, strict=True))
        self.guidance.change(_without_guidance, [self.guidance], [wishes["unguided"]], **QUIET)
        self.preset.input(
            self._preset,
            [self.preset, self.length, *self.panel.controls],
            [self.between, *self.panel.controls],
            **QUIET,
        )
        gr.on(
            [control.change for control in self.panel.controls],
            self._planned,
            [self.length, *self.panel.controls],
            [self.passes, self.costs],
            trigger_mode="always_last",
            **QUIET,
        )
        self.result.again.click(
            lambda made: made.animation.seed if made else gr.skip(), [self.result.made], [self.seed], **QUIET
        )
        for button, start in (
            (self.result.go_on, GO_ON),
            (self.result.as_it_is, AS_IT_IS),
            (self.measure, MEASURE),
        ):
            self._wire_from(button, start)

    def _wire_from(self, button: gr.Button, start: str) -> None:
        """A run that begins otherwise: the events of the run button, with another constant."""
        begun = gr.State(start)
        self.begins(button, [begun if part is self.start else part for part in self.inputs()])

    def _look_parts(self) -> list[Any]:
        return [self.result.look_box, self.result.look, self.result.look_words]

    def _show(self, portrait: str | None, *wished: Any) -> Updates:
        """Cut and contours before anything runs, if the file that finds faces is here."""
        if not portrait:
            return {self.status: self.empty(alert=True)}
        try:
            made = self.planning.plan(self.panel.read(wished))
            weights = PUBLISHED.weights[0]
            found = find(weights, self.context.engine.folders)
            stand_in = made.variant == "miniature"
            if found is None and not stand_in:
                words = self._("animate.look_missing", file=weights.file, size=size_text(weights.bytes))
                return {self.status: states.notice(self._("animate.look"), words, alert=True)}
            look = look_at(open_picture(portrait), made.size, found.path if found and not stand_in else None)
        except AnyhostError as error:
            return {self.status: states.failed(error, self.language)}
        return self.result.looked(look, stand_in=stand_in)

    def _clip(self, length: float, between: str, *wished: Any) -> list[Any]:
        """Length and the way frames are made, as wishes; a miniature stays one."""
        wishes = self.panel.read(wished)
        variant = "miniature" if wishes.variant == "miniature" else between
        planned = "" if variant == SPEC.default else variant
        return self._with(wished, variant=planned, frames=str(view.made_frames(int(length), variant)))

    def _preset(self, name: str, length: float, *wished: Any) -> list[Any]:
        wishes = view.preset_wishes(name, self.panel.read(wished), int(length), self.context.engine)
        size = "" if wishes.size is None else f"{wishes.size[0]}x{wishes.size[1]}"
        steps = "" if wishes.steps is None else str(wishes.steps)
        between = gr.skip() if wishes.variant in (None, "miniature") else wishes.variant
        changed = {"variant": wishes.variant or "", "size": size, "steps": steps, "frames": str(wishes.frames)}
        return [between, *self._with(wished, **changed)]

    def _with(self, wished: Sequence[Any], **changed: str) -> list[Any]:
        return [changed.get(name, value) for name, value in zip(self.panel.names, wished, strict=True)]

    def _planned(self, length: float, *wished: Any) -> list[Any]:
        try:
            wishes = self.panel.read(wished)
        except AnyhostError:
            return ["", gr.skip()]
        return [view.passes(self.planning.plan(wishes), self.language), self._costs(wishes, int(length))]

    def _costs(self, wishes: Wishes, length: int) -> str:
        lines = []
        for name in view.PRESETS:
            made = self.planning.plan(view.preset_wishes(name, wishes, length, self.context.engine))
            lines.append(element("li", text(view.preset_line(name, made, self.language))))
        return element("ul", *lines, classes="ah-lines")

    # --- a run

    def inputs(self) -> Sequence[Any]:
        return [
            *(self.start, self.result.held, self.consent),
            *self.given.inputs,
            *(self.seed, self.style_id, self.guidance, self.guider, self.crop, self.compare),
        ]

    def outputs(self) -> Sequence[Any]:
        return self.result.outputs

    def result_boxes(self) -> Sequence[Any]:
        return [self.result.box, self.result.near_box, self.result.held_box, self.result.going_box]

    def settings(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "guidance": self.guidance,
            "style": self.style_id,
            "head": self.given.head,
            "pose_guider": self.guider,
            "crop": self.crop,
            "compare": self.compare,
        }

    def lacking(self, values: Sequence[Any]) -> str:
        start, held, *_ = values
        if start in (GO_ON, AS_IT_IS) and isinstance(held, Stopped):
            return ""
        return "" if self._given(values).complete else self.empty(alert=True)

    def _given(self, values: Sequence[Any]) -> Given:
        return self.given.read(values[3 : 3 + len(self.given.inputs)])

    def job(self, values: Sequence[Any], asked: Asked) -> Generator[Step | Outcome, None, None]:
        start, held, consent, *_ = values
        if start in (GO_ON, AS_IT_IS) and isinstance(held, Stopped):
            request = held.again if start == GO_ON else held.as_it_is
            yield from animate(self.context.engine, request, replace(held.asked, cancel=asked.cancel))
            return
        require_consent(bool(consent))
        request = self._request(values)
        run = compare if start == MEASURE else animate
        yield from run(self.context.engine, request, asked)

    def _request(self, values: Sequence[Any]) -> AnimateRequest:
        given = self._given(values)
        seed, style, guidance, guider, crop, beside = values[3 + len(self.given.inputs) :]
        return AnimateRequest(
            portrait=open_picture(str(given.portrait)),
            source=given.source(None if style is None or style < 0 else int(style)),
            folder=self.result.saving.folder(),
            guidance=float(guidance),
            seed=int(seed or 0),
            faithful=guider == "faithful",
            crop=bool(crop),
            compare=bool(beside),
            labelled=enabled(os.environ),
            language=self.language,
        )

    def step_shown(self, step: Step) -> Updates:
        if isinstance(step.preview, Look):
            return self.result.looked(step.preview, stand_in=step.detail.get("stand_in") == 1)
        return {} if step.preview is None else self.result.forming(step.preview)

    def finished(self, outcome: Outcome, values: Sequence[Any]) -> Updates:
        del values
        if isinstance(outcome, Closeness):
            return {**self.result.measured(outcome), self.result.going_box: gr.update(visible=False)}
        if isinstance(outcome, Stopped):
            report = self.report.of_error(outcome.error, self.planning.plan(outcome.asked.wishes))
            return {**report, **self.result.stopped(outcome)}
        return {**self.result.finished(outcome), **self.account(outcome.result, requests=1)}


def _without_guidance(guidance: float) -> bool:
    """Whether a guidance asks for none."""
    return guidance <= 1
