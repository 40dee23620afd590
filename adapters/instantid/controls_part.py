"""The controls of a drawing on the page, each under the name its option has everywhere."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from adapters.instantid.mask_part import MaskPart
from adapters.instantid.options import SETTING_OPTIONS
from adapters.instantid.requests import BLENDS, CONTROLS, MAX_PICTURES, MAX_PROMPT, MAX_SEED, REGIONS, STRENGTHS
from adapters.instantid.schedulers import SCHEDULERS
from adapters.instantid.styles import STYLES
from kit.parts.upload_limit import upload_limit
from kit.texts.labels import label, name_of
from kit.uploads import MAX_UPLOAD_BYTES


class ControlsPart:
    """Words, face, region, other ControlNets, a picture to draw over, and the numbers.

    Attributes:
        named: settings by the name of their option.
        pictures: file inputs by the name of their option.
        find: "find faces", and ``faces``, where they are shown.
        paint: the mask painted here.
    """

    def __init__(self, language: str) -> None:
        self.language = language
        self.named: dict[str, Any] = {}
        self.pictures: dict[str, Any] = {}

    # --- layout, in the order of the page

    def build_words(self) -> None:
        """Prompt and style."""
        self.named["prompt"] = gr.Textbox(
            "",
            label=self._("prompt"),
            placeholder=self._("prompt_hint"),
            info=self._("prompt_info"),
            lines=3,
            max_length=MAX_PROMPT,
            elem_id="identity-prompt",
        )
        self.named["style"] = gr.Dropdown(
            [(name_of("style", name, self.language), name) for name in STYLES],
            value="none",
            label=self._("style"),
            filterable=False,
            elem_id="identity-style",
        )

    def build_folds(self) -> None:
        """Everything that has a good default."""
        with self._fold("face"):
            self._build_face()
        with self._fold("controls"):
            self._build_controls()
        with self._fold("base"):
            self._picture("base")
            self._slider("change", (0.0, 1.0))
        with self._fold("details"):
            self._build_details()

    def _build_face(self) -> None:
        self.find = gr.Button(self._("find"), size="sm", elem_id="identity-find")
        self.faces = gr.Gallery(
            label=self._("faces"),
            columns=4,
            height="auto",
            object_fit="cover",
            allow_preview=False,
            interactive=False,
            visible=False,
            buttons=[],
            elem_id="identity-faces",
            elem_classes="ah-thumbs",
        )
        self._number("face", 0, 0, 99)
        with gr.Row():
            self._slider("identity", STRENGTHS)
            self._slider("likeness", STRENGTHS)
        self._picture("pose_picture")
        self._choice("region", REGIONS)
        self._picture("mask", kind="png")
        self.paint = MaskPart(self.language)
        self._choice("blend", BLENDS)

    def _build_controls(self) -> None:
        files = {"pose": "skeleton", "canny": "edges_of", "depth": "depth_map"}
        for kind in CONTROLS:
            self._slider(kind, STRENGTHS)
            self._picture(files[kind])
            if kind == "pose":
                self._network("pose_network")

    def _build_details(self) -> None:
        self.named["negative"] = gr.Textbox(
            "", label=self._("negative"), lines=2, max_length=MAX_PROMPT, elem_id="identity-negative"
        )
        with gr.Row():
            self._number("seed", 42, 0, MAX_SEED)
            self._number("pictures", 1, 1, MAX_PICTURES, elem_id="identity-count")
        self.dice = gr.Button(self._("dice"), size="sm", elem_id="identity-dice")
        self._slider("guidance", (0.0, 20.0), step=0.5)
        self.named["scheduler"] = gr.Dropdown(
            [(self._("own"), ""), *((name_of("scheduler", name, self.language), name) for name in SCHEDULERS)],
            value="",
            label=self._("scheduler"),
            filterable=False,
            elem_id="identity-scheduler",
        )
        for name in ("enlarge", "guess_mode"):
            self.named[name] = gr.Checkbox(False, label=self._(name), info=self._(f"{name}_info"), container=False)

    # --- values

    @property
    def inputs(self) -> list[Any]:
        """Components in the order ``options`` reads them."""
        return [*self.pictures.values(), *self.named.values()]

    def options(self, values: Sequence[Any]) -> dict[str, Any]:
        """Options by name, from the values of ``inputs``."""
        split = len(self.pictures)
        files = {name: value or "" for name, value in zip(self.pictures, values[:split], strict=True)}
        return files | {n: _typed(n, value) for n, value in zip(self.named, values[split:], strict=True)}

    # --- pieces

    def _fold(self, name: str) -> Any:
        return gr.Accordion(self._(f"fold_{name}"), open=False, elem_classes="ah-fold", elem_id=f"identity-fold-{name}")

    def _slider(self, name: str, limits: tuple[float, float], step: float = 0.05) -> None:
        self.named[name] = gr.Slider(
            *limits,
            value=SETTING_OPTIONS[name][1],
            step=step,
            label=self._(name),
            info=self._(f"{name}_info"),
            buttons=[],
            elem_id=f"identity-{name}",
        )

    def _number(self, name: str, value: int, low: int, high: int, elem_id: str = "") -> None:
        self.named[name] = gr.Number(
            value, precision=0, minimum=low, maximum=high, label=self._(name), elem_id=elem_id or f"identity-{name}"
        )

    def _choice(self, name: str, choices: Sequence[str]) -> None:
        self.named[name] = gr.Radio(
            [(self._(f"{name}_{choice}"), choice) for choice in choices],
            value=choices[0],
            label=self._(name),
            elem_id=f"identity-{name}",
        )

    def _network(self, name: str) -> None:
        elem_id = f"identity-{name.replace('_', '-')}"
        self.pictures[name] = gr.File(
            file_types=[".onnx"], type="filepath", label=self._(name), height=140, elem_id=elem_id
        )
        upload_limit(self.language, "weights", MAX_UPLOAD_BYTES, of=elem_id)

    def _picture(self, name: str, kind: str = "webp") -> None:
        self.pictures[name] = gr.Image(
            type="filepath",
            format=kind,
            sources=["upload", "clipboard"],
            label=self._(name),
            height=180,
            buttons=[],
            elem_id=f"identity-{name.replace('_', '-')}",
        )

    def _(self, key: str) -> str:
        return label(f"identity.{key}", self.language)


def _typed(name: str, value: Any) -> Any:
    """A control's value as its option's type; an emptied field is the default."""
    kind, default = type(SETTING_OPTIONS[name][1]), SETTING_OPTIONS[name][1]
    return default if value is None else kind(value)
