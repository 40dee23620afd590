"""A camera on the page: frame after frame through the lane, so that others get it in between."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from adapters.damo_yolo import view
from adapters.damo_yolo.capacity import capacity, capacity_text
from adapters.damo_yolo.draw import annotate
from adapters.damo_yolo.exports import note_of
from adapters.damo_yolo.job import DEFAULT_THRESHOLD
from adapters.damo_yolo.pipeline import DetectRequest
from adapters.damo_yolo.postprocess import Suppression
from adapters.damo_yolo.spec import SPEC
from kit.images import picture_from_array
from kit.parts import states
from kit.parts.context import QUIET
from kit.parts.markup import para
from kit.parts.plain import html
from kit.running import Asked
from kit.texts.labels import label
from loader.engine import Engine
from loader.errors import Cancelled
from loader.outcome import Result, Step

CAMERAS = 4  # at once; each holds a thread while it waits for the lane
LIMIT_SECONDS = 120.0  # of one camera: who wants to go on starts it again
PATIENCE = 2.0  # seconds a frame waits for the lane before it is let go, since it shows what was
SEND_EVERY = 0.1
AVERAGED = 20  # frames
GAP = 5.0  # seconds without a frame after which a camera counts as started anew
CONSTRAINTS = {"video": {"width": {"ideal": 640}, "height": {"ideal": 480}}}


@dataclass(frozen=True)
class LiveRequest(DetectRequest):
    """One frame. Its time teaches nothing new, and a log of every frame would say nothing."""

    teaches = False
    logged = False


@dataclass(frozen=True)
class Pulse:
    """How a camera goes.

    Attributes:
        began: when its first frame came, by ``time.monotonic``.
        ends: when its last frames were done, the newest last.
        seconds: what computing the last frames took, waiting left out.
    """

    began: float = 0.0
    ends: tuple[float, ...] = ()
    seconds: tuple[float, ...] = field(default=())

    def over(self, now: float) -> bool:
        """Whether its time is up."""
        return now - self.began > LIMIT_SECONDS

    def at(self, now: float) -> "Pulse":
        """This camera, or a fresh one if the last frame was long ago."""
        return self if self.ends and now - self.ends[-1] < GAP else Pulse(began=now, ends=(now,))

    def beat(self, now: float, seconds: float) -> "Pulse":
        """With one more frame done."""
        return replace(self, ends=(*self.ends, now)[-AVERAGED:], seconds=(*self.seconds, seconds)[-AVERAGED:])

    @property
    def rate(self) -> float:
        """Frames a second over the last ones, 0 before there are two."""
        spent = self.ends[-1] - self.ends[0] if self.ends else 0.0
        return (len(self.ends) - 1) / spent if spent > 0 else 0.0


def see(
    engine: Engine, rgb: NDArray[np.uint8], settings: Suppression, asked: Asked, names: Sequence[str] = ()
) -> Result | None:
    """What is in a frame [H,W,3]; None if the lane was not to be had in ``PATIENCE``.

    Raises:
        AnyhostError: as ``Engine.run``.
    """
    request = LiveRequest((picture_from_array(rgb, name="camera"),), settings, names=tuple(names))
    began = time.monotonic()
    steps = engine.run(
        SPEC,
        request,
        asked.wishes,
        cancel=asked.cancel,
        checkpoint=asked.checkpoint,
        accepted=asked.accepted,
        session=asked.session,
    )
    try:
        with closing(steps) as items:
            for item in items:
                if isinstance(item, Result):
                    return item
                if isinstance(item, Step) and item.stage == "waiting" and time.monotonic() - began > PATIENCE:
                    return None
    except Cancelled:
        return None
    raise AssertionError("a run ends with a result or an error")


class CameraInput:
    """The camera's own picture, and how sure an object has to be.

    Attributes:
        camera: streams frames while it is visible and its own button is on.
        away: whether it was taken away.
    """

    def __init__(self, language: str) -> None:
        self._language = language
        self.camera = gr.Image(
            sources=["webcam"],
            streaming=True,
            type="numpy",
            label=label("detect.camera", language),
            show_label=False,
            buttons=[],
            height=300,
            webcam_options=gr.WebcamOptions(mirror=False, constraints=CONSTRAINTS),
            elem_id="detect-camera",
        )
        self.again = gr.Button(label("detect.camera_again", language), size="sm", visible=False)
        self.away = gr.State(False)
        html(para("ah-dim", label("detect.camera_words", language, seconds=f"{LIMIT_SECONDS:.0f}")))
        with gr.Row(elem_classes="ah-filters"):
            self.threshold = gr.Slider(
                view.SCORE_FLOOR,
                1.0,
                value=DEFAULT_THRESHOLD,
                step=0.01,
                label=label("detect.threshold", language),
                buttons=[],
            )
        self.again.click(self.back, None, self.shown, **QUIET)

    @property
    def shown(self) -> list[Any]:
        """What the following updates are of."""
        return [self.camera, self.again, self.away]

    def left(self, *, again: bool = False) -> list[Any]:
        """End the camera: a component that is not there films nothing. ``again`` offers a button to go on."""
        return [gr.update(visible=False), gr.update(visible=again), True]

    def back(self) -> list[Any]:
        """Let it be started again."""
        return [gr.update(visible=True, value=None), gr.update(visible=False), False]

    def turned(self, away: bool, *, looked_at: bool, was: bool) -> list[Any]:
        """Follow whether it is looked at. One that stands ready is left alone: an update could undo a press on it."""
        if looked_at and away:
            return self.back()
        return self.left() if was and not looked_at else [gr.skip()] * 3


class CameraResult:
    """The frame with its boxes, and how fast it goes."""

    def __init__(self, language: str) -> None:
        self._language = language
        self.pulse = gr.State(None)
        with gr.Column(visible=False, elem_classes="ah-card ah-result", elem_id="detect-camera-result") as self.box:
            self.image = gr.Image(
                label=label("detect.live", language),
                show_label=False,
                interactive=False,
                format="jpeg",
                buttons=[],
                elem_id="detect-camera-image",
            )
            self.rate = html(elem_id="detect-camera-rate")

    @property
    def outputs(self) -> list[Any]:
        return [self.pulse, self.box, self.image, self.rate]

    def of(self, result: Result, rgb: NDArray[np.uint8], pulse: Pulse) -> list[Any]:
        """What ``outputs`` show of a frame."""
        (seen,) = result.outputs
        drawn = annotate(rgb, seen.detections, note=note_of(result))
        held = capacity(sum(pulse.seconds), len(pulse.seconds))
        words = label("detect.camera_rate", self._language, rate=f"{pulse.rate:.1f}")
        streams = label("detect.streams", self._language, capacity=capacity_text(held, self._language))
        counts = view.counts_markup(seen, self._language)
        return [pulse, gr.update(visible=True), drawn, para("ah-headline", words) + para("ah-dim", streams) + counts]

    def said(self, pulse: Pulse, key: str) -> list[Any]:
        """What ``outputs`` show instead of a frame."""
        return [pulse, gr.update(visible=True), gr.skip(), para("ah-dim", label(key, self._language))]

    def failed(self, pulse: Pulse, error: Exception) -> list[Any]:
        """What ``outputs`` show of an error."""
        return [pulse, gr.update(visible=True), None, states.failed(error, self._language)]
