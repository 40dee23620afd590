"""Pictures given to a model: dropped, pasted, or taken from those that ship with the project."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from kit.parts import states
from kit.parts.context import QUIET
from kit.parts.markup import para
from kit.parts.plain import html
from kit.parts.upload_limit import upload_limit
from kit.texts.labels import label, name_of
from kit.uploads import MAX_PICTURE_BYTES, check_picture
from loader.errors import InputError

EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"
PICTURE_KINDS = (".png", ".jpg", ".jpeg", ".webp")

Chosen = Sequence[tuple[str, str | None]] | None  # what a gallery gives: path and caption


def example_pictures(folder: Path = EXAMPLES) -> list[Path]:
    """All pictures that ship with the project, by name."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURE_KINDS)


def paths_of(chosen: Chosen) -> list[Path]:
    """Files of what was chosen."""
    return [Path(path) for path, _ in chosen or ()]


def thumbnails(words: str, *, elem_id: str, columns: int = 6, **settings: Any) -> gr.Gallery:
    """A row of small pictures to choose one by."""
    return gr.Gallery(
        label=words,
        show_label=False,
        container=False,
        columns=columns,
        height="auto",
        object_fit="cover",
        allow_preview=False,
        interactive=False,
        buttons=[],
        elem_id=elem_id,
        elem_classes="ah-thumbs",
        **settings,
    )


class PictureInput:
    """A gallery to put pictures into, and examples below it.

    Attributes:
        pictures: the input; its value is ``Chosen``.

    Args:
        language: of the words.
        prefix: of element ids: ``<prefix>-pictures``, ``<prefix>-examples``.
        examples: pictures to offer.
    """

    def __init__(self, language: str, prefix: str, examples: Sequence[Path]) -> None:
        self._language, self._files = language, list(examples)
        self.pictures = gr.Gallery(
            label=label("detect.pictures", language),
            file_types=["image"],
            sources=["upload", "clipboard"],
            type="filepath",
            columns=3,
            height=300,
            object_fit="contain",
            buttons=[],
            elem_id=f"{prefix}-pictures",
            elem_classes="ah-pictures",
        )
        upload_limit(language, "picture", MAX_PICTURE_BYTES, of=f"{prefix}-pictures")
        html(para("ah-label", label("detect.examples", language)) if examples else "")
        self.examples = thumbnails(
            label("detect.examples", language),
            elem_id=f"{prefix}-examples",
            columns=5,
            value=[(str(path), name_of("example", path.stem, language)) for path in self._files],
            visible=bool(examples),
        )

    def wire(self, status: gr.HTML, then: Mapping[str, Any] | None = None) -> None:
        """Take an example when it is chosen, and refuse at once what is too large.

        Args:
            status: where a refusal is said.
            then: arguments of an event that follows any change of pictures.
        """
        changes = (
            self.examples.select(self._take, None, [self.pictures], **QUIET),
            self.pictures.upload(self._uploaded, [self.pictures], [self.pictures, status], **QUIET),
        )
        if then is not None:
            for change in changes:
                change.then(**then)
            self.pictures.delete(**then)

    def _take(self, event: gr.SelectData) -> list[tuple[str, str]]:
        path = self._files[event.index]
        return [(str(path), path.name)]

    def _uploaded(self, files: Chosen) -> list[Any]:
        """Uploads under their file names: what a screen reader says, and how several are told apart."""
        kept, refused = [], []
        for path, _ in files or ():
            try:
                check_picture(Path(path))
                kept.append((path, Path(path).name))
            except InputError as error:
                refused.append(str(error))
        said = states.failed(InputError("\n".join(refused)), self._language) if refused else gr.skip()
        return [kept, said]
