"""Wishes and plan card of a tab, wired: every wish plans anew and shows what follows before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from kit.parts import states
from kit.parts.context import QUIET, PageContext
from kit.parts.plan_card import plan_card, plan_line
from kit.parts.wishes_panel import WishesPanel
from kit.texts.labels import label
from kit.texts.report import seconds_text
from loader.errors import InputError
from loader.plan import Plan
from loader.spec import AdapterSpec
from loader.wishes import Wishes

SAID_FROM_SECONDS = 60.0


@dataclass(frozen=True)
class Shown:
    """A plan as the tab shows it."""

    card: str
    line: str
    fits: bool
    button: str


class Planning:
    """Plans one adapter for one tab.

    ``card`` and ``line`` are made where the tab wants them, with what ``show`` says, and handed to ``wire``.
    """

    def __init__(self, context: PageContext, spec: AdapterSpec, *, runnable: bool = True) -> None:
        self.context, self.spec, self.runnable = context, spec, runnable

    def plan(self, wishes: Wishes) -> Plan:
        """The plan here and now."""
        return self.context.engine.plan(self.spec, wishes)

    def show(self, wishes: Wishes) -> Shown:
        """The plan for ``wishes`` with what they change."""
        made = self.plan(wishes)
        baseline = None if wishes == Wishes() else self.plan(Wishes())
        card = plan_card(made, self.context, baseline=baseline, runnable=self.runnable)
        return Shown(card, plan_line(made, self.context), made.fits, self._button(made))

    def show_values(self, panel: WishesPanel, values: Sequence[Any]) -> Shown:
        """``show`` for the values of a panel; a value that cannot be read is shown as an error."""
        try:
            return self.show(panel.read(values))
        except InputError as error:
            words = states.failed(error, self.context.language)
            return Shown(words, "", fits=False, button=self._action())

    def _action(self) -> str:
        return label(f"{self.spec.endpoint.strip('/')}.run", self.context.language)

    def _button(self, made: Plan) -> str:
        """What the run button says: with the time, where nobody would stay and watch."""
        if not made.fits or made.predicted_seconds < SAID_FROM_SECONDS:
            return self._action()
        seconds = seconds_text(made.predicted_seconds)
        return label("plan.button", self.context.language, action=self._action(), seconds=seconds)

    def wire(
        self, panel: WishesPanel, card: gr.HTML, line: gr.HTML | None = None, run: gr.Button | None = None
    ) -> None:
        """Let every control of ``panel`` update the card, the line and whether the run button may be pressed."""
        outputs = [part for part in (card, line, run) if part is not None]

        def again(*values: Any) -> dict[Any, Any]:
            shown = self.show_values(panel, values)
            updates: dict[Any, Any] = {card: shown.card}
            if line is not None:
                updates[line] = shown.line
            if run is not None:
                updates[run] = gr.update(interactive=shown.fits, value=shown.button)
            return updates

        # With no trigger named: at every visit, for what is loaded and learned changes the plan, and at every change.
        gr.on(None, again, panel.controls, outputs, trigger_mode="always_last", **QUIET)
        if panel.tune is not None:
            panel.tune.wire(panel, self, [part for part in (card, line) if part is not None])
        panel.reset.click(lambda: panel.defaults, None, panel.controls, **QUIET)
