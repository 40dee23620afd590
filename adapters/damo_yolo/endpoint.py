"""The browser API ``/detect``: what the page does, for programs."""

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
from kit.parts.endpoint import Answer, ModelEndpoint, wishes_of
from kit.running import Asked
from kit.texts.report import run_record
from loader.host import Dtype
from loader.outcome import Result


class Endpoint(ModelEndpoint):
    """``/detect``."""

    spec = SPEC
    files_word = "api.annotated"

    def inputs(self) -> list[Any]:
        return [
            gr.File(file_count="multiple", type="filepath", label=self._("api.pictures")),
            gr.Slider(0.0, 1.0, value=DEFAULT_THRESHOLD, label=self._("api.threshold")),
            *self.choices(),
            self.size(),
            gr.Slider(0.0, 1.0, value=DEFAULT_IOU, label=self._("api.iou")),
        ]

    def run(  # noqa: PLR0913 - each is a named parameter of the API
        self,
        pictures: list[str] | None,
        threshold: float = DEFAULT_THRESHOLD,
        variant: str = "",
        device: str = "",
        dtype: Dtype | str = "",
        size: str = "",
        iou: float = DEFAULT_IOU,
        caller: gr.Request | None = None,
    ) -> Iterator[Answer]:
        """Progress while it runs; at the end the report and an annotated PNG for each picture."""
        with self.errors_in_words():
            wishes = wishes_of(variant, device, dtype, size)
            settings = Suppression(threshold, iou)
            items = detect(
                self.context.engine,
                [Path(p) for p in pictures or ()],
                settings,
                Asked(wishes, session=self.session(caller)),
            )
            yield from self.told(items, lambda found: self._answer(found, Filter(threshold, iou=iou)))

    def _answer(self, detected: Detected, passing: Filter) -> Answer:
        files = annotated_files(detected.shown, passing, self.folder())
        return report(detected, passing), [str(file) for file in files]


def report(detected: Detected, passing: Filter) -> dict[str, Any]:
    """What was found, in what it ran and what it took against the prediction."""
    result: Result = detected.shown.result
    return {
        **record(detected.shown, passing),
        "skipped": [str(problem) for problem in detected.problems],
        **run_record(result),
    }
