"""The browser API ``/depth``: what the page does, for programs."""

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.metric3d.job import wish_of
from adapters.metric3d.pipeline import DepthRequest
from adapters.metric3d.running import measure, open_shots
from adapters.metric3d.saving import Scaled, record
from adapters.metric3d.spec import SPEC
from adapters.metric3d.view import Look, Shown, picture_files, shown
from kit.parts.context import LANE, PageContext
from kit.running import Asked
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
        with gr.Group(visible=False):
            trigger = gr.Button()
            inputs = [
                gr.File(file_count="multiple", type="filepath", label=label("api.pictures", language)),
                gr.Number(None, label=label("api.focal_px", language)),
                gr.Number(None, label=label("api.fov", language)),
                gr.Number(None, label=label("api.f35mm", language)),
                gr.Checkbox(False, label=label("api.cloud", language)),
                gr.Dropdown(["", *(v.name for v in SPEC.variants)], value="", label=label("api.variant", language)),
                gr.Dropdown(["", *devices], value="", label=label("api.device", language)),
                gr.Dropdown(["", *dtypes], value="", label=label("api.dtype", language)),
                gr.Textbox("", label=label("api.size", language)),
            ]
            self.files = gr.File(file_count="multiple", label=label("api.measured", language))
            outputs = [gr.JSON(label=label("api.report", language)), self.files]
        trigger.click(
            self.run,
            inputs,
            outputs,
            api_name=SPEC.endpoint.strip("/"),
            api_description=label("api.depth", language),
            concurrency_id=LANE,
            concurrency_limit=1,
            show_progress="hidden",
        )

    def run(  # noqa: PLR0913 - each is a named parameter of the API
        self,
        pictures: list[str] | None,
        focal_px: float | None = None,
        fov: float | None = None,
        f35mm: float | None = None,
        cloud: bool = False,
        variant: str = "",
        device: str = "",
        dtype: Dtype | str = "",
        size: str = "",
    ) -> Iterator[tuple[dict[str, Any], list[str]]]:
        """Progress while it runs; at the end the report and the files of each picture."""
        try:
            wishes = Wishes(
                device=device or None,
                dtype=dtype or None,  # type: ignore[arg-type]  # the component offers the words of Dtype only
                variant=variant or None,
                size=read_size(size) if size else None,
            )
            camera = wish_of({"focal_px": focal_px, "fov": fov, "f35mm": f35mm})
            opened, problems = open_shots([Path(p) for p in pictures or ()], camera)
            request = DepthRequest(tuple(shot for _, shot in opened))
            for item in measure(self.context.engine, request, Asked(wishes)):
                if isinstance(item, Result):
                    yield self._answer(shown(item, opened), problems, cloud=cloud)
                else:
                    yield {"stage": item.stage, "done": item.index, "total": item.total}, []
        except AnyhostError as error:
            raise gr.Error(error_text(error, self.context.language), print_exception=False) from error

    def _answer(self, view: Shown, problems: Sequence[InputError], *, cloud: bool) -> tuple[dict[str, Any], list[str]]:
        folder = Path(self.files.GRADIO_CACHE) / uuid.uuid4().hex
        files = picture_files(view, Look(), folder, cloud=cloud)
        return report(view, problems), [str(file) for file in files]


def report(view: Shown, problems: Sequence[InputError]) -> dict[str, Any]:
    """What was measured, in what it ran and what it took against the prediction."""
    result, made = view.result, view.result.plan
    return {
        "pictures": [{"picture": k.measured.name, **record(Scaled(k.measured))} for k in view.kept],
        "variant": made.variant,
        "weights": result.weights,
        "size": list(made.size),
        "dtype": made.component("depth_model").compute_dtype,
        "skipped": [str(problem) for problem in problems],
        "device": made.device,
        "seconds": result.seconds,
        "load_seconds": result.load_seconds,
        "predicted_seconds": made.predicted_seconds,
        "peak_bytes": dict(result.peak_bytes),
        "predicted_peak_bytes": dict(made.peak_bytes),
        "trace": [
            {"unit": t.unit, "event": t.event, "what": EVENTS_OF.get(t.event, t.event), "why": t.why}
            | {"plan_change": t.plan_change}
            for t in result.trace
        ],
    }
