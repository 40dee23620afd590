"""The browser API ``/mesh``: what the page does, for programs."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.hunyuan3d.job import kinds as read_kinds
from adapters.hunyuan3d.pipeline import Made
from adapters.hunyuan3d.products import DRAW_STEPS, WRITTEN, MeshRequest, open_rgba
from adapters.hunyuan3d.saving import KINDS, figures_of, notes_of, save_all, settings_of
from adapters.hunyuan3d.spec import SPEC
from kit.parts.context import LANE, PageContext
from kit.running import Asked, told
from kit.texts import EVENTS_OF, error_text
from kit.texts.labels import label
from kit.uploads import check_picture
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
                gr.File(type="filepath", label=label("api.mesh_picture", language)),
                gr.Textbox("", label=label("api.mesh_words", language)),
                gr.Checkbox(False, label=label("mesh.keep_alpha", language)),
                gr.Number(0, precision=0, label=label("mesh.seed", language)),
                gr.Number(0, precision=0, label=label("mesh.draw_seed", language)),
                gr.Number(DRAW_STEPS, precision=0, label=label("mesh.draw_steps", language)),
                gr.Number(0, precision=0, label=label("api.mesh_steps", language)),
                gr.Number(0, precision=0, label=label("mesh.grid", language)),
                gr.Number(0, precision=0, label=label("mesh.faces", language)),
                gr.Checkbox(True, label=label("mesh.texture", language)),
                gr.Textbox(",".join(WRITTEN), label=label("api.mesh_kinds", language, kinds=",".join(KINDS))),
                gr.Textbox("", label=label("api.accept_licence", language)),
                gr.Dropdown(["", *(v.name for v in SPEC.variants)], value="", label=label("api.variant", language)),
                gr.Dropdown(["", *devices], value="", label=label("api.device", language)),
                gr.Dropdown(["", *dtypes], value="", label=label("api.dtype", language)),
            ]
            self.files = gr.File(file_count="multiple", label=label("api.mesh_files", language))
            outputs = [gr.JSON(label=label("api.report", language)), self.files]
        trigger.click(
            self.run,
            inputs,
            outputs,
            api_name=SPEC.endpoint.strip("/"),
            api_description=label("api.mesh", language),
            concurrency_id=LANE,
            concurrency_limit=1,
            show_progress="hidden",
        )

    def run(  # noqa: PLR0913 - each is a named parameter of the API
        self,
        picture: str | None,
        words: str = "",
        keep_alpha: bool = False,
        seed: int = 0,
        draw_seed: int = 0,
        draw_steps: int = DRAW_STEPS,
        steps: int = 0,
        grid: int = 0,
        faces: int = 0,
        texture: bool = True,
        kinds: str = ",".join(WRITTEN),
        accept_licence: str = "",
        variant: str = "",
        device: str = "",
        dtype: Dtype | str = "",
    ) -> Iterator[tuple[dict[str, Any], list[str]]]:
        """Progress while it runs; at the end the report and the files."""
        try:
            wishes = Wishes(
                device=device or None,
                dtype=dtype or None,  # type: ignore[arg-type]  # the component offers the words of Dtype only
                variant=variant or None,
                steps=int(steps) or None,
            )
            if picture:
                check_picture(Path(picture))
            request = MeshRequest(
                picture=open_rgba(Path(picture)) if picture else None,
                words=words,
                name=Path(picture).name if picture else "mesh",
                keep_alpha=keep_alpha,
                seed=int(seed),
                draw_seed=int(draw_seed),
                draw_steps=int(draw_steps),
                grid=int(grid),
                faces=int(faces),
                texture=texture,
                kinds=_kinds(kinds),
            )
            accepted = frozenset(name.strip() for name in accept_licence.split(";") if name.strip())
            for item in told(self.context.engine, SPEC, request, Asked(wishes, accepted=accepted)):
                if isinstance(item, Result):
                    yield self._answer(item)
                else:
                    yield {"stage": item.stage, "done": item.index, "total": item.total}, []
        except AnyhostError as error:
            raise gr.Error(error_text(error, self.context.language), print_exception=False) from error

    def _answer(self, result: Result) -> tuple[dict[str, Any], list[str]]:
        made: Made = result.outputs[0]
        folder = Path(self.files.GRADIO_CACHE) / uuid.uuid4().hex
        files = save_all(result, made, folder, made.request.kinds)
        return report(result, made), [str(file) for file in files]


def _kinds(words: str) -> tuple[str, ...]:
    try:
        return read_kinds(words)
    except ValueError as error:
        raise InputError(f"kinds={words}: {error}; there are {', '.join(KINDS)}") from error


def report(result: Result, made: Made) -> dict[str, Any]:
    """What was made, in what it ran and what it took against the prediction."""
    return {
        **figures_of(made.products).record(),
        "settings": settings_of(result, made),
        "notes": notes_of(made),
        "variant": result.plan.variant,
        "weights": result.weights,
        "device": result.plan.device,
        "seconds": result.seconds,
        "load_seconds": result.load_seconds,
        "predicted_seconds": result.plan.predicted_seconds,
        "peak_bytes": dict(result.peak_bytes),
        "predicted_peak_bytes": dict(result.plan.peak_bytes),
        "trace": [
            {"unit": t.unit, "event": t.event, "what": EVENTS_OF.get(t.event, t.event), "why": t.why}
            | {"plan_change": t.plan_change}
            for t in result.trace
        ],
    }
