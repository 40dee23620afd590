"""The button that tries a few plans on this machine, and what came of it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import gradio as gr

from kit.parts import states
from kit.parts.context import QUIET, RUNS, PageContext
from kit.parts.markup import div, element, para, table, text
from kit.parts.plain import html
from kit.texts.labels import label
from kit.texts.report import seconds_text
from kit.texts.tuning_report import COLUMNS, rows, subject, verdict
from loader.engine import Engine
from loader.errors import AnyhostError, InputError
from loader.spec import AdapterSpec
from loader.tuning import Tuning, tunable
from loader.wishes import Wishes

if TYPE_CHECKING:
    from kit.parts.planning import Planning
    from kit.parts.wishes_panel import WishesPanel

Updates = Mapping[Any, Any]


def offered(context: PageContext, spec: AdapterSpec) -> bool:
    """Whether this page's machine can be tuned for a model: somebody may, and a run takes seconds here."""
    own = isinstance(context.engine, Engine) and context.admin != "nobody"
    return own and bool(spec.pipeline) and tunable(context.engine.plan(spec, Wishes()))


class TuneButton:
    """Button, words and result; ``wire`` lets a finished trial show the plan that follows from it."""

    def __init__(self, context: PageContext, spec: AdapterSpec) -> None:
        self._context, self._spec, self._language = context, spec, context.language
        prefix = spec.endpoint.strip("/")
        html(para("ah-dim", label("tune.words", context.language)))
        self.button = gr.Button(
            label("tune.button", context.language), variant="secondary", size="sm", elem_id=f"{prefix}-tune"
        )
        self.told = html(elem_id=f"{prefix}-tuned")

    def wire(self, panel: "WishesPanel", planning: "Planning", shown: Sequence[Any]) -> None:
        """Args: the wishes to tune under; what plans; its card and, where there is one, its line."""

        def work(request: gr.Request, *values: Any) -> Iterator[Updates]:
            yield from self._work(request, panel, values)

        def again(*values: Any) -> list[str]:
            now = planning.show_values(panel, values)
            return [now.card, now.line][: len(shown)]

        begun = self.button.click(self._begin, None, [self.button, self.told], **QUIET)
        done = begun.then(work, panel.controls, [self.button, self.told], api_visibility="private", **RUNS)
        done.then(again, panel.controls, list(shown), **QUIET)

    def _begin(self) -> Updates:
        return {self.button: gr.update(interactive=False), self.told: states.waiting(self._language)}

    def _work(self, request: gr.Request, panel: "WishesPanel", values: Sequence[Any]) -> Iterator[Updates]:
        ready = {self.button: gr.update(interactive=True)}
        if not self._context.administers(request):
            refused = InputError(label("tune.denied", self._language))
            yield {self.told: states.failed(refused, self._language), **ready}
            return
        try:
            wishes = panel.read(values)
            steps = self._context.engine.tune(self._spec, wishes, session=request.session_hash or "")
            with closing(steps) as items:
                for item in items:
                    if isinstance(item, Tuning):
                        yield {self.told: tuned_card(item, self._language), **ready}
                    else:
                        yield {self.told: states.progress(item, self._language)}
        except AnyhostError as error:
            yield {self.told: states.failed(error, self._language), **ready}


def tuned_card(tuning: Tuning, language: str) -> str:
    """What came of a trial: what is used from now on, and every way with its figures."""
    title = element("h4", text(label("tune.title", language))) + para("ah-dim", subject(tuning))
    tone = "ah-notice" if tuning.winner else "ah-notice ah-warn"
    said = div(tone, para("", verdict(tuning, language)), role="status")
    if tuning.winner is None:
        return element("section", title, said, classes="ah-card ah-tuned")
    head = [label(f"tune.column.{name}", language) for name in COLUMNS[:-1]]
    cells = (
        (element("strong", text(way)) + para("ah-dim", note), *map(text, figures))
        for way, *figures, note in rows(tuning, language)
    )
    seconds = seconds_text(tuning.seconds)
    counted = label("tune.rounds", language, quiet=tuning.quiet, rounds=tuning.rounds, seconds=seconds)
    shown = table(head, cells, caption=label("tune.title", language))
    return element("section", title, said, shown, para("ah-dim", counted), classes="ah-card ah-tuned")
