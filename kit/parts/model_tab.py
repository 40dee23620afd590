"""What the tabs of all models have in common: input, plan, wishes, run and Stop, progress, errors, the account.

How to write a tab (``adapters/<name>/tab.py``)::

    class DepthTab(ModelTab[Measured]):
        spec = SPEC

        def build_input(self): ...  # left: what the user gives; keep the components as attributes
        def build_options(self): ...  # left, below it: consent, licence, own weights, folds with settings
        def build_result(self): ...  # right, below the status: the card of a finished run, hidden at first
        def inputs(self):
            return [self.pictures.pictures, self.threshold]

        def lacking(self, values):
            return self.empty(alert=True) if not values[0] else ""

        def job(self, values, asked):  # a generator; yield steps, and at the end what ``finished`` shows
            yield from told(self.context.engine, SPEC, request_of(values), asked)

        def finished(self, outcome, asked):
            return {self.box: gr.update(visible=True), self.image: ...}

        def outputs(self):
            return [self.box, self.image]

        def result_boxes(self):
            return [self.box]


    def tab(context):
        DepthTab(context).build()

- ``prefix`` is the endpoint's name (``/depth`` gives "depth"): element ids are ``depth-run``, ``depth-stop``,
  ``depth-status``, ``depth-figures``, ``depth-plan``; words are ``depth.run``, ``depth.empty``, ``depth.empty_words``.
- Nothing of a request is kept in the object: one tab serves all visitors. What a visitor's later clicks need goes into
  a ``gr.State`` of the tab, as one of the ``outputs``.
- Whatever ``job`` raises is shown in words, and the run button is back. Stages that had finished by then, also at a
  Stop, ``finished_part`` says and shows.
- ``step_shown`` shows what comes while it runs (``step.preview``): a strip of stages, a picture.
- ``wire`` adds the tab's own events; filters and drawing take ``**QUIET``.
- Terms that the planned weights ask for are shown above the plan's line, and their ticks are in ``asked.accepted``: a
  tab has nothing to do for them but hand ``asked`` to ``told``.
- ``settings`` names the controls that a settings file can bring back.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import gradio as gr

from kit.parts import states
from kit.parts.context import QUIET, RUNS, PageContext
from kit.parts.figures import figures
from kit.parts.intro import intro
from kit.parts.licence_tick import LicenceTick
from kit.parts.markup import element
from kit.parts.plain import html
from kit.parts.plan_card import download_of
from kit.parts.planning import Planning
from kit.parts.report_part import ReportPart
from kit.parts.settings_drop import SettingsDrop
from kit.parts.wishes_panel import WishesPanel
from kit.running import Asked
from kit.texts.labels import label
from loader.errors import AnyhostError
from loader.outcome import Cancel, Kept, Result, Step
from loader.spec import AdapterSpec
from loader.wishes import Wishes

KEPT_SECONDS = 3600  # a visitor's results are let go with the pictures, after an hour

Updates = dict[Any, Any]
Outcome = TypeVar("Outcome")

_log = logging.getLogger(__name__)


class ModelTab(ABC, Generic[Outcome]):
    """Layout and events of a model's tab. See the module for how to write one.

    Attributes:
        spec: the model.
        style: a style sheet of the tab's own.
        context: engine and language.
        prefix: of element ids and words.
        planning: plans this model for the plan card.
        status: the panel that says how it goes; markup.
        figures: the account after a run; markup.
        report: a bundle of the last run, to be saved.
        panel: the wishes.
    """

    spec: ClassVar[AdapterSpec]
    style: ClassVar[Path | None] = None

    def __init__(self, context: PageContext) -> None:
        self.context, self.language = context, context.language
        self.prefix = self.spec.endpoint.strip("/")
        self.planning = Planning(context, self.spec)

    # --- what a tab adds

    @abstractmethod
    def build_input(self) -> None:
        """What the user gives: pictures, words, sound."""

    def build_options(self) -> None:
        """What belongs to it, above the plan's line: consent, own weights, folds with settings."""

    def build_settings(self) -> None:
        """What comes last on the left, below the wishes: bringing settings back from a file."""
        self.drop = SettingsDrop(self.context, self.spec)

    @abstractmethod
    def build_result(self) -> None:
        """The card of a finished run, hidden at first."""

    def build_endpoint(self) -> None:
        """The same for programs."""

    def wire(self) -> None:
        """The tab's own events."""

    @abstractmethod
    def inputs(self) -> Sequence[Any]:
        """Components whose values ``job`` is given."""

    def lacking(self, values: Sequence[Any]) -> str:
        """What is missing to begin with, as markup; "" if nothing is."""
        del values
        return ""

    def checkpoint(self, values: Sequence[Any]) -> Path | None:
        """The user's own weights.

        Raises:
            InputError: they cannot be used.
        """
        del values
        return None

    @abstractmethod
    def job(self, values: Sequence[Any], asked: Asked) -> Generator[Step | Outcome, None, None]:
        """Steps as it goes, then what came of it. It is closed when the page is left."""

    @abstractmethod
    def finished(self, outcome: Outcome, values: Sequence[Any]) -> Updates:
        """What shows an outcome, given the ``values`` it was made with.

        Unless the updates say otherwise, the status becomes empty and the buttons are back.
        """

    def finished_part(self, kept: Sequence[Kept], values: Sequence[Any], ended: Result) -> tuple[str, Updates]:
        """What of a run that ended early is worth having: it in words, and what shows it.

        Args:
            kept: values of finished stages, at least one.
            values: the run was given.
            ended: its plan and what its weights are.
        """
        del values, ended
        return label("terms.join", self.language).join(self._(f"kept.{one.stage}") for one in kept), {}

    def step_shown(self, step: Step) -> Updates:
        """What shows a step besides the status."""
        del step
        return {}

    @abstractmethod
    def outputs(self) -> Sequence[Any]:
        """Components that ``finished`` and ``step_shown`` set, besides those of this class."""

    def result_boxes(self) -> Sequence[Any]:
        """Parts that are hidden when a run begins."""
        return []

    def running_boxes(self) -> Sequence[Any]:
        """Parts that ``step_shown`` makes visible and that are hidden when the run has ended, however it did."""
        return []

    def settings(self) -> Mapping[str, Any]:
        """Controls by the name of their option in a settings file; several where an option is shown in several places.

        What the tab writes with ``kit.settings.restorable`` must have no other names.
        """
        return {}

    # --- layout

    def build(self) -> None:
        """Build the tab inside the current one, with its events and its endpoint."""
        self.cancel = gr.State(None, time_to_live=KEPT_SECONDS)
        if self.style is not None:
            html(element("style", self.style.read_text(encoding="utf-8")))
        with gr.Row(elem_classes="ah-columns"):
            with gr.Column(scale=5, min_width=320, elem_classes="ah-side"):
                self.build_side()
            with gr.Column(scale=8, min_width=320, elem_classes="ah-main"):
                self.status = html(self.empty(), elem_id=f"{self.prefix}-status")
                self.build_result()
                self.figures = html(elem_id=f"{self.prefix}-figures")
                self.card = html(self.planning.show(Wishes()).card, elem_id=f"{self.prefix}-plan")
                self.report = ReportPart(self.language, self.status, self.prefix)
        self.planning.wire(self.panel, self.card, self.line, self.run)
        if self.tick is not None:
            self.tick.wire(self.panel, self.planning)
        self.begins(self.run, self.inputs())
        self.stop.click(self._request_stop, [self.cancel], [self.stop], **QUIET)
        self.wire()
        self.drop.wire(self.panel, self.settings())
        if self.context.endpoints:
            self.build_endpoint()

    def build_side(self) -> None:
        """The left column: who, what, on which conditions, go, how."""
        html(intro(self.spec, self.language))
        self.build_input()
        self.build_options()
        # Whichever variant the wishes lead to: without terms nothing of it shows.
        bound = any(w.licence.accept for variant in self.spec.variants for w in variant.weights)
        self.tick = LicenceTick(self.context, self.spec) if bound else None
        self.line = html(self.planning.show(Wishes()).line)
        with gr.Row(elem_classes="ah-actions"):
            self.run = gr.Button(
                label(f"{self.prefix}.run", self.language), variant="primary", size="lg", elem_id=f"{self.prefix}-run"
            )
            self.stop = gr.Button(
                self._("action.stop"), variant="stop", size="lg", visible=False, elem_id=f"{self.prefix}-stop"
            )
        with gr.Accordion(self._("wish.title"), open=False, elem_classes="ah-fold"):
            self.panel = WishesPanel(self.context, self.spec)
        self.build_settings()

    def empty(self, *, alert: bool = False) -> str:
        """What the status says when there is nothing yet; ``alert`` where a run was asked for without an input."""
        title, words = (label(f"{self.prefix}.{key}", self.language) for key in ("empty", "empty_words"))
        return states.notice(title, words, alert=alert)

    def account(self, result: Result, *, requests: int | None = None) -> Updates:
        """The account of a run: predicted beside measured."""
        return {self.figures: figures(result, self.language, requests=requests), **self.report.of(result)}

    def _(self, key: str, **figures_: object) -> str:
        return label(key, self.language, **figures_)

    # --- a run

    def begins(self, button: gr.Button, inputs: Sequence[Any]) -> None:
        """Let ``button`` begin a run whose values are those of ``inputs``, in the order of ``inputs()``."""
        own = [self.status, self.run, self.stop, self.figures, *self.report.outputs]
        boxes = list(self.result_boxes())
        button.click(self._begin, None, [self.cancel, *own, *boxes], **QUIET).then(
            self._work,
            [self.cancel, *self._ticks(), *inputs, *self.panel.controls],
            list(dict.fromkeys([*own, self.card, self.line, *boxes, *self.running_boxes(), *self.outputs()])),
            api_visibility="private",
            **RUNS,
        )

    def _ticks(self) -> list[Any]:
        return [self.tick.control] if self.tick is not None else []

    def _begin(self) -> Updates:
        hidden = gr.update(visible=False)
        return {
            self.cancel: Cancel(),
            self.status: states.waiting(self.language),
            self.run: hidden,
            self.stop: gr.update(visible=True, interactive=True, value=self._("action.stop")),
            self.figures: "",
            **self.report.none(),
            **dict.fromkeys(self.result_boxes(), hidden),
        }

    def _request_stop(self, cancel: Cancel | None) -> Any:
        """Ask for the end. The status is the run's to write: an answer from here could come after its last word."""
        if cancel is not None:
            cancel.request()
        return gr.update(interactive=False, value=self._("action.stopping"))

    def _work(self, request: gr.Request, cancel: Cancel, *values: Any) -> Iterator[Updates]:
        """Run and tell how it goes; whatever comes of it, the run button is back at the end."""
        ticks, split = len(self._ticks()), len(self._ticks()) + len(self.inputs())
        own, wished = values[ticks:split], values[split:]
        wishes = Wishes()
        try:
            wishes = self.panel.read(wished)
            lacking = self.lacking(own)
            if lacking:
                yield {self.status: lacking, **self._idle(wishes)}
                return
            yield {self.status: states.progress(self._first_step(wishes), self.language)}
            accepted = self.tick.accepted(values[0]) if self.tick is not None else frozenset()
            asked = Asked(wishes, cancel, request.session_hash or "", self.checkpoint(own), accepted)
            with closing(self.job(own, asked)) as items:
                for item in items:
                    if isinstance(item, Step):
                        told = states.progress(item, self.language, stopping=cancel.requested)
                        yield {self.status: told, **self.step_shown(item)}
                    else:
                        yield {self.status: "", **self._idle(wishes), **self.finished(item, own)}
        except Exception as error:  # noqa: BLE001 - whatever it is, the user is told and the page stays usable
            self._report(error)
            finished, shown = self._finished_part(error, own)
            words = states.failed(error, self.language, finished=finished)
            report = self.report.of_error(error, self.planning.plan(wishes))
            yield {self.status: words, **self._idle(wishes), **report, **shown}

    def _finished_part(self, error: Exception, own: Sequence[Any]) -> tuple[str, Updates]:
        kept: Sequence[Kept] = getattr(error, "kept", ())
        ended: Result | None = getattr(error, "ended", None)
        if not kept or ended is None:
            return "", {}
        try:
            return self.finished_part(kept, own, ended)
        except Exception:  # noqa: BLE001 - the first error is the one to be told
            _log.exception("what %s had finished could not be shown", self.spec.name)
            return "", {}

    def _first_step(self, wishes: Wishes) -> Step:
        made = self.planning.plan(wishes)
        download = download_of(self.spec.variant(made.variant), self.context.engine.folders)
        return Step("fetching" if download.bytes else "preparing", 0, 0)

    def _idle(self, wishes: Wishes) -> Updates:
        """Buttons for the next run, and the plan with what this one taught."""
        now = self.planning.show(wishes)
        return {
            self.run: gr.update(visible=True, interactive=now.fits, value=now.button),
            self.stop: gr.update(visible=False),
            self.card: now.card,
            self.line: now.line,
            **dict.fromkeys(self.running_boxes(), gr.update(visible=False)),
        }

    def _report(self, error: Exception) -> None:
        if not isinstance(error, AnyhostError):
            _log.error("a run of %s failed", self.spec.name, exc_info=error)
