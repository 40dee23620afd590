"""The browser API ``/depth``: what the page does, for programs."""

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
from kit.parts.endpoint import Answer, ModelEndpoint, wishes_of
from kit.running import Asked
from kit.texts.report import run_record
from loader.errors import InputError
from loader.host import Dtype


class Endpoint(ModelEndpoint):
    """``/depth``."""

    spec = SPEC
    files_word = "api.measured"

    def inputs(self) -> list[Any]:
        return [
            gr.File(file_count="multiple", type="filepath", label=self._("api.pictures")),
            gr.Number(None, label=self._("api.focal_px")),
            gr.Number(None, label=self._("api.fov")),
            gr.Number(None, label=self._("api.f35mm")),
            gr.Checkbox(False, label=self._("api.cloud")),
            *self.choices(),
            self.size(),
        ]

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
        caller: gr.Request | None = None,
    ) -> Iterator[Answer]:
        """Progress while it runs; at the end the report and the files of each picture."""
        with self.errors_in_words():
            wishes = wishes_of(variant, device, dtype, size)
            camera = wish_of({"focal_px": focal_px, "fov": fov, "f35mm": f35mm})
            opened, problems = open_shots([Path(p) for p in pictures or ()], camera)
            request = DepthRequest(tuple(shot for _, shot in opened))
            items = measure(self.context.engine, request, Asked(wishes, session=self.session(caller)))
            yield from self.told(items, lambda result: self._answer(shown(result, opened), problems, cloud=cloud))

    def _answer(self, view: Shown, problems: Sequence[InputError], *, cloud: bool) -> Answer:
        files = picture_files(view, Look(), self.folder(), cloud=cloud)
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
        **run_record(result),
    }
