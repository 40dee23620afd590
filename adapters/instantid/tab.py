"""The InstantID tab: photos of one person and a few words in, pictures out."""

import secrets
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.instantid import job as jobs
from adapters.instantid import view
from adapters.instantid.controls_part import ControlsPart
from adapters.instantid.drawn import Drawn, FoundFaces
from adapters.instantid.endpoint import Endpoint
from adapters.instantid.presets import PRESETS, fitting, seconds_of, wishes_of
from adapters.instantid.requests import CONTROLS, MAX_SEED, FacesRequest
from adapters.instantid.result_part import ResultPart
from adapters.instantid.spec import SPEC
from adapters.instantid.view import Drawings
from kit.parts import states
from kit.parts.consent import consent_tick
from kit.parts.context import QUIET, RUNS, PageContext
from kit.parts.model_tab import ModelTab, Updates
from kit.parts.picture_input import PictureInput, example_pictures, paths_of
from kit.running import Asked, told
from kit.sizes import write_size
from kit.texts.report import seconds_text
from loader.errors import AnyhostError
from loader.outcome import Kept, Result, Step


def tab(context: PageContext) -> None:
    """Build the tab inside the current one, with its events and the endpoint ``/identity``."""
    IdentityTab(context).build()


def example_files() -> list[Path]:
    """Rendered portraits that ship with the project; nobody real is among them."""
    return [path for path in example_pictures() if path.stem.startswith("portrait")]


class IdentityTab(ModelTab[Drawings]):
    """Photos, consent, words, a quality, and what ``ResultPart`` shows."""

    spec = SPEC
    style = Path(__file__).with_name("tab.css")

    def build_input(self) -> None:
        self.photos = PictureInput(self.language, self.prefix, example_files())
        self.consent = consent_tick(self.language, elem_id="identity-consent")
        self.controls = ControlsPart(self.language)
        self.controls.build_words()

    def build_options(self) -> None:
        self.preset = gr.Radio(
            [(self._preset_words(name), name) for name in PRESETS],
            value=None,
            label=self._("identity.preset"),
            info=self._("identity.preset_info"),
            elem_id="identity-preset",
        )
        self.controls.build_folds()

    def _preset_words(self, name: str) -> str:
        seconds = seconds_of(name, self.context.engine)
        if seconds is None:
            return self._(f"identity.preset_{name}_none")
        return self._(f"identity.preset_{name}", seconds=seconds_text(seconds))

    def build_result(self) -> None:
        self.result = ResultPart(self.language, self.status)

    def build_endpoint(self) -> None:
        Endpoint(self.context)

    # --- events

    def wire(self) -> None:
        named, panel = self.controls.named, self.panel
        self.photos.wire(self.status)
        nets = [named[kind] for kind in CONTROLS]
        self.preset.input(self._preset, [self.preset, *nets, *panel.controls], panel.controls, **QUIET)
        gr.on(
            [net.release for net in nets],
            self._for_nets,
            [*nets, *panel.controls],
            panel.controls,
            trigger_mode="always_last",
            **QUIET,
        )
        wishes = dict(zip(panel.names, panel.controls, strict=True))
        named["guidance"].change(_without_guidance, [named["guidance"]], [wishes["unguided"]], **QUIET)
        self.controls.dice.click(lambda: secrets.randbelow(MAX_SEED), None, [named["seed"]], **QUIET)
        self.result.seed.click(self._use_seed, [self.result.drawings, self.result.chosen], [named["seed"]], **QUIET)
        self.controls.find.click(
            self._find,
            [*self._ticks(), self.consent, self.photos.pictures, *panel.controls],
            [self.status, self.controls.faces],
            api_visibility="private",
            **RUNS,
        )
        self.controls.faces.select(_face_number, None, [named["face"]], **QUIET)
        files = self.controls.pictures
        self.controls.paint.wire(
            self.status, self.photos.pictures, files["pose_picture"], files["mask"], named["region"]
        )

    def _preset(self, name: str, *values: Any) -> list[Any]:
        nets, wished = values[: len(CONTROLS)], values[len(CONTROLS) :]
        wanted = wishes_of(name, self.context.host, _named_nets(nets))
        size = write_size(wanted.size) if wanted.size else ""
        return self._with(wished, variant=wanted.variant or "", size=size, steps=str(wanted.steps or ""))

    def _for_nets(self, *values: Any) -> list[Any]:
        """The variant that has the ControlNets whose strength is above zero."""
        nets, wished = values[: len(CONTROLS)], values[len(CONTROLS) :]
        variant = fitting(self.panel.read(wished).variant, _named_nets(nets), self.context.host)
        return self._with(wished, variant=variant)

    def _with(self, wished: Sequence[Any], **changed: str) -> list[Any]:
        return [changed.get(name, value) for name, value in zip(self.panel.names, wished, strict=True)]

    @staticmethod
    def _use_seed(drawings: Drawings | None, index: int) -> Any:
        return gr.skip() if drawings is None else drawings.one(index).seed

    def _find(self, request: gr.Request, *values: Any) -> Iterator[Updates]:
        """Show the faces of the first photo, to choose one."""
        ticks = len(self._ticks())
        consent, photos, *wished = values[ticks:]
        hidden = gr.update(visible=False)
        try:
            if not photos:
                yield {self.status: self.empty(alert=True), self.controls.faces: hidden}
                return
            photo = jobs.opened(str(paths_of(photos)[0]))
            assert photo is not None, "a path opens or raises"
            accepted = self.tick.accepted(values[0]) if self.tick is not None else frozenset()
            asked = Asked(self.panel.read(wished), session=request.session_hash or "", accepted=accepted)
            with closing(told(self.context.engine, SPEC, FacesRequest(photo, bool(consent)), asked)) as items:
                for item in items:
                    if isinstance(item, Step):
                        yield {self.status: states.progress(item, self.language)}
                        continue
                    found: FoundFaces = item.outputs[0]
                    crops = [(crop, str(i + 1)) for i, crop in enumerate(view.face_pictures(photo, found))]
                    words = states.notice(
                        self._("identity.found", count=len(crops)), self._("identity.found_words", name=photo.name)
                    )
                    yield {self.status: words, self.controls.faces: gr.update(value=crops, visible=True)}
        except AnyhostError as error:
            yield {self.status: states.failed(error, self.language), self.controls.faces: hidden}

    # --- a run

    def inputs(self) -> Sequence[Any]:
        return [self.photos.pictures, self.consent, *self.controls.inputs]

    def outputs(self) -> Sequence[Any]:
        return self.result.outputs

    def result_boxes(self) -> Sequence[Any]:
        return [self.result.box]

    def running_boxes(self) -> Sequence[Any]:
        return [self.result.live]

    def settings(self) -> Mapping[str, Any]:
        return self.controls.named

    def lacking(self, values: Sequence[Any]) -> str:
        if not values[0]:
            return self.empty(alert=True)
        if not values[1]:
            return states.notice(self._("identity.no_consent"), self._("identity.no_consent_words"), alert=True)
        return ""

    def job(self, values: Sequence[Any], asked: Asked) -> Generator[Step | Drawings, None, None]:
        photos, consent, *controls = values
        options = self.controls.options(controls) | {"consent": bool(consent)}
        request = jobs.request(paths_of(photos), options)
        for item in told(self.context.engine, SPEC, request, asked):
            yield Drawings(item) if isinstance(item, Result) else item

    def finished_part(self, kept: Sequence[Kept], values: Sequence[Any], ended: Result) -> tuple[str, Updates]:
        done: tuple[Drawn, ...] = next((one.value for one in kept if one.stage == "decoding_pictures"), ())
        if not done:
            return super().finished_part(kept, values, ended)
        settings = done[0].settings
        words = self._("kept.pictures", done=len(done), total=settings.pictures * len(settings.prompts))
        return words, self.result.finished(Drawings(replace(ended, outputs=done, items=len(done))))

    def step_shown(self, step: Step) -> Updates:
        return self.result.step(step)

    def finished(self, outcome: Drawings, values: Sequence[Any]) -> Updates:
        del values
        batches = -(-outcome.result.items // outcome.result.plan.batch)
        return {**self.account(outcome.result, requests=batches), **self.result.finished(outcome)}


def _face_number(event: gr.SelectData) -> int:
    return int(event.index) + 1


def _named_nets(strengths: Sequence[float]) -> tuple[str, ...]:
    return tuple(kind for kind, strength in zip(CONTROLS, strengths, strict=True) if strength)


def _without_guidance(guidance: float) -> bool:
    """Whether a guidance asks for none; 0 takes the variant's own, which does not."""
    return 0 < guidance <= 1
