"""The camera as controls: read from the picture, a lens, a field of view, or intrinsics typed or from a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.metric3d.camera import (
    ASSUMED_FOV,
    FILM_LIMITS_MM,
    FOV_LIMITS,
    PRESETS,
    CameraWish,
    camera_of,
    field_of_view,
    read_intrinsics,
)
from adapters.metric3d.saving import camera_words
from kit.exif import camera_tags
from kit.images import open_picture
from kit.parts.context import QUIET
from kit.parts.markup import para
from kit.parts.plain import html
from kit.texts.labels import label
from loader.errors import AnyhostError, InputError

SOURCES = ("auto", "film", "fov", "typed", "file")
INTRINSICS = ("fx", "fy", "cx", "cy")
DEFAULT_FILM_MM = 26.0


class CameraPanel:
    """Controls for the camera of a request.

    Attributes:
        controls: the components, for the inputs of events.
        line: what follows for the first picture.
    """

    def __init__(self, language: str) -> None:
        self._language = language
        self.source = gr.Radio(
            [(self._(f"camera.by_{source}"), source) for source in SOURCES],
            value="auto",
            label=self._("camera.by"),
            elem_id="depth-camera-source",
        )
        with gr.Row(visible=False, elem_classes="ah-wishes") as film:
            self.preset = gr.Dropdown(
                [(self._(f"preset.{name}", mm=f"{mm:g}"), name) for name, mm in PRESETS.items()],
                value="phone_main",
                label=self._("camera.preset"),
                min_width=150,
            )
            self.film = gr.Number(
                DEFAULT_FILM_MM,
                minimum=FILM_LIMITS_MM[0],
                maximum=FILM_LIMITS_MM[1],
                label=self._("camera.film_mm"),
                min_width=150,
            )
        with gr.Row(visible=False) as angle:
            self.fov = gr.Slider(*FOV_LIMITS, value=ASSUMED_FOV, step=1, label=self._("camera.fov_degrees"), buttons=[])
        with gr.Row(visible=False, elem_classes="ah-wishes") as typed:
            self.numbers = [
                gr.Number(None, label=self._(f"camera.{name}"), min_width=150, elem_id=f"depth-{name}")
                for name in INTRINSICS
            ]
        with gr.Row(visible=False) as upload:
            self.file = gr.File(
                file_types=[".json"],
                type="filepath",
                label=self._("camera.file"),
                height=110,
                elem_id="depth-camera-file",
            )
        self._groups = {"film": film, "fov": angle, "typed": typed, "file": upload}
        self.line = html(para("ah-line", self._("camera.unknown")), elem_id="depth-camera-line")

    @property
    def controls(self) -> list[Any]:
        return [self.source, self.film, self.fov, *self.numbers, self.file]

    def settings(self) -> dict[str, Any]:
        """The controls by the names of ``saving.camera_options``."""
        return {
            "camera": self.source,
            "film_mm": self.film,
            "fov": self.fov,
            **dict(zip(INTRINSICS, self.numbers, strict=True)),
        }

    def read(self, values: Sequence[Any]) -> CameraWish:
        """What ``values`` of the controls say.

        Raises:
            InputError: numbers no camera has, or a file that cannot be read.
        """
        source, film, fov, *numbers, file = values
        if source == "film":
            if film is None:
                raise InputError("a 35 mm equivalent lies between 5 and 900 mm: write one, or choose a camera")
            return CameraWish(film_mm=float(film))
        if source == "fov":
            return CameraWish(fov=float(fov))
        if source == "typed":
            # Browsers send an empty field as nothing or as 0; neither is a place to look from.
            fx, fy, cx, cy = (float(n) if n else None for n in numbers)
            if fx is None:
                raise InputError("fx is missing: write the focal length across, in pixels of the picture")
            return CameraWish(fx=fx, fy=fy, cx=cx, cy=cy)
        if source == "file":
            if not file:
                raise InputError("no JSON file was given: choose one with fx, fy, cx and cy, or a matrix K")
            return read_intrinsics(Path(file))
        return CameraWish()

    def wire(self, pictures: gr.Gallery) -> None:
        """Let the controls show what belongs to them, and the line follow them."""
        self.source.change(
            lambda chosen: [gr.update(visible=name == chosen) for name in self._groups],
            [self.source],
            list(self._groups.values()),
            **QUIET,
        )
        self.preset.input(lambda name: PRESETS[name], [self.preset], [self.film], **QUIET)
        for part in self.controls:
            part.change(**self.saying(pictures), trigger_mode="always_last")

    def saying(self, pictures: gr.Gallery) -> dict[str, Any]:
        """The arguments of an event after which the line speaks of other pictures."""
        return {"fn": self._say, "inputs": [pictures, *self.controls], "outputs": [self.line], **QUIET}

    def _(self, key: str, **figures: object) -> str:
        return label(key, self._language, **figures)

    def _say(self, files: Sequence[tuple[str, str | None]] | None, *values: Any) -> str:
        if not files:
            return para("ah-line", self._("camera.unknown"))
        path = Path(files[0][0])
        try:
            size = open_picture(path).size
            camera = camera_of(size, self.read(values), camera_tags(path))
        except AnyhostError as error:
            return para("ah-line ah-bad", str(error))
        words = self._(
            "camera.line",
            focal=f"{camera.focal_px:.0f}",
            fov=f"{field_of_view(size, camera.focal_px):.0f}",
            words=camera_words(camera, self._language),
        )
        return para("ah-line", words)
