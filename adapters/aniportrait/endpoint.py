"""The browser API ``/animate``: what the page does, for programs."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.aniportrait.job import files_of, record, source_of
from adapters.aniportrait.requests import AnimateRequest
from adapters.aniportrait.running import Made, Stopped, animate
from adapters.aniportrait.spec import SPEC
from kit.ai_label import enabled
from kit.consent import require_consent
from kit.images import open_picture
from kit.parts.endpoint import Answer, ModelEndpoint, wishes_of
from kit.running import Asked
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
            asked = Asked(wishes, accepted=names_in(accept_licence))
            yield from self.told(animate(self.context.engine, request, asked), self._answer)

    def _answer(self, outcome: Made | Stopped) -> Answer:
        if isinstance(outcome, Stopped):
            raise outcome.error
        return report(outcome), files_of(outcome.animation)


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
