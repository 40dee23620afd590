"""Files made when they are asked for: a press writes them, and the browser fetches what was written."""

import inspect
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from kit.parts import states
from kit.parts.context import QUIET
from kit.texts.labels import label
from loader.errors import AnyhostError

# A button of Gradio's own would need the file before it is pressed.
FETCH_JS = """(file) => { for (const one of [file].flat()) { if (one && one.url) {
  const a = document.createElement('a'); a.href = one.url; a.download = one.orig_name || '';
  document.body.append(a); a.click(); a.remove(); } } }"""


class Saving:
    """The files of a tab on their way to the browser.

    Args:
        language: of the words.
        status: where an error is shown; a component with markup.
    """

    def __init__(self, language: str, status: gr.HTML) -> None:
        self._language, self._status = language, status
        self.file = gr.File(label=label("detect.file", language), elem_classes="ah-off")

    def folder(self) -> Path:
        """A fresh folder that Gradio serves and empties; it is made by whoever writes to it."""
        return Path(self.file.GRADIO_CACHE) / uuid.uuid4().hex

    def on(
        self, event: gr.Button | Callable[..., Any], save: Callable[..., Path | None], inputs: Sequence[Any]
    ) -> None:
        """Let a button, or another event (``gallery.select``), save.

        ``save(folder, *values)`` writes below ``folder``; None means there is nothing to save. Where it has a parameter
        ``chosen``, that is the index of what was selected. Errors of this project are shown in the status.
        """
        listen = event.click if isinstance(event, gr.Button) else event
        by_choice = "chosen" in inspect.signature(save).parameters

        def saved(data: gr.EventData, *values: Any) -> list[Any]:
            chosen = {"chosen": data.index} if by_choice else {}
            try:
                path = save(self.folder(), *values, **chosen)
            except AnyhostError as error:
                return [None, states.failed(error, self._language)]
            return [str(path) if path is not None else None, gr.skip()]

        listen(saved, list(inputs), [self.file, self._status], **QUIET).then(
            None, [self.file], None, js=FETCH_JS, **QUIET
        )
