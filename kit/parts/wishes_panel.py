"""The wishes as controls: the same names and meanings as on the command line."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from kit.parts.context import PageContext
from kit.parts.tune_button import TuneButton, offered
from kit.sizes import read_size, write_size
from kit.texts.labels import label, name_of
from loader.errors import InputError
from loader.host import Dtype
from loader.spec import AdapterSpec
from loader.wishes import COMPILE_MODES, RESIDENCIES, Wishes

Choice = tuple[str, str]
DTYPE_ORDER: tuple[Dtype, ...] = ("fp32", "bf16", "fp16", "int8")
DECIDE = ""  # the value that leaves a wish to the plan


class WishesPanel:
    """Controls for every wish that means something for a model.

    Attributes:
        names: the wishes offered, in the order of ``controls``.
        controls: the components, for the inputs of events.
    """

    def __init__(self, context: PageContext, spec: AdapterSpec) -> None:
        self._context, self._spec = context, spec
        self._built: dict[str, Any] = {}
        with gr.Row(elem_classes="ah-wishes"):
            self._dropdown("device", [(name_of("device", d, context.language), d) for d in self._devices()])
            self._dropdown("dtype", [(d, d) for d in self._dtypes()])
            self._dropdown("variant", [(f"{v.name}: {v.title}", v.name) for v in spec.variants])
            sizes = dict.fromkeys(write_size(size) for v in spec.variants for size in v.sizes)
            self._dropdown("size", [(size, size) for size in sizes], custom=True)
            self._counts()
            self._dropdown("residency", [(name_of("residency", r, context.language), r) for r in RESIDENCIES])
            self._dropdown("compile", [(name_of("compile", m, context.language), m) for m in COMPILE_MODES])
        with gr.Column(elem_classes="ah-ticks"):
            for name in ("precision_first", "allow_smaller", "force"):
                self._built[name] = gr.Checkbox(False, label=self._label(name), container=False)
        if any(c.unguided < 1 for v in spec.variants for c in v.components):
            # No control of its own: the tab sets it from the guidance it asks for, so that the plan knows.
            self._built["unguided"] = gr.Checkbox(False, visible="hidden")
        self.reset = gr.Button(label("wish.reset", context.language), variant="secondary", size="sm")
        self.tune = TuneButton(context, spec) if offered(context, spec) else None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._built)

    @property
    def controls(self) -> list[Any]:
        return list(self._built.values())

    @property
    def defaults(self) -> list[Any]:
        """Values of a panel nobody touched."""
        return [False if isinstance(c, gr.Checkbox) else DECIDE for c in self.controls]

    def read(self, values: Sequence[Any]) -> Wishes:
        """The wishes that ``values`` of the controls say.

        Raises:
            InputError: a size or a number that cannot be read.
        """
        given = dict(zip(self.names, values, strict=True))
        return Wishes(
            device=given["device"] or None,
            dtype=given["dtype"] or None,
            variant=given["variant"] or None,
            size=read_size(given["size"]) if given["size"] else None,
            batch=self._count(given, "batch"),
            steps=self._count(given, "steps"),
            frames=self._count(given, "frames"),
            residency=given["residency"] or None,
            compile=given["compile"] or None,
            precision_first=bool(given["precision_first"]),
            allow_smaller=bool(given["allow_smaller"]),
            force=bool(given["force"]),
            unguided=bool(given.get("unguided")),
        )

    def _counts(self) -> None:
        spec = self._spec
        if spec.max_batch > 1:
            counts = [str(2**k) for k in range(spec.max_batch.bit_length()) if 2**k <= spec.max_batch]
            self._dropdown("batch", [(count, count) for count in counts], custom=True)
        for name, most in (
            ("steps", max(v.steps for v in spec.variants)),
            ("frames", max(v.frames for v in spec.variants)),
        ):
            if most > 1:
                usual = dict.fromkeys(str(n) for n in (max(1, most // 4), max(1, most // 2), most, most * 2))
                self._dropdown(name, [(n, n) for n in usual], custom=True)

    def _dropdown(self, name: str, choices: list[Choice], *, custom: bool = False) -> None:
        decide = (label("wish.decide", self._context.language), DECIDE)
        self._built[name] = gr.Dropdown(
            [decide, *choices],
            value=DECIDE,
            label=self._label(name),
            allow_custom_value=custom,
            filterable=custom,
            min_width=150,
        )

    def _label(self, name: str) -> str:
        return label(f"wish.{name}", self._context.language)

    def _devices(self) -> list[str]:
        return [*(a.device for a in self._context.host.accelerators), "cpu"]

    def _dtypes(self) -> list[Dtype]:
        offered = {d for v in self._spec.variants for c in v.components for d in c.dtypes}
        return [d for d in DTYPE_ORDER if d in offered]

    @staticmethod
    def _count(given: dict[str, Any], name: str) -> int | None:
        value = str(given.get(name) or "").strip()
        if not value:
            return None
        if not value.lstrip("-").isdecimal():
            raise InputError(f"{name} {value!r} is no number: write a whole number of at least 1")
        return int(value)
