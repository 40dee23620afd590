"""A video on the page: what to look for in it, the annotated clip, and its data."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.damo_yolo import view
from adapters.damo_yolo.detecting import for_waiting
from adapters.damo_yolo.exports import PREVIEW_NOTE
from adapters.damo_yolo.job import DEFAULT_THRESHOLD
from adapters.damo_yolo.labels import COCO_LABELS, PREVIEW_LABELS
from adapters.damo_yolo.postprocess import Suppression
from adapters.damo_yolo.spec import SPEC
from adapters.damo_yolo.video import VideoSeen, head_of, kept_of, video_request, video_summary, write_video_csv
from adapters.damo_yolo.view import DEFAULT_IOU
from kit.parts import states
from kit.parts.markup import element, para, text
from kit.parts.model_tab import KEPT_SECONDS, Updates
from kit.parts.plain import html
from kit.parts.saving import Saving
from kit.parts.upload_limit import upload_limit
from kit.running import Asked, told
from kit.texts.labels import label
from kit.uploads import MAX_CLIP_BYTES, check_clip
from loader.engine import Engine
from loader.errors import AnyhostError, Cancelled
from loader.outcome import Result, Step

MOST_EVERY = 30
LOOK_EVERY = 5  # of the steps told: a picture costs more than a number


@dataclass(frozen=True)
class VideoDone:
    """A video that was worked through, as far as ``seen`` says; ``result`` if it came to its end."""

    seen: VideoSeen
    result: Result | None = None


class VideoInput:
    """The clip and what to look for.

    Attributes:
        controls: the components whose values ``run`` is given.
    """

    def __init__(self, language: str) -> None:
        self._language = language
        self.clip = gr.Video(
            label=self._("detect.video"), sources=["upload"], height=300, buttons=[], elem_id="detect-clip"
        )
        upload_limit(language, "video", MAX_CLIP_BYTES, of="detect-clip")
        with gr.Row(elem_classes="ah-filters"):
            self.threshold = gr.Slider(
                view.SCORE_FLOOR,
                1.0,
                value=DEFAULT_THRESHOLD,
                step=0.01,
                label=self._("detect.threshold"),
                buttons=[],
                elem_id="detect-clip-threshold",
            )
            self.iou = gr.Slider(0.0, 1.0, value=DEFAULT_IOU, step=0.01, label=self._("detect.iou"), buttons=[])
        with gr.Row(elem_classes="ah-filters"):
            self.every = gr.Slider(
                1, MOST_EVERY, value=1, step=1, label=self._("detect.every"), buttons=[], elem_id="detect-every"
            )
            self.classes = gr.Dropdown(
                sorted({*COCO_LABELS, *PREVIEW_LABELS}),
                multiselect=True,
                allow_custom_value=True,
                label=self._("detect.classes"),
                elem_id="detect-clip-classes",
            )

    @property
    def controls(self) -> list[Any]:
        return [self.clip, self.threshold, self.iou, self.every, self.classes]

    def _(self, key: str) -> str:
        return label(key, self._language)


def run_video(
    engine: Engine, values: Sequence[Any], out: Path, asked: Asked, names: Sequence[str] = ()
) -> Generator[Step | VideoDone, None, None]:
    """Steps as it goes, the frame last drawn with some of them, then the clip.

    When it is stopped or fails, what can be played of it comes first; a failure is raised after that.

    Args:
        engine: runs it.
        values: of ``VideoInput.controls``.
        out: a fresh folder for the clip and its data.
        asked: wishes, Stop and own weights.
        names: what an own checkpoint's classes are called.

    Raises:
        AnyhostError: as ``Engine.run``, and what cannot be used.
    """
    clip, threshold, iou, every, classes = values
    path = Path(str(clip))
    check_clip(path)
    settings = Suppression(float(threshold), float(iou))
    request = video_request(path, settings, every=int(every), out=out, classes=tuple(classes or ()), names=tuple(names))
    batched = replace(asked, wishes=for_waiting(engine, asked.wishes, request.items))
    try:
        with closing(told(engine, SPEC, request, batched)) as items:
            for number, item in enumerate(items):
                if isinstance(item, Result):
                    yield VideoDone(item.outputs[0], item)
                else:
                    yield item if number % LOOK_EVERY == 0 else replace(item, preview=None)
    except AnyhostError as error:
        seen = kept_of(out, path.name)
        if seen is not None:
            yield VideoDone(seen)
        if seen is None or not isinstance(error, Cancelled):
            raise


class VideoResult:
    """The card of a run of a video, and the frame last drawn while it runs.

    Attributes:
        box: the card.
        outputs: everything a run sets.
    """

    def __init__(self, language: str, saving: Saving) -> None:
        self._language = language
        self.seen = gr.State(None, time_to_live=KEPT_SECONDS)
        self.live = gr.Image(
            label=label("detect.live", language),
            show_label=False,
            interactive=False,
            visible=False,
            format="jpeg",
            buttons=[],
            elem_id="detect-live",
        )
        with gr.Column(visible=False, elem_classes="ah-card ah-result", elem_id="detect-clip-result") as self.box:
            self.note = html()
            self.clip = gr.Video(
                label=label("detect.clip_result", language),
                show_label=False,
                autoplay=False,
                buttons=["download"],
                elem_id="detect-clip-shown",
            )
            self.summary = html(elem_id="detect-clip-summary")
            with gr.Row(elem_classes="ah-actions ah-savers"):
                for words, save in (("save_clip", _clip), ("save_lines", _lines), ("save_csv", _table)):
                    name = words.replace("_", "-")
                    button = gr.Button(label(f"detect.{words}", language), size="sm", elem_id=f"detect-clip-{name}")
                    saving.on(button, save, [self.seen])

    @property
    def outputs(self) -> list[Any]:
        return [self.live, self.box, self.seen, self.note, self.clip, self.summary]

    def step(self, step: Step) -> Updates:
        """The frame last drawn."""
        return {self.live: gr.update(value=step.preview, visible=True)} if step.preview is not None else {}

    def of(self, done: VideoDone) -> Updates:
        """Updates that show a clip."""
        seen = done.seen
        lines = video_summary(seen, self._language)
        preview = head_of(seen.data)["settings"]["weights"] == PREVIEW_NOTE
        stopped = "" if done.result is not None else label("detect.part_words", self._language, frames=seen.frames)
        return {
            self.box: gr.update(visible=True),
            self.seen: seen,
            self.note: view.note_markup(preview_words(self._language)) if preview else "",
            self.clip: str(seen.clip),
            self.summary: para("ah-headline", lines[0])
            + para("ah-dim", stopped)
            + element("ul", *(element("li", text(line)) for line in lines[1:]), classes="ah-lines"),
        }

    def status(self, done: VideoDone) -> str:
        """What the status says of a run: nothing where it came to its end."""
        return "" if done.result is not None else states.stopped(self._language)


def preview_words(language: str) -> str:
    """What to know of everything the preview weights find."""
    names = ", ".join(PREVIEW_LABELS)
    return label("detect.preview", language, note=PREVIEW_NOTE, count=len(PREVIEW_LABELS), names=names)


def _clip(folder: Path, seen: VideoSeen | None) -> Path | None:
    del folder
    return seen.clip if seen is not None else None


def _lines(folder: Path, seen: VideoSeen | None) -> Path | None:
    del folder
    return seen.data if seen is not None else None


def _table(folder: Path, seen: VideoSeen | None) -> Path | None:
    return write_video_csv(seen.data, folder / f"{seen.data.stem}.csv") if seen is not None else None
