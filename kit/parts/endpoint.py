"""What the browser APIs of all models have in common: hidden typed components, wishes, progress, errors in words.

A model's ``adapters/<name>/endpoint.py`` has a ``ModelEndpoint`` with ``inputs`` and ``run``. Gradio takes the names of
the API's parameters from ``run``, so that is written out there, with a default for everything that may be left out.
"""

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import gradio as gr

from kit.parts.context import RUNS, PageContext
from kit.sizes import read_size
from kit.texts import error_text
from kit.texts.labels import label
from loader.errors import AnyhostError
from loader.outcome import Step
from loader.spec import AdapterSpec
from loader.wishes import Wishes

Answer = tuple[dict[str, Any], list[str]]
"""A report, or how far it is, and the files."""


class ModelEndpoint(ABC):
    """Hidden components and one event: typed inputs, typed outputs, files checked and kept by Gradio.

    Attributes:
        spec: the model; its endpoint is the API's name.
        files_word: key of the words for the files it answers with.
        run: works on the values of ``inputs``, in their order, and yields answers.
    """

    spec: ClassVar[AdapterSpec]
    files_word: ClassVar[str]
    run: Callable[..., Iterator[Answer]]

    def __init__(self, context: PageContext) -> None:
        self.context, self.language = context, context.language
        name = self.spec.endpoint.strip("/")
        with gr.Group(visible=False):
            trigger = gr.Button()
            inputs = self.inputs()
            self.files = gr.File(file_count="multiple", label=self._(self.files_word))
            outputs = [gr.JSON(label=self._("api.report")), self.files]
        trigger.click(
            self.run,
            inputs,
            outputs,
            api_name=name,
            api_description=self._(f"api.{name}"),
            **RUNS,
        )

    @abstractmethod
    def inputs(self) -> list[Any]:
        """Components in the order of the parameters of ``run``."""

    def choices(self) -> list[Any]:
        """Variant, device and dtype, each "" for what the plan takes."""
        variants = [variant.name for variant in self.spec.variants]
        dtypes = dict.fromkeys(d for v in self.spec.variants for c in v.components for d in c.dtypes)
        devices = ["cpu", *(a.device for a in self.context.host.accelerators)]
        return [
            gr.Dropdown(["", *values], value="", label=self._(f"api.{key}"))
            for key, values in (("variant", variants), ("device", devices), ("dtype", dtypes))
        ]

    def size(self) -> Any:
        """A size as HEIGHTxWIDTH, "" for what the plan takes."""
        return gr.Textbox("", label=self._("api.size"))

    def folder(self) -> Path:
        """A folder for the files of one answer, let go with Gradio's own."""
        return Path(self.files.GRADIO_CACHE) / uuid.uuid4().hex

    def told(self, items: Iterable[Any], answer: Callable[[Any], Answer]) -> Iterator[Answer]:
        """How far it is for each step, then what ``answer`` makes of the outcome."""
        for item in items:
            if isinstance(item, Step):
                yield _progress(item), []
            else:
                yield answer(item)

    @staticmethod
    def session(caller: gr.Request | None) -> str:
        """Whose a request is: each of Gradio's clients is a session, and so is each request that names none."""
        return (caller.session_hash if caller is not None else None) or ""

    @contextmanager
    def errors_in_words(self) -> Iterator[None]:
        """Whatever is raised on purpose reaches the program as the page would say it."""
        try:
            yield
        except AnyhostError as error:
            raise gr.Error(error_text(error, self.language), print_exception=False) from error

    def _(self, key: str, **figures: object) -> str:
        return label(key, self.language, **figures)


def _progress(step: Step) -> dict[str, Any]:
    if step.stage == "waiting":
        seconds = None if step.seconds_left is None else round(step.seconds_left, 1)
        return {"stage": step.stage, "place": step.index, "waiting": step.total, "seconds": seconds}
    return {"stage": step.stage, "done": step.index, "total": step.total}


def wishes_of(variant: str, device: str, dtype: str, size: str = "", *, steps: float = 0, frames: float = 0) -> Wishes:
    """Wishes of a program; "" and 0 leave it to the plan.

    Raises:
        InputError: a size that cannot be read.
    """
    return Wishes(
        device=device or None,
        dtype=dtype or None,  # type: ignore[arg-type]  # the component offers the words of Dtype only
        variant=variant or None,
        size=read_size(size) if size else None,
        steps=int(steps) or None,
        frames=int(frames) or None,
    )
