"""The browser API ``/detect``: what the page does, for programs."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.damo_yolo.detecting import Detected, detect
from adapters.damo_yolo.files import annotated_files, record
from adapters.damo_yolo.job import DEFAULT_THRESHOLD
from adapters.damo_yolo.postprocess import Suppression
from adapters.damo_yolo.spec import SPEC
from adapters.damo_yolo.view import DEFAULT_IOU, Filter
from kit.parts.context import LANE, PageContext
from kit.running import Asked
from kit.sizes import read_size
from kit.texts import EVENTS_OF, error_text
from kit.texts.labels import label
from loader.errors import AnyhostError
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
                gr.Slider(0.0, 1.0, value=DEFAULT_THRESHOLD, label=label("api.threshold", language)),
                gr.Dropdown(["", *(v.name for v in SPEC.variants)], value="", label=label("api.variant", language)),
                gr.Dropdown(["", *devices], value="", label=label("api.device", language)),
                gr.Dropdown(["", *dtypes], value="", label=label("api.dtype", language)),
                gr.Textbox("", label=label("api.size", language)),
                gr.Slider(0.0, 1.0, value=DEFAULT_IOU, label=label("api.iou", language)),
            ]
            self.files = gr.File(file_count="multiple", label=label("api.annotated", language))
            outputs = [gr.JSON(label=label("api.report", language)), self.files]
        trigger.click(
            self.run,
            inputs,
            outputs,
            api_name=SPEC.endpoint.strip("/"),
            api_description=label("api.detect", language),
            concurrency_id=LANE,
            concurrency_limit=1,
            show_progress="hidden",
        )

    def run(  # noqa: PLR0913 - each is a named parameter of the API
        self,
        pictures: list[str] | None,
        threshold: float = DEFAULT_THRESHOLD,
        variant: str = "",
        device: str = "",
        dtype: Dtype | str = "",
        size: str = "",
        iou: float = DEFAULT_IOU,
    ) -> Iterator[tuple[dict[str, Any], list[str]]]:
        """Progress while it runs; at the end the report and an annotated PNG for each picture."""
        try:
            wishes = Wishes(
                device=device or None,
                dtype=dtype or None,  # type: ignore[arg-type]  # the component offers the words of Dtype only
                variant=variant or None,
                size=read_size(size) if size else None,
            )
            settings = Suppression(threshold, iou)
            for item in detect(self.context.engine, [Path(p) for p in pictures or ()], settings, Asked(wishes)):
                if isinstance(item, Detected):
                    yield self._answer(item, Filter(threshold, iou=iou))
                else:
                    yield {"stage": item.stage, "done": item.index, "total": item.total}, []
        except AnyhostError as error:
            raise gr.Error(error_text(error, self.context.language), print_exception=False) from error

    def _answer(self, detected: Detected, passing: Filter) -> tuple[dict[str, Any], list[str]]:
        folder = Path(self.files.GRADIO_CACHE) / uuid.uuid4().hex
        files = annotated_files(detected.shown, passing, folder)
        return report(detected, passing), [str(file) for file in files]


def report(detected: Detected, passing: Filter) -> dict[str, Any]:
    """What was found, in what it ran and what it took against the prediction."""
    result: Result = detected.shown.result
    made = result.plan
    return {
        **record(detected.shown, passing),
        "skipped": [str(problem) for problem in detected.problems],
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
