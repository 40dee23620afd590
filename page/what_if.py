"""What if this were another machine: all five plans there beside those here. Nothing is loaded, nothing runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from adapters import ADAPTERS
from kit.parts import states
from kit.parts.context import QUIET, PageContext
from kit.parts.markup import div, element, para, sentence, span, text
from kit.parts.plain import html
from kit.parts.plan_card import decision_parts, grouped
from kit.texts import flips_when, refusal
from kit.texts.comparison import Comparison, Row, host_name, host_title, times_text
from kit.texts.labels import label
from loader.errors import AnyhostError
from loader.host import GIB, Host, host_file, host_names, load_host
from loader.plan import Plan, plan
from loader.wishes import Wishes

HERE = ""  # the choice that stands for this machine
FIRST_CHOICES = ("t4-16g", "cpu-basic")  # with a card here, one without is the other question


def what_if_tab(context: PageContext) -> gr.Tab:
    """Build the tab inside the current tabs."""
    with gr.Tab(label("what_if.tab", context.language), id="what-if", elem_id="what-if-tab") as tab:
        WhatIf(context).build(tab)
    return tab


class WhatIf:
    """Controls and events; every answer is made anew from what the controls say."""

    def __init__(self, context: PageContext) -> None:
        self.context, self.language = context, context.language

    def build(self, tab: gr.Tab) -> None:
        machines = [(host_title(load_host(name), self.language), name) for name in host_names()]
        first = FIRST_CHOICES[1 if self.context.host.accelerators else 0]
        title, words = (
            element(tag, text(self._(key))) for tag, key in (("h2", "what_if.title"), ("p", "what_if.words"))
        )
        html(div("ah-intro", title, words))
        with gr.Row(elem_classes="ah-what-if-choice"):
            with gr.Column(min_width=300):
                self.host = gr.Dropdown(
                    sorted(machines), value=first, label=self._("what_if.machine"), elem_id="what-if-host"
                )
                self.against = gr.Dropdown(
                    [(self._("what_if.here"), HERE), *sorted(machines)],
                    value=HERE,
                    label=self._("what_if.against"),
                    elem_id="what-if-against",
                )
                with gr.Row(elem_classes="ah-ticks"):
                    self.ticks = [
                        gr.Checkbox(False, label=self._(f"what_if.{name}"), container=False, min_width=160)
                        for name in ("precision_first", "allow_smaller")
                    ]
            with gr.Column(min_width=300):
                self.file = gr.File(
                    label=self._("what_if.file"),
                    file_types=[".json"],
                    type="filepath",
                    height=150,
                    elem_id="what-if-file",
                )
        self.answer = html(elem_id="what-if-answer")
        self._wire(tab)

    def _wire(self, tab: gr.Tab) -> None:
        inputs = [self.host, self.file, self.against, *self.ticks]
        again: dict[str, Any] = {"fn": self._answer, "inputs": inputs, "outputs": [self.answer], **QUIET}
        # A name chosen takes the place of a file, a file that of the name.
        self.host.input(lambda: None, None, [self.file], **QUIET).then(**again)
        controls: list[Any] = [self.against, *self.ticks]
        for control in controls:
            control.input(**again, trigger_mode="always_last")
        for event in (self.file.upload, self.file.clear, self.file.delete, tab.select):
            event(**again)

    def _answer(self, name: str, file: str | None, against: str, precision_first: bool, allow_smaller: bool) -> str:
        wishes = Wishes(precision_first=precision_first, allow_smaller=allow_smaller)
        try:
            there = host_file(Path(file)) if file else load_host(name)
            return answer(self._plans_here(against, wishes), plans_on(there, wishes), self.language)
        except AnyhostError as error:
            return states.failed(error, self.language)

    def _plans_here(self, against: str, wishes: Wishes) -> list[Plan]:
        if against != HERE:
            return plans_on(load_host(against), wishes)
        return [self.context.engine.plan(spec, wishes) for spec in ADAPTERS]

    def _(self, key: str, **figures: object) -> str:
        return label(key, self.language, **figures)


def plans_on(host: Host, wishes: Wishes) -> list[Plan]:
    """All five plans on a machine nothing was learned on."""
    return [plan(spec, host, wishes) for spec in ADAPTERS]


# --- markup -----------------------------------------------------------------------------------------------------


def answer(here: Sequence[Plan], there: Sequence[Plan], language: str) -> str:
    """The five plans ``there`` side by side, with what is different from those ``here``."""
    compared = [Comparison(mine, other) for mine, other in zip(here, there, strict=True)]
    host, other = there[0].situation.host, host_name(here[0].situation.host, language)
    fit = sum(plan.fits for plan in there)
    key = "what_if.count" if any(c.differences for c in compared) else "what_if.count_same"
    count = label(key, language, fit=fit, all=len(there), against=other)
    name = label("what_if.on", language, host=host_title(host, language))
    return element(
        "section",
        element("h3", text(name)),
        para("", _machine(host, language)),
        para("ah-headline", count),
        div("ah-five", *(_column(c, other, language) for c in compared)),
        para("ah-dim", label("what_if.estimated", language)),
        element("h4", text(label("what_if.decisions", language))),
        *(_decisions(c, other, language) for c in compared),
        classes="ah-card ah-what-if",
        aria_label=name,
    )


def _machine(host: Host, language: str) -> str:
    cpu = label("what_if.processor", language, name=host.cpu.name, cores=host.cpu.cores)
    memory = label("what_if.memory", language, gib=f"{host.ram_bytes / GIB:.0f}")
    cards = [f"{a.name}, {a.memory_bytes / GIB:.0f} GiB" for a in host.accelerators]
    return label("what_if.join", language).join([cpu, memory, *(cards or [label("what_if.no_card", language)])])


def _column(compared: Comparison, other: str, language: str) -> str:
    """One model: its name, the answer, and a value for each row."""
    plan = compared.there
    state, *rows = compared.rows(language)
    pill = span(f"ah-pill {'ah-good' if plan.fits else 'ah-bad'}", state.there)
    differs = _differs(state, other, language) if state.differs else ""
    refused = para("ah-refusal", sentence(refusal(plan.refusal, language))) if plan.refusal else ""
    return element(
        "article",
        element("header", element("h4", text(compared.title)), pill, differs),
        element("dl", *(_row(row, other, language) for row in rows)) if plan.fits else refused,
        classes="" if plan.fits else "ah-refused",
        aria_label=compared.title,
    )


def _row(row: Row, other: str, language: str) -> str:
    times = "" if row.times is None else f" ({times_text(row.times, language)})"
    value = element("strong", text(row.there + times))
    differs = _differs(row, other, language) if row.differs else ""
    return div(
        "ah-five-row",
        element("dt", text(label(f"what_if.{row.key}", language))),
        element("dd", value, differs),
    )


def _differs(row: Row, other: str, language: str) -> str:
    """What it is on the other machine, behind a sign that does not need a colour."""
    words = label("what_if.differs", language, against=other, value=row.here)
    sign = element("span", "≠", classes="ah-sign", aria_hidden="true")
    spoken = span("ah-hidden", label("what_if.different", language) + " ")
    return element("span", sign, spoken, element("span", text(words)), classes="ah-differs")


def _decisions(compared: Comparison, other: str, language: str) -> str:
    """Every decision there, why it was taken and what would change it; folded, for there are many."""
    plan = compared.there
    decisions = [d for d in plan.decisions if d is not plan.refusal]
    new = {id(d) for d in compared.new_decisions}
    count = sum(id(d) in new for d in decisions)
    key = "what_if.decisions_new" if count else "what_if.decisions_of"
    key = "what_if.decisions_refused" if plan.refusal is not None else key
    head = label(key, language, model=compared.title, count=len(decisions), new=count, against=other)
    mark = span("ah-only-there", label("what_if.only_there", language, against=other))
    items = []
    for group in grouped(decisions):
        marked = mark if any(id(d) in new for d in group) else ""
        items.append(element("li", *decision_parts(group, language, mark=marked)))
    body = [element("ul", *items, classes="ah-decisions")] if items else []
    if plan.refusal is not None:
        body.insert(0, _refusal_flips(plan, language))
    if not body:
        body = [para("ah-dim", label("what_if.no_decisions", language))]
    parts = compared.parts(language)
    if parts:
        title = para(
            "ah-parts-title",
            label("what_if.parts", language, against=other, host=host_name(plan.situation.host, language)),
        )
        body.append(div("ah-parts", title, element("ul", *(element("li", text(line)) for line in parts))))
    return element("details", element("summary", text(head)), *body, classes="ah-why")


def _refusal_flips(plan: Plan, language: str) -> str:
    assert plan.refusal is not None, "called for refusals"
    words = para("", sentence(refusal(plan.refusal, language)))
    flips = flips_when(plan.refusal, language)
    return words + (para("ah-flips", label("plan.flips", language, what=flips)) if flips else "")
