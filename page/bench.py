"""The page of benchmarks: running one in turn with visitors, what was measured, and figures while serving."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import gradio as gr

from adapters import adapter
from bench.report import save
from bench.rows import Asked, Machine, Report, report_file
from bench.session import Benches, Snapshot
from bench.subject import SUBJECTS
from kit.parts.context import QUIET, PageContext
from kit.parts.markup import div, element, para, text
from kit.parts.plain import html
from kit.parts.saving import Saving
from kit.parts.states import failed, notice
from kit.sizes import read_size
from kit.texts.labels import label
from loader.engine import Engine
from loader.errors import AnyhostError, DoesNotFitError, InputError
from loader.wishes import Wishes
from page import bench_view as view

POLL_S = 1.0
BATCHES = (1, 2, 4, 8, 16)
ROUNDS = (5, 25, 7)  # fewest, most, and at first
KINDS = {"JSON": ".json", "CSV": ".csv", "Markdown": ".md"}
STORED = Path(__file__).parents[1] / "assets" / "benchmarks"
Updates = dict[Any, Any]


@dataclass(frozen=True)
class Seen:
    """What a visitor's page shows already: nothing is sent again that did not change."""

    model: str = ""
    bench: int = -1
    live: int = -1


def benches_of(engine: Any) -> Benches | None:
    """The benches of this machine, or None where requests are computed elsewhere: on replicas, on a lent card."""
    return Benches(engine) if isinstance(engine, Engine) and engine.host.platform != "zerogpu" else None


def bench_tab(context: PageContext, tabs: gr.Tabs, benches: Benches | None) -> None:
    """Build the tab inside ``tabs``."""
    with gr.Tab(label("bench.tab", context.language), id="bench", elem_id="bench-tab") as tab:
        BenchTab(context, benches).build(tab, tabs)


class BenchTab:
    """Layout and events. The bench itself is the process's, so that all pages of all visitors see the same."""

    def __init__(self, context: PageContext, benches: Benches | None, stored: Path = STORED) -> None:
        self.context, self.language, self.benches, self.stored = context, context.language, benches, stored

    # --- layout

    def build(self, tab: gr.Tab, tabs: gr.Tabs) -> None:
        """The controls on the left, what was measured on the right, figures while serving below."""
        first = next(iter(SUBJECTS))
        with gr.Row(elem_classes="ah-columns"):
            with gr.Column(scale=5, min_width=320, elem_classes="ah-side"):
                self._build_side(first)
            with gr.Column(scale=8, min_width=320, elem_classes="ah-main"):
                self.status = html(elem_id="bench-status")
                self.results = html(elem_id="bench-results")
                self.saving = Saving(self.language, self.status)
                with gr.Row(elem_classes="ah-actions", visible=False) as self.saves:
                    self.save_buttons = {
                        suffix: gr.Button(self._("bench.save", kind=kind), elem_id=f"bench-save-{suffix[1:]}")
                        for kind, suffix in KINDS.items()
                    }
                self.reference = html(elem_id="bench-reference")
        self.live = html(elem_id="bench-live")
        self.timer = gr.Timer(POLL_S, active=False)
        self.seen = gr.State(Seen())
        self._wire(tab, tabs)

    def _build_side(self, first: str) -> None:
        words = (element("h2", text(self._("bench.title"))), para("", self._("bench.words")))
        html(div("ah-intro", *words, para("ah-dim", self._("bench.generators"))))
        self.model = gr.Radio(
            [(adapter(name).title, name) for name in SUBJECTS],
            value=first,
            label=self._("bench.model"),
            elem_id="bench-model",
        )
        with gr.Column(visible=False, elem_id="bench-controls") as self.controls:
            with gr.Row():
                self.variant = gr.Dropdown(**self._variants(first), label=self._("bench.variant"), min_width=130)
                self.size = gr.Textbox(
                    label=self._("bench.size"),
                    placeholder=self._("bench.as_planned"),
                    min_width=150,
                    max_length=20,
                    elem_id="bench-size",
                )
            self.batches = gr.CheckboxGroup(
                [(str(batch), batch) for batch in BATCHES], value=[1], label=self._("bench.batches")
            )
            fewest, most, rounds = ROUNDS
            self.rounds = gr.Slider(fewest, most, rounds, step=1, label=self._("bench.rounds"))
            options = [(self._(f"bench.{key}"), key) for key in ("compiled", "peaks", "peers")]
            self.options = gr.CheckboxGroup(options, value=["peaks"], label=self._("bench.options"))
            with gr.Row(elem_classes="ah-actions"):
                self.run = gr.Button(self._("bench.run"), variant="primary", elem_id="bench-run")
                self.stop = gr.Button(self._("bench.stop"), variant="stop", visible=False, elem_id="bench-stop")
        self.rights = html(elem_id="bench-rights")

    def _variants(self, model: str) -> dict[str, Any]:
        names = [variant.name for variant in adapter(model).variants]
        return {"choices": [(self._("bench.as_planned"), ""), *((name, name) for name in names)], "value": ""}

    # --- events

    def _wire(self, tab: gr.Tab, tabs: gr.Tabs) -> None:
        given = [self.model, self.seen]
        shown = [
            *(self.status, self.results, self.saves, self.reference, self.live, self.timer, self.seen),
            *(self.controls, self.rights, self.run, self.stop),
        ]
        asked = [self.model, self.variant, self.size, self.batches, self.rounds, self.options]
        tab.select(self._look, [self.model], shown, **QUIET)
        # Any tab of the page being chosen: only while this one is looked at does it ask for figures.
        tabs.select(self._away, None, [self.timer], **QUIET)
        self.model.input(self._choose, [self.model], [*shown, self.variant], **QUIET)
        self.timer.tick(self._tick, given, shown, **QUIET)
        self.run.click(self._run, asked, shown, **QUIET)
        self.stop.click(self._stop, [self.model], shown, **QUIET)
        for suffix, button in self.save_buttons.items():
            self.saving.on(button, self._saver(suffix), [self.model])

    def _look(self, model: str, request: gr.Request) -> Updates:
        """Everything anew; from now on the page asks for what changes."""
        may = self.benches is not None and self.context.administers(request)
        rights = "" if may else self._("bench.rights" if self.benches is not None else "bench.elsewhere")
        return {
            **self._now(model, Seen(), request),
            self.timer: gr.Timer(active=True),
            self.controls: gr.update(visible=may),
            self.rights: para("ah-dim ah-small", rights),
        }

    def _away(self, chosen: gr.SelectData) -> Any:
        return gr.skip() if chosen.value == self._("bench.tab") else gr.Timer(active=False)

    def _choose(self, model: str, request: gr.Request) -> Updates:
        return {**self._look(model, request), self.variant: gr.update(**self._variants(model))}

    def _tick(self, model: str, seen: Seen, request: gr.Request) -> Updates:
        return self._now(model, seen, request)

    def _run(  # noqa: PLR0913 - one argument a control
        self,
        model: str,
        variant: str,
        size: str,
        batches: Sequence[int],
        rounds: float,
        options: Sequence[str],
        request: gr.Request,
    ) -> Updates:
        try:
            self._permit(request)
            asked = self._asked(model, variant, size, batches, rounds, options)
            refusal = self._start(asked)
        except AnyhostError as error:
            return {self.status: failed(error, self.language)}
        if refusal:
            words = notice(self._(f"bench.{refusal}"), self._(f"bench.{refusal}_words"), alert=True)
            return {self.status: words}
        return self._look(model, request)

    def _stop(self, model: str, request: gr.Request) -> Updates:
        try:
            self._permit(request).stop()
        except AnyhostError as error:
            return {self.status: failed(error, self.language)}
        return self._look(model, request)

    def _permit(self, request: gr.Request) -> Benches:
        if self.benches is None:
            raise InputError(self._("bench.elsewhere"))
        if not self.context.administers(request):
            raise InputError(self._("bench.rights"))
        return self.benches

    def _asked(
        self, model: str, variant: str, size: str, batches: Sequence[int], rounds: float, options: Sequence[str]
    ) -> Asked:
        """What the controls say.

        Raises:
            InputError: a size that cannot be read, or nothing to time.
        """
        chosen = tuple(sorted(batch for batch in BATCHES if batch in batches))
        if not chosen:
            raise InputError(self._("bench.no_batch"))
        fewest, most, _ = ROUNDS
        return Asked(
            model if model in SUBJECTS else next(iter(SUBJECTS)),
            variant or None,
            chosen,
            int(min(most, max(fewest, rounds))),
            "compiled" in options,
            read_size(size) if size.strip() else None,
            peaks="peaks" in options,
            limits=False,
            peers="peers" in options,
        )

    def _start(self, asked: Asked) -> str:
        """Begin it; "" or why not.

        Raises:
            DoesNotFitError: no plan for it.
        """
        assert self.benches is not None, "permitted"
        wishes = Wishes(variant=asked.variant, batch=max(asked.batches), size=asked.size)
        made = self.context.engine.plan(adapter(asked.adapter), wishes)
        if not made.fits:
            raise DoesNotFitError(made.refusal)
        return self.benches.start(asked, made.device)

    # --- what is shown

    def _now(self, model: str, seen: Seen, request: gr.Request) -> Updates:
        """What changed since ``seen``."""
        shot = self.benches.snapshot() if self.benches is not None else Snapshot()
        figures = getattr(self.context.engine, "live", None)
        now = Seen(model, shot.number, -1 if figures is None else figures.number)
        changed: Updates = {} if now == seen else {self.seen: now}
        if (now.model, now.bench) != (seen.model, seen.bench):
            changed |= self._bench(model, shot, request)
        if figures is not None and now.live != seen.live:
            changed[self.live] = view.live(figures.figures(), self._held, self.language)
        return changed or {self.seen: gr.skip()}

    def _bench(self, model: str, shot: Snapshot, request: gr.Request) -> Updates:
        found, note = self._found(model, shot)
        may = self.context.administers(request)
        return {
            self.status: view.progress(shot, self.language),
            self.results: view.results(found, self.language, note=note),
            self.saves: gr.update(visible=found is not None and not shot.going_on),
            self.reference: view.reference(found, self.language) if model == "damo_yolo" else "",
            self.run: gr.update(interactive=not shot.going_on),
            self.stop: gr.update(visible=shot.going_on and may),
        }

    def _found(self, model: str, shot: Snapshot) -> tuple[Report | None, str]:
        """Rows so far of a bench under way, else the last one of this process, else what is kept with the project."""
        mine = shot.asked is not None and shot.asked.adapter == model
        rows = view.rows_so_far(shot.progress, model) if mine and shot.going_on else ()
        if rows:
            machine = Machine.of(self.context.host, date.today().isoformat())
            return Report(machine, rows), self._("bench.so_far", rounds=min(row.repeats for row in rows))
        last = self.benches.report_of(model) if self.benches is not None else None
        if last is not None:
            return last, ""
        kept = self.stored / f"{model}.json"
        return (report_file(kept), self._("bench.stored")) if kept.is_file() else (None, "")

    def _saver(self, suffix: str) -> Any:
        def save_report(folder: Path, model: str) -> Path | None:
            shot = self.benches.snapshot() if self.benches is not None else Snapshot()
            found, _ = self._found(model, shot)
            return None if found is None else save(found, folder / f"bench-{model}{suffix}")

        return save_report

    def _held(self, model: str) -> int:
        """Bytes of a model's weights in memory now, wherever they are."""
        return sum(self.context.engine.residency.held_bytes(model, others=False).values())

    def _(self, key: str, **figures: object) -> str:
        return label(key, self.language, **figures)
