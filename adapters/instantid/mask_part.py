"""The mask painted on the page: white strokes over the picture that gives the shape, taken as a picture of their own.

What is painted goes into the same field an uploaded mask goes into, which is the way for keyboards and for programs.
"""

from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adapters.instantid import job as jobs
from kit.parts import states
from kit.parts.context import QUIET
from kit.parts.markup import para
from kit.parts.picture_input import Chosen, paths_of
from kit.texts.labels import label
from loader.errors import AnyhostError, InputError

PAINTED_SIDE = 768  # pixels of the longer side: a mask says where, and is stretched over the drawing
WHITE = "#ffffff"
ALPHA = 127  # of 255, from which on a stroke counts

Painted = dict[str, Any]  # what gr.ImageEditor gives: background, layers and composite, each [H, W, 4] or None


def canvas_of(pose: str | None, photos: Chosen) -> NDArray[np.uint8]:
    """What is painted on: the pose picture, else the first photo, ``[H, W, 3]`` with no side above 768.

    Raises:
        InputError: neither is there, or it is no picture.
    """
    path = pose or next((str(path) for path in paths_of(photos)), "")
    picture = jobs.opened(path)
    if picture is None:
        raise InputError("there is nothing to paint on: add a photo first, or a pose picture")
    image = Image.fromarray(picture.rgb)
    image.thumbnail((PAINTED_SIDE, PAINTED_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image, np.uint8)


def mask_of(painted: Painted | None) -> NDArray[np.uint8]:
    """The strokes of all layers, white on black, ``[H, W, 3]``.

    Raises:
        InputError: there are none.
    """
    alphas = [layer[..., 3] for layer in (painted or {}).get("layers") or () if layer is not None]
    covered = np.maximum.reduce(alphas) > ALPHA if alphas else np.zeros((1, 1), bool)
    if not covered.any():
        raise InputError("nothing is painted yet: draw over the face, or upload a mask instead")
    return np.repeat((covered * np.uint8(255))[..., None], 3, axis=2)


class MaskPart:
    """A button that opens a canvas, the canvas, and a button that takes what was painted.

    Args:
        language: of the words.
    """

    def __init__(self, language: str) -> None:
        self.language = language
        self.open = gr.Button(self._("paint"), size="sm", elem_id="identity-paint")
        self.hint = gr.HTML(
            para("ah-line", self._("canvas")), visible=False, apply_default_css=False, elem_classes="ah-html"
        )
        self.canvas = gr.ImageEditor(
            type="numpy",
            sources=(),
            transforms=(),
            layers=False,
            brush=gr.Brush(default_size=40, colors=[WHITE], color_mode="fixed"),
            eraser=gr.Eraser(default_size=40),
            canvas_size=(PAINTED_SIDE, PAINTED_SIDE),
            label=self._("canvas"),
            show_label=False,  # the tools lie where it would be
            buttons=[],
            height=420,
            visible=False,
            elem_id="identity-canvas",
        )
        self.take = gr.Button(self._("take_mask"), size="sm", visible=False, elem_id="identity-take-mask")

    def wire(self, status: gr.HTML, photos: gr.Gallery, pose: gr.Image, mask: gr.Image, region: gr.Radio) -> None:
        """Open the canvas on the pose picture or the first photo; put the strokes into ``mask``."""
        self.open.click(self._opened, [pose, photos], [status, self.hint, self.canvas, self.take], **QUIET)
        self.take.click(self._taken, [self.canvas], [status, mask, region, self.hint, self.canvas, self.take], **QUIET)

    def _opened(self, pose: str | None, photos: Chosen) -> list[Any]:
        try:
            canvas = canvas_of(pose, photos)
        except AnyhostError as error:
            return [states.failed(error, self.language), *[gr.skip()] * 3]
        value = {"background": canvas, "layers": [], "composite": None}
        shown = gr.update(visible=True)
        return [gr.skip(), shown, gr.update(value=value, visible=True), shown]

    def _taken(self, painted: Painted | None) -> list[Any]:
        try:
            mask = mask_of(painted)
        except AnyhostError as error:
            return [states.failed(error, self.language), *[gr.skip()] * 5]
        hidden = gr.update(visible=False)
        return [gr.skip(), mask, "mask", hidden, hidden, hidden]

    def _(self, key: str) -> str:
        return label(f"identity.{key}", self.language)
