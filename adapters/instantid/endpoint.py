"""The browser API ``/identity``: what the page does, for programs."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.instantid import job as jobs
from adapters.instantid.options import SETTING_OPTIONS
from adapters.instantid.saving import FORMATS, output_of, record_of, save, weights_words
from adapters.instantid.spec import SPEC
from kit.parts.context import LANE, PageContext
from kit.running import Asked, told
from kit.sizes import read_size
from kit.texts import EVENTS_OF, error_text
from kit.texts.labels import label
from loader.errors import AnyhostError, InputError
from loader.host import Dtype
from loader.outcome import Result
from loader.wishes import Wishes


class Endpoint:
    """Hidden components and one event: typed inputs, typed outputs, files checked and kept by Gradio."""

    def __init__(self, context: PageContext) -> None:
        self.context, language = context, context.language
        dtypes = dict.fromkeys(d for v in SPEC.variants for c in v.components for d in c.dtypes)
        devices = ("cpu", *(a.device for a in context.host.accelerators))
        names = ", ".join(SETTING_OPTIONS)
        with gr.Group(visible=False):
            trigger = gr.Button()
            inputs = [
                gr.File(file_count="multiple", type="filepath", label=label("api.identity_photos", language)),
                gr.Checkbox(False, label=label("api.identity_consent", language)),
                gr.Textbox("", label=label("api.identity_prompt", language)),
                gr.JSON({}, label=label("api.identity_settings", language, names=names)),
                gr.File(type="filepath", label=label("identity.pose_picture", language)),
                gr.File(type="filepath", label=label("identity.base", language)),
                gr.File(type="filepath", label=label("identity.mask", language)),
                gr.File(type="filepath", label=label("identity.skeleton", language)),
                gr.File(type="filepath", label=label("identity.edges_of", language)),
                gr.File(type="filepath", label=label("identity.depth_map", language)),
                gr.Dropdown([*FORMATS], value=FORMATS[0], label=label("identity.kind", language)),
                gr.Number(0, precision=0, label=label("api.identity_steps", language)),
                gr.Textbox("", label=label("api.accept_licence", language)),
                gr.Dropdown(["", *(v.name for v in SPEC.variants)], value="", label=label("api.variant", language)),
                gr.Dropdown(["", *devices], value="", label=label("api.device", language)),
                gr.Dropdown(["", *dtypes], value="", label=label("api.dtype", language)),
                gr.Textbox("", label=label("api.size", language)),
            ]
            self.files = gr.File(file_count="multiple", label=label("api.identity_files", language))
            outputs = [gr.JSON(label=label("api.report", language)), self.files]
        trigger.click(
            self.run,
            inputs,
            outputs,
            api_name=SPEC.endpoint.strip("/"),
            api_description=label("api.identity", language),
            concurrency_id=LANE,
            concurrency_limit=1,
            show_progress="hidden",
        )

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
    ) -> Iterator[tuple[dict[str, Any], list[str]]]:
        """Progress while it runs; at the end the report and the pictures."""
        try:
            wishes = Wishes(
                device=device or None,
                dtype=dtype or None,  # type: ignore[arg-type]  # the component offers the words of Dtype only
                variant=variant or None,
                size=read_size(size) if size else None,
                steps=int(steps) or None,
            )
            files = {"pose_picture": pose_picture, "base": base, "mask": mask, "skeleton": skeleton}
            files |= {"edges_of": edges_of, "depth_map": depth_map}
            options = typed_settings(settings or {}) | {name: path or "" for name, path in files.items()}
            if prompt:
                options["prompt"] = prompt
            request = jobs.request([Path(p) for p in photos or ()], options | {"consent": consent, "kind": kind})
            accepted = frozenset(name.strip() for name in accept_licence.split(";") if name.strip())
            for item in told(self.context.engine, SPEC, request, Asked(wishes, accepted=accepted)):
                if isinstance(item, Result):
                    yield self._answer(item, kind)
                else:
                    yield {"stage": item.stage, "done": item.index, "total": item.total}, []
        except AnyhostError as error:
            raise gr.Error(error_text(error, self.context.language), print_exception=False) from error

    def _answer(self, result: Result, kind: str) -> tuple[dict[str, Any], list[str]]:
        folder = Path(self.files.GRADIO_CACHE) / uuid.uuid4().hex
        saved = save(result.outputs, result, folder, kind=kind, language=self.context.language)
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
        "device": made.device,
        "seconds": result.seconds,
        "load_seconds": result.load_seconds,
        "predicted_seconds": result.predicted_seconds,
        "peak_bytes": dict(result.peak_bytes),
        "predicted_peak_bytes": dict(made.peak_bytes),
        "trace": [
            {"unit": t.unit, "event": t.event, "what": EVENTS_OF.get(t.event, t.event), "why": t.why}
            | {"plan_change": t.plan_change}
            for t in result.trace
        ],
    }
