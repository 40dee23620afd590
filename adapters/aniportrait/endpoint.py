"""The browser API ``/animate``: what the page does, for programs."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.aniportrait.held import write_held
from adapters.aniportrait.job import files_of, going_on, nearness, record, source_of
from adapters.aniportrait.requests import AnimateRequest
from adapters.aniportrait.running import Closeness, Made, Stopped, animate
from adapters.aniportrait.running import compare as near
from adapters.aniportrait.spec import SPEC
from kit.ai_label import enabled
from kit.consent import require_consent
from kit.images import open_picture
from kit.parts.endpoint import Answer, ModelEndpoint, wishes_of
from kit.running import Asked
from kit.texts import error_text
from kit.texts.report import run_record
from kit.uploads import check_clip, check_picture
from loader.acceptance import names_in
from loader.errors import InputError
from loader.host import Dtype


class Endpoint(ModelEndpoint):
    """``/animate``."""

    spec = SPEC
    files_word = "api.animate_files"

    def inputs(self) -> list[Any]:
        return [
            gr.File(type="filepath", label=self._("api.animate_portrait")),
            gr.File(type="filepath", label=self._("api.animate_moving")),
            gr.Checkbox(False, label=self._("api.animate_consent")),
            gr.Checkbox(False, label=self._("api.animate_poses")),
            gr.Dropdown(["sound", "still"], value="sound", label=self._("api.animate_head")),
            gr.Number(0, label=self._("api.animate_frames"), precision=0),
            gr.Number(0, label=self._("api.animate_steps"), precision=0),
            gr.Number(3.5, label=self._("api.animate_guidance")),
            gr.Number(42, label=self._("api.animate_seed"), precision=0),
            gr.Checkbox(False, label=self._("api.animate_compare")),
            *self.choices(),
            self.size(),
            gr.Textbox("", label=self._("api.accept_licence")),
            gr.File(type="filepath", label=self._("api.animate_resume")),
            gr.Checkbox(False, label=self._("api.animate_as_it_is")),
            gr.Checkbox(False, label=self._("api.animate_measure")),
        ]

    def run(  # noqa: PLR0913 - each is a named parameter of the API
        self,
        portrait: str | None,
        moving: str | None,
        consent: bool = False,
        poses: bool = False,
        head: str = "sound",
        frames: int = 0,
        steps: int = 0,
        guidance: float = 3.5,
        seed: int = 42,
        compare: bool = False,
        variant: str = "",
        device: str = "",
        dtype: Dtype | str = "",
        size: str = "",
        accept_licence: str = "",
        resume: str | None = None,
        as_it_is: bool = False,
        measure: bool = False,
        caller: gr.Request | None = None,
    ) -> Iterator[Answer]:
        """Progress while it runs; at the end the report and the files."""
        with self.errors_in_words():
            require_consent(consent)
            wishes = wishes_of(variant, device, dtype, size, steps=steps, frames=frames)
            request = AnimateRequest(
                portrait=open_picture(_file(portrait, "portrait")),
                source=source_of(_file(moving, "moving"), poses=poses, head=head),
                folder=self.folder(),
                guidance=float(guidance),
                seed=int(seed),
                compare=compare,
                labelled=enabled(os.environ),
                language=self.language,
            )
            request = going_on(request, resume or "", as_it_is=as_it_is)
            asked = Asked(wishes, session=self.session(caller), accepted=names_in(accept_licence))
            work = near if measure else animate
            yield from self.told(work(self.context.engine, request, asked), self._answer)

    def _answer(self, outcome: Made | Stopped | Closeness) -> Answer:
        """What was made; how near a precision is; or why it ended early, with a file to go on with."""
        if isinstance(outcome, Closeness):
            return nearness(outcome), []
        if isinstance(outcome, Stopped):
            held = write_held(outcome.unfinished, outcome.request, outcome.request.folder)
            return self._stopped(outcome), [str(held)]
        return report(outcome), files_of(outcome.animation)

    def _stopped(self, outcome: Stopped) -> dict[str, Any]:
        kept = {"step": outcome.unfinished.step, "steps": outcome.unfinished.steps}
        return {"error": error_text(outcome.error, self.language), "unfinished": kept}


def _file(path: str | None, name: str) -> Path:
    if not path:
        raise InputError(f"{name} is missing: a portrait and what moves it are needed")
    found = Path(path)
    if name == "portrait":
        check_picture(found)
    else:
        check_clip(found)
    return found


def report(made: Made) -> dict[str, Any]:
    """What was made, in what it ran and what it took against the prediction."""
    result, plan = made.result, made.result.plan
    return {
        **record(made.animation),
        "variant": plan.variant,
        "weights": result.weights,
        "dtype": {p.name: p.compute_dtype for p in plan.components},
        "steps": plan.steps,
        **run_record(result),
    }
