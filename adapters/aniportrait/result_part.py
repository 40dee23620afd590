"""What the tab shows of a run: the picture as it forms, the clip, what was stopped, and files."""

from pathlib import Path
from shutil import copyfile
from typing import Any

import gradio as gr

from adapters.aniportrait import view
from adapters.aniportrait.requests import Look
from adapters.aniportrait.running import Closeness, Made, Stopped
from adapters.aniportrait.writing import options_of, source_name
from kit.exports import write_json
from kit.parts import states
from kit.parts.markup import element, para, text
from kit.parts.plain import html
from kit.parts.saving import Saving
from kit.settings import settings_record
from kit.texts import PROVENANCE_OF, error_text
from kit.texts.labels import label
from loader.errors import Cancelled

KEPT_SECONDS = 3600
HEIGHT = 480


class ResultPart:
    """Cards of a run.

    Attributes:
        made: the visitor's ``Made``.
        held: the visitor's ``Stopped``.
        look_box, going_box, box, held_box, near_box: cards.
        go_on, as_it_is: what to do with a stopped clip.
        again: takes the seed of the result.
    """

    def __init__(self, language: str, status: gr.HTML) -> None:
        self._language = language
        self.made = gr.State(None, time_to_live=KEPT_SECONDS)
        self.held = gr.State(None, time_to_live=KEPT_SECONDS)
        self.saving = Saving(language, status)
        self._build_held()
        self._build_going()
        self._build_result()
        with gr.Column(visible=False, elem_classes="ah-card ah-result", elem_id="animate-near") as self.near_box:
            self.near = html()
        self._wire()

    @property
    def outputs(self) -> list[Any]:
        return [
            *(self.made, self.held, self.look_box, self.look, self.look_words, self.going_box, self.going, self.box),
            *(self.clip, self.beside, self.picture, self.facts, self.notes, self.save_beside, self.held_box),
            *(self.held_words, self.near_box, self.near),
        ]

    # --- layout

    def _build_held(self) -> None:
        with gr.Column(visible=False, elem_classes="ah-card ah-result", elem_id="animate-held") as self.held_box:
            self.held_words = html()
            with gr.Row(elem_classes="ah-actions"):
                self.go_on = gr.Button(self._("animate.go_on"), variant="primary", size="sm", elem_id="animate-go-on")
                self.as_it_is = gr.Button(self._("animate.as_it_is"), size="sm", elem_id="animate-as-it-is")

    def _build_going(self) -> None:
        with gr.Column(visible=False, elem_classes="ah-card ah-result", elem_id="animate-going") as self.going_box:
            html(element("h3", text(self._("animate.going"))))
            self.going = self._image("animate.going")

    def _build_result(self) -> None:
        with gr.Column(visible=False, elem_classes="ah-card ah-result", elem_id="animate-result") as self.box:
            self.notes = html(elem_id="animate-notes")
            self.clip = self._video("animate.result", "animate-clip")
            self.picture = self._image("animate.picture", elem_id="animate-picture")
            self.beside = self._video("animate.beside", "animate-beside")
            self.facts = html(elem_id="animate-facts")
            with gr.Row(elem_classes="ah-actions ah-savers"):
                self.save_clip = gr.Button(self._("animate.save_clip"), size="sm", elem_id="animate-save-clip")
                self.save_beside = gr.Button(self._("animate.save_beside"), size="sm", elem_id="animate-save-beside")
                self.save_data = gr.Button(self._("animate.save_data"), size="sm", elem_id="animate-save-data")
                self.again = gr.Button(self._("animate.again_seed"), size="sm", elem_id="animate-again")
        with gr.Column(visible=False, elem_classes="ah-card ah-result", elem_id="animate-look-card") as self.look_box:
            self.look = gr.Gallery(
                label=self._("animate.look"),
                show_label=False,
                container=False,
                columns=2,
                height="auto",
                object_fit="contain",
                allow_preview=False,
                interactive=False,
                buttons=[],
                format="png",
                elem_id="animate-look",
            )
            self.look_words = html()

    def _image(self, key: str, *, elem_id: str = "animate-forming") -> gr.Image:
        return gr.Image(
            label=self._(key),
            show_label=False,
            container=False,
            interactive=False,
            buttons=[],
            format="png",
            height=HEIGHT,
            elem_id=elem_id,
        )

    def _video(self, key: str, elem_id: str) -> gr.Video:
        return gr.Video(label=self._(key), interactive=False, buttons=[], height=HEIGHT, loop=True, elem_id=elem_id)

    def _(self, key: str, **figures: object) -> str:
        return label(key, self._language, **figures)

    # --- what it shows

    def looked(self, look: Look, *, stand_in: bool) -> dict[Any, Any]:
        """Cut and contours of a portrait."""
        words = [self._("animate.look_stand_in") if stand_in else self._("animate.look_words")]
        if look.faces > 1:
            words.append(self._("animate.look_faces", count=look.faces))
        pictures = [(look.portrait, self._("animate.look_cut")), (look.contours, self._("animate.look_contours"))]
        return {
            self.look_box: gr.update(visible=True),
            self.look: gr.update(value=pictures),
            self.look_words: "".join(para("ah-dim", line) for line in words),
        }

    def forming(self, picture: Any) -> dict[Any, Any]:
        """The clip as it forms."""
        return {self.going_box: gr.update(visible=True), self.going: picture}

    def finished(self, made: Made) -> dict[Any, Any]:
        """A clip, or a picture."""
        shown = made.animation
        clip = str(shown.path) if shown.path is not None and shown.fps else None
        picture = str(shown.path) if shown.path is not None and not shown.fps else None
        beside = str(shown.compare) if shown.compare is not None else None
        return {
            self.made: made,
            self.held: None,
            self.going_box: gr.update(visible=False),
            self.held_box: gr.update(visible=False),
            self.box: gr.update(visible=True),
            self.clip: gr.update(value=clip, visible=clip is not None),
            self.picture: gr.update(value=picture, visible=picture is not None),
            self.beside: gr.update(value=beside, visible=beside is not None),
            self.save_beside: gr.update(visible=beside is not None),
            self.facts: view.facts(shown, self._language),
            self.notes: "".join(para("ah-note", note) for note in view.notes(shown, self._language)),
        }

    def stopped(self, held: Stopped) -> dict[Any, Any]:
        """What can be done with a clip that was stopped."""
        kept = held.unfinished
        title = self._("animate.stopped", step=kept.step, steps=kept.steps)
        words = [self._("animate.stopped_words")]
        if not isinstance(held.error, Cancelled):
            words.append(self._("animate.stopped_error", error=error_text(held.error, self._language)))
        return {
            self.held: held,
            self.held_box: gr.update(visible=True),
            self.held_words: states.notice(title, "\n".join(words)),
        }

    def measured(self, near: Closeness) -> dict[Any, Any]:
        """How near a precision is to fp32."""
        return {self.near_box: gr.update(visible=True), self.near: view.nearness(near, self._language)}

    # --- files

    def _wire(self) -> None:
        self.saving.on(self.save_clip, self._save_clip, [self.made])
        self.saving.on(self.save_beside, self._save_beside, [self.made])
        self.saving.on(self.save_data, self._save_data, [self.made])

    def _save_clip(self, folder: Path, made: Made | None) -> Path | None:
        return _copied(made.animation.path if made else None, folder)

    def _save_beside(self, folder: Path, made: Made | None) -> Path | None:
        return _copied(made.animation.compare if made else None, folder)

    def _save_data(self, folder: Path, made: Made | None) -> Path | None:
        if made is None or made.animation.path is None:
            return None
        return write_json(folder / f"{made.animation.path.stem}.json", data_of(made))


def data_of(made: Made) -> dict[str, Any]:
    """A run's settings, which bring it back, and what it gave."""
    from adapters.aniportrait.job import record

    plan = made.result.plan
    weights = PROVENANCE_OF.get(made.result.weights, made.result.weights)
    names = {"portrait": made.request.portrait.name, "source": source_name(made.request)}
    return {
        "settings": settings_record(plan, weights, options_of(made.request)),
        **names,
        **record(made.animation),
        "seconds": made.result.seconds,
    }


def _copied(path: Path | None, folder: Path) -> Path | None:
    if path is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return Path(copyfile(path, folder / path.name))
