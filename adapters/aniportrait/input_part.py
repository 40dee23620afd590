"""What the user gives: a portrait, and a sound, a video or a picture that moves it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.aniportrait.job import speech_of
from adapters.aniportrait.rendered import FOLDER, PICTURE, SOUND
from adapters.aniportrait.requests import HEADS, Driving, PoseClip, Source, Speech, Still
from kit.images import open_picture
from kit.parts.context import QUIET
from kit.parts.markup import para
from kit.parts.plain import html
from kit.parts.upload_limit import upload_limit
from kit.texts.labels import label
from kit.uploads import MAX_CLIP_BYTES, MAX_PICTURE_BYTES, check_clip, check_picture
from kit.video import probe_clip

KINDS = ("sound", "video", "picture")
PORTRAIT_HEIGHT, CLIP_HEIGHT = 300, 240


@dataclass(frozen=True)
class Given:
    """Values of the controls."""

    portrait: str | None
    kind: str
    sound: str | None
    head: str
    head_clip: str | None
    video: str | None
    poses: bool
    picture: str | None
    drawn: bool

    @property
    def complete(self) -> bool:
        """A portrait, and something of the kind that is chosen."""
        moving = {"sound": self.sound, "video": self.video, "picture": self.picture}[self.kind]
        return bool(self.portrait and moving)

    def source(self, style: int | None) -> Source:
        """What moves the portrait.

        Raises:
            InputError: a file that cannot be used.
        """
        check_picture(Path(str(self.portrait)))
        if self.kind == "video":
            path = Path(str(self.video))
            check_clip(path)
            clip = probe_clip(path)
            return PoseClip(path, clip) if self.poses else Driving(path, clip)
        if self.kind == "picture":
            return Still(open_picture(str(self.picture)), drawn=self.drawn)
        if self.head == "video" and not self.head_clip:
            # As the request itself says what is missing.
            return Speech(speech_of(Path(str(self.sound))).sound, "video", style)
        return speech_of(Path(str(self.sound)), str(self.head_clip) if self.head == "video" else self.head, style)


class InputPart:
    """The controls, and an example that is nobody.

    Attributes:
        portrait: the picture.
        head: what moves the head with a sound.
        show: asks for cut and contours.
        inputs: all controls, in the order of ``Given``.
    """

    def __init__(self, language: str) -> None:
        self._language = language
        self.kind = gr.State("sound")
        self.portrait = gr.Image(
            label=self._("animate.portrait"),
            type="filepath",
            sources=["upload", "clipboard", "webcam"],
            height=PORTRAIT_HEIGHT,
            buttons=[],
            elem_id="animate-portrait",
        )
        upload_limit(language, "picture", MAX_PICTURE_BYTES, of="animate-portrait")
        with gr.Row(elem_classes="ah-actions"):
            self.example = gr.Button(self._("animate.example"), size="sm", elem_id="animate-example")
            self.show = gr.Button(self._("animate.look"), size="sm", elem_id="animate-show")
        html(para("ah-dim", self._("animate.example_info")))
        with gr.Tabs(elem_id="animate-kinds") as self.tabs:
            with gr.Tab(self._("animate.by_sound"), id="sound") as sound_tab:
                self._build_sound()
            with gr.Tab(self._("animate.by_video"), id="video") as video_tab:
                self._build_video()
            with gr.Tab(self._("animate.by_picture"), id="picture") as picture_tab:
                self._build_picture()
        self._tabs = (sound_tab, video_tab, picture_tab)

    @property
    def inputs(self) -> list[Any]:
        return [
            *(self.portrait, self.kind, self.sound, self.head, self.head_clip),
            *(self.video, self.poses, self.picture, self.drawn),
        ]

    def read(self, values: Sequence[Any]) -> Given:
        """The values of ``inputs``."""
        return Given(*values)

    def _build_sound(self) -> None:
        self.sound = gr.Audio(
            label=self._("animate.sound"),
            sources=["upload", "microphone"],
            type="filepath",
            buttons=[],
            elem_id="animate-sound",
        )
        upload_limit(self._language, "video", MAX_CLIP_BYTES, of="animate-sound")
        self.head = gr.Radio(
            [(self._(f"animate.head_{head}"), head) for head in HEADS],
            value="sound",
            label=self._("animate.head"),
            elem_id="animate-head",
        )
        self.head_clip = self._clip("animate.head_clip", "animate-head-clip", visible=False)

    def _build_video(self) -> None:
        self.video = self._clip("animate.video", "animate-video")
        self.poses = gr.Checkbox(False, label=self._("animate.poses"), container=False, elem_id="animate-poses")

    def _build_picture(self) -> None:
        self.picture = gr.Image(
            label=self._("animate.pose_picture"),
            type="filepath",
            sources=["upload", "clipboard"],
            height=CLIP_HEIGHT,
            buttons=[],
            elem_id="animate-pose-picture",
        )
        upload_limit(self._language, "picture", MAX_PICTURE_BYTES, of="animate-pose-picture")
        self.drawn = gr.Checkbox(False, label=self._("animate.pose_ready"), container=False)

    def _clip(self, key: str, elem_id: str, *, visible: bool = True) -> gr.Video:
        clip = gr.Video(
            label=self._(key), sources=["upload"], height=CLIP_HEIGHT, buttons=[], visible=visible, elem_id=elem_id
        )
        upload_limit(self._language, "video", MAX_CLIP_BYTES, of=elem_id)
        return clip

    def _(self, key: str, **figures: object) -> str:
        return label(key, self._language, **figures)

    def wire(self, status: gr.HTML) -> None:
        """Tabs, the example and the video of a head."""
        for chosen, kind in zip(self._tabs, KINDS, strict=True):
            chosen.select(lambda kind=kind: kind, None, [self.kind], **QUIET)
        self.example.click(
            lambda: [str(FOLDER / PICTURE), str(FOLDER / SOUND), "sound", gr.update(selected="sound"), gr.skip()],
            None,
            [self.portrait, self.sound, self.kind, self.tabs, status],
            **QUIET,
        )
        self.head.change(lambda head: gr.update(visible=head == "video"), [self.head], [self.head_clip], **QUIET)
