"""The browser API ``/mesh``: what the page does, for programs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.hunyuan3d.job import kinds as read_kinds
from adapters.hunyuan3d.products import DRAW_STEPS, WRITTEN, Made, MeshRequest, open_rgba
from adapters.hunyuan3d.saving import KINDS, figures_of, notes_of, save_all, settings_of
from adapters.hunyuan3d.spec import SPEC
from kit.parts.endpoint import Answer, ModelEndpoint, wishes_of
from kit.running import Asked, told
from kit.texts.report import run_record
from kit.uploads import check_picture
from loader.acceptance import names_in
from loader.errors import InputError
from loader.host import Dtype
from loader.outcome import Result


class Endpoint(ModelEndpoint):
    """``/mesh``."""

    spec = SPEC
    files_word = "api.mesh_files"

    def inputs(self) -> list[Any]:
        return [
            gr.File(type="filepath", label=self._("api.mesh_picture")),
            gr.Textbox("", label=self._("api.mesh_words")),
            gr.Checkbox(False, label=self._("mesh.keep_alpha")),
            gr.Number(0, precision=0, label=self._("mesh.seed")),
            gr.Number(0, precision=0, label=self._("mesh.draw_seed")),
            gr.Number(DRAW_STEPS, precision=0, label=self._("mesh.draw_steps")),
            gr.Number(0, precision=0, label=self._("api.mesh_steps")),
            gr.Number(0, precision=0, label=self._("mesh.grid")),
            gr.Number(0, precision=0, label=self._("mesh.faces")),
            gr.Checkbox(True, label=self._("mesh.texture")),
            gr.Textbox(",".join(WRITTEN), label=self._("api.mesh_kinds", kinds=",".join(KINDS))),
            gr.Textbox("", label=self._("api.accept_licence")),
            *self.choices(),
        ]

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
        caller: gr.Request | None = None,
    ) -> Iterator[Answer]:
        """Progress while it runs; at the end the report and the files."""
        with self.errors_in_words():
            wishes = wishes_of(variant, device, dtype, steps=steps)
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
            asked = Asked(wishes, session=self.session(caller), accepted=names_in(accept_licence))
            yield from self.told(told(self.context.engine, SPEC, request, asked), self._answer)

    def _answer(self, result: Result) -> Answer:
        made: Made = result.outputs[0]
        files = save_all(result, made, self.folder(), made.request.kinds)
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
        **run_record(result),
    }
