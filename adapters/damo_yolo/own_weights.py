"""A user's own detector on the page: an upload or a path, what is in it, and what its classes are called."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.damo_yolo.checkpoint import class_count, own_state, weights_file, which_variant
from adapters.damo_yolo.labels import COCO_LABELS
from adapters.damo_yolo.onnx_file import SUFFIX as ONNX_SUFFIX
from adapters.damo_yolo.onnx_file import OnnxDetector
from kit.parts.context import QUIET, PageContext
from kit.parts.markup import para
from kit.parts.plain import html
from kit.parts.upload_limit import upload_limit
from kit.texts.labels import label
from kit.uploads import MAX_UPLOAD_BYTES
from loader.errors import AnyhostError, InputError
from loader.spec import Size
from loader.weights import metadata
from loader.wishes import Wishes

UPLOADS = [".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".onnx"]
SHOWN_NAMES = 12


@dataclass(frozen=True)
class OwnFile:
    """A checkpoint that was looked into.

    Attributes:
        path: the file or folder.
        variant: the network its tensors are, "" for an .onnx, which brings its own.
        size: the only size it takes, None for any.
        classes: how many it tells apart, 0 where only a run will tell.
        names: what they are called by the file itself.
    """

    path: Path
    variant: str
    size: Size | None
    classes: int
    names: tuple[str, ...]


def look_into(path: Path) -> OwnFile:
    """What ``path`` holds.

    Raises:
        InputError: a folder without one checkpoint, or a detector of no known variant.
        WeightsError: no checkpoint, a damaged one, or one of another network.
    """
    file = weights_file(path)
    if file.suffix.lower() == ONNX_SUFFIX:
        graph = OnnxDetector(file, None, threads=1)
        height, width = graph.size
        return OwnFile(path, "", (height, width) if height and width else None, graph.classes or 0, ())
    state = own_state(file)
    classes = class_count(state, file)
    variant = which_variant(state, classes)
    if variant is None:
        raise InputError(
            f"{file.name} has the head of a DAMO-YOLO and another body: T, S, M, L, N, Ns, Nm, Nl are known"
        )
    named = tuple(str(name) for name in json.loads(metadata(file).get("labels", "[]")))
    if len(named) != classes:
        named = COCO_LABELS if classes in (len(COCO_LABELS), len(COCO_LABELS) + 1) else ()
    return OwnFile(path, variant, None, classes, named)


def read_names(words: str) -> tuple[str, ...]:
    """Class names separated by commas or lines."""
    return tuple(name.strip() for name in words.replace("\n", ",").split(",") if name.strip())


class OwnWeights:
    """Controls for own weights.

    Attributes:
        controls: the components whose values ``read`` is given.
    """

    def __init__(self, context: PageContext) -> None:
        self._context, self._language = context, context.language
        self.found = gr.State(None)
        self.upload = gr.File(
            file_types=UPLOADS, type="filepath", label=self._("own.file"), height=120, elem_id="detect-own-file"
        )
        upload_limit(self._language, "weights", MAX_UPLOAD_BYTES, of="detect-own-file")
        # Whoever may read any path of this machine's disk sits at it: shown only there, and refused elsewhere.
        self.path = gr.Textbox(
            label=self._("own.path"), info=self._("own.path_words"), visible=False, elem_id="detect-own-path"
        )
        self.names = gr.Textbox(label=self._("own.names"), info=self._("own.names_words"), elem_id="detect-own-names")
        self.line = html(para("ah-line", self._("own.none")), elem_id="detect-own-line")

    @property
    def controls(self) -> list[Any]:
        return [self.found, self.names]

    def wire(self) -> None:
        """Look into what is given, and say what it is."""
        gr.on(None, self._who, None, [self.path], **QUIET)
        outputs = [self.found, self.line]
        self.upload.change(self._uploaded, [self.upload], outputs, **QUIET)
        for trigger in (self.path.submit, self.path.blur):
            trigger(self._typed, [self.path, self.upload], outputs, **QUIET)

    def read(self, found: OwnFile | AnyhostError | None) -> OwnFile | None:
        """The file to run.

        Raises:
            AnyhostError: what was given cannot be run.
        """
        if isinstance(found, AnyhostError):
            raise found
        return found

    def _(self, key: str, **figures: object) -> str:
        return label(key, self._language, **figures)

    def _who(self, request: gr.Request) -> Any:
        return gr.update(visible=self._context.administers(request))

    def _uploaded(self, file: str | None) -> list[Any]:
        return self._seen(Path(file) if file else None)

    def _typed(self, path: str | None, file: str | None, request: gr.Request) -> list[Any]:
        words = (path or "").strip().strip('"')
        if not words:
            return self._uploaded(file)
        if not self._context.administers(request):
            return self._said(InputError("a path is read only for whoever sits at this machine: upload the file"))
        return self._seen(Path(words).expanduser())

    def _seen(self, path: Path | None) -> list[Any]:
        if path is None:
            return [None, para("ah-line", self._("own.none"))]
        if not path.exists():
            return self._said(InputError(f"{path.name} is not there: check the path, or upload the file"))
        try:
            return self._said(look_into(path))
        except AnyhostError as error:
            return self._said(error)

    def _said(self, found: OwnFile | AnyhostError) -> list[Any]:
        if isinstance(found, AnyhostError):
            return [found, para("ah-line ah-bad", str(found))]
        names = ", ".join(found.names[:SHOWN_NAMES]) + (" …" if len(found.names) > SHOWN_NAMES else "")
        words = self._(
            "own.onnx" if not found.variant else "own.found",
            name=found.path.name,
            variant=found.variant,
            classes=found.classes or "?",
            names=names or self._("own.unnamed"),
        )
        return [found, para("ah-line", words)]


def wished(wishes: Wishes, own: OwnFile | None) -> Wishes:
    """``wishes`` with what an own file needs, where the user did not say otherwise."""
    if own is None:
        return wishes
    return replace(wishes, variant=wishes.variant or own.variant or None, size=wishes.size or own.size)


def names_for(own: OwnFile | None, words: str | None) -> Sequence[str]:
    """Class names given for an own file."""
    return read_names(words or "") if own is not None else ()
