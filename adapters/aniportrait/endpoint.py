"""The browser API ``/animate``: what the page does, for programs."""

import os
import uuid
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
from kit.parts.context import LANE, PageContext
from kit.running import Asked
from kit.sizes import read_size
from kit.texts import EVENTS_OF, error_text
from kit.texts.labels import label
from kit.uploads import check_clip, check_picture
from loader.errors import AnyhostError
from loader.host import Dtype
from loader.wishes import Wishes


class Endpoint:
    """Hidden components and one event: typed inputs, typed outputs, files checked and kept by Gradio."""

    def __init__(self, context: PageContext) -> None:
        self.context, self._language = context, context.language
        dtypes = dict.fromkeys(d for v in SPEC.variants for c in v.components for d in c.dtypes)
        devices = ("cpu", *(a.device for a in context.host.accelerators))
        with gr.Group(visible=False):
            trigger = gr.Button()
            inputs = [
                gr.File(type="filepath", label=self._("portrait")),
                gr.File(type="filepath", label=self._("moving")),
                gr.Checkbox(False, label=self._("consent")),
                gr.Checkbox(False, label=self._("poses")),
                gr.Dropdown(["sound", "still"], value="sound", label=self._("head")),
                gr.Number(0, label=self._("frames"), precision=0),
                gr.Number(0, label=self._("steps"), precision=0),
                gr.Number(3.5, label=self._("guidance")),
                gr.Number(42, label=self._("seed"), precision=0),
                gr.Checkbox(False, label=self._("compare")),
                self._choice("variant", tuple(v.name for v in SPEC.variants)),
                self._choice("device", devices),
                self._choice("dtype", tuple(dtypes)),
                gr.Textbox("", label=label("api.size", self._language)),
                gr.Textbox("", label=self._("accepted")),
            ]
            self.files = gr.File(file_count="multiple", label=self._("files"))
            outputs = [gr.JSON(label=label("api.report", self._language)), self.files]
        trigger.click(
            self.run,
            inputs,
            outputs,
            api_name=SPEC.endpoint.strip("/"),
            api_description=label("api.animate", self._language),
            concurrency_id=LANE,
            concurrency_limit=1,
            show_progress="hidden",
        )

    def _(self, key: str) -> str:
        return label(f"api.animate_{key}", self._language)

    def _choice(self, key: str, values: tuple[str, ...]) -> gr.Dropdown:
        return gr.Dropdown(["", *values], value="", label=label(f"api.{key}", self._language))

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
        accepted: str = "",
    ) -> Iterator[tuple[dict[str, Any], list[str]]]:
        """Progress while it runs; at the end the report and the files."""
        try:
            require_consent(consent)
            wishes = Wishes(
                device=device or None,
                dtype=dtype or None,  # type: ignore[arg-type]  # the component offers the words of Dtype only
                variant=variant or None,
                size=read_size(size) if size else None,
                steps=int(steps) or None,
                frames=int(frames) or None,
            )
            request = AnimateRequest(
                portrait=open_picture(_file(portrait, "portrait")),
                source=source_of(_file(moving, "moving"), poses=poses, head=head),
                folder=Path(self.files.GRADIO_CACHE) / uuid.uuid4().hex,
                guidance=float(guidance),
                seed=int(seed),
                compare=compare,
                labelled=enabled(os.environ),
                language=self._language,
            )
            names = frozenset(name.strip() for name in accepted.split(",") if name.strip())
            for item in animate(self.context.engine, request, Asked(wishes, accepted=names)):
                if isinstance(item, Made):
                    yield report(item), files_of(item.animation)
                elif isinstance(item, Stopped):
                    raise item.error
                else:
                    yield {"stage": item.stage, "done": item.index, "total": item.total}, []
        except AnyhostError as error:
            raise gr.Error(error_text(error, self._language), print_exception=False) from error


def _file(path: str | None, name: str) -> Path:
    from loader.errors import InputError

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
        "device": plan.device,
        "dtype": {p.name: p.compute_dtype for p in plan.components},
        "steps": plan.steps,
        "seconds": result.seconds,
        "load_seconds": result.load_seconds,
        "predicted_seconds": plan.predicted_seconds,
        "peak_bytes": dict(result.peak_bytes),
        "predicted_peak_bytes": dict(plan.peak_bytes),
        "trace": [
            {"unit": t.unit, "event": t.event, "what": EVENTS_OF.get(t.event, t.event), "why": t.why}
            | {"plan_change": t.plan_change}
            for t in result.trace
        ],
    }
