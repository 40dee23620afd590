"""The browser API ``/identity``: what the page does, for programs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.instantid import job as jobs
from adapters.instantid.options import SETTING_OPTIONS
from adapters.instantid.saving import FORMATS, output_of, record_of, save, weights_words
from adapters.instantid.spec import SPEC
from kit.parts.endpoint import Answer, ModelEndpoint, wishes_of
from kit.running import Asked, told
from kit.texts.report import run_record
from loader.acceptance import names_in
from loader.errors import InputError
from loader.host import Dtype
from loader.outcome import Result


class Endpoint(ModelEndpoint):
    """``/identity``."""

    spec = SPEC
    files_word = "api.identity_files"

    def inputs(self) -> list[Any]:
        names = ", ".join(SETTING_OPTIONS)
        return [
            gr.File(file_count="multiple", type="filepath", label=self._("api.identity_photos")),
            gr.Checkbox(False, label=self._("api.identity_consent")),
            gr.Textbox("", label=self._("api.identity_prompt")),
            gr.JSON({}, label=self._("api.identity_settings", names=names)),
            gr.File(type="filepath", label=self._("identity.pose_picture")),
            gr.File(type="filepath", label=self._("identity.base")),
            gr.File(type="filepath", label=self._("identity.mask")),
            gr.File(type="filepath", label=self._("identity.skeleton")),
            gr.File(type="filepath", label=self._("identity.edges_of")),
            gr.File(type="filepath", label=self._("identity.depth_map")),
            gr.Dropdown([*FORMATS], value=FORMATS[0], label=self._("identity.kind")),
            gr.Number(0, precision=0, label=self._("api.identity_steps")),
            gr.Textbox("", label=self._("api.accept_licence")),
            *self.choices(),
            self.size(),
            gr.File(type="filepath", label=self._("identity.pose_network")),
        ]

    def run(  # noqa: PLR0913 - each is a named parameter of the API
        self,
        photos: list[str] | None,
        consent: bool = False,
        prompt: str = "",
        settings: dict[str, Any] | None = None,
        pose_picture: str | None = None,
        base: str | None = None,
        mask: str | None = None,
        skeleton: str | None = None,
        edges_of: str | None = None,
        depth_map: str | None = None,
        kind: str = FORMATS[0],
        steps: int = 0,
        accept_licence: str = "",
        variant: str = "",
        device: str = "",
        dtype: Dtype | str = "",
        size: str = "",
        pose_network: str | None = None,
        caller: gr.Request | None = None,
    ) -> Iterator[Answer]:
        """Progress while it runs; at the end the report and the pictures."""
        with self.errors_in_words():
            wishes = wishes_of(variant, device, dtype, size, steps=steps)
            files = {"pose_picture": pose_picture, "base": base, "mask": mask, "skeleton": skeleton}
            files |= {"edges_of": edges_of, "depth_map": depth_map, "pose_network": pose_network}
            options = typed_settings(settings or {}) | {name: path or "" for name, path in files.items()}
            if prompt:
                options["prompt"] = prompt
            request = jobs.request([Path(p) for p in photos or ()], options | {"consent": consent, "kind": kind})
            asked = Asked(wishes, session=self.session(caller), accepted=names_in(accept_licence))
            items = told(self.context.engine, SPEC, request, asked)
            yield from self.told(items, lambda result: self._answer(result, kind))

    def _answer(self, result: Result, kind: str) -> Answer:
        saved = save(result.outputs, result, self.folder(), kind=kind, language=self.language)
        return report(result), [str(files[0]) for files in saved]


def typed_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Settings of a program, as the options' own types.

    Raises:
        InputError: an unknown name, or a value of another kind.
    """
    options: dict[str, Any] = {}
    for name, value in given.items():
        if name not in SETTING_OPTIONS:
            raise InputError(f"unknown setting {name}: those there are: {', '.join(SETTING_OPTIONS)}")
        wanted = type(SETTING_OPTIONS[name][1])
        number = wanted is float and isinstance(value, int) and not isinstance(value, bool)
        if type(value) is not wanted and not number:
            raise InputError(f"setting {name} is {value!r:.60}: it must be a {wanted.__name__}")
        options[name] = wanted(value)
    return options


def report(result: Result) -> dict[str, Any]:
    """What was drawn, in what it ran and what it took against the prediction."""
    made = result.plan
    return {
        "pictures": [{**output_of(one), "settings": record_of(one, result)} for one in result.outputs],
        "variant": made.variant,
        "weights": weights_words(result),
        "dtype": made.component("unet").compute_dtype,
        **run_record(result),
    }
