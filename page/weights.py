"""The page of weights: what lies on this disk, fetching beforehand, and deleting what was fetched."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from adapters import ADAPTERS
from kit.parts.context import QUIET, PageContext
from kit.parts.licence_tick import LicenceTick
from kit.parts.markup import div, element, para, text
from kit.parts.plain import html
from kit.parts.states import failed, notice
from kit.texts.labels import label
from loader.downloads import Download, Downloads
from loader.errors import AnyhostError, WeightsError
from loader.folders import delete, size_text
from loader.inventory import VariantState, inventory, shared, totals, variant_state
from loader.spec import AdapterSpec, Variant
from page import weights_view as view

POLL_S = 0.5
Updates = dict[Any, Any]


def weights_tab(context: PageContext, environ: Mapping[str, str] = os.environ) -> None:
    """Build the tab inside the current tabs."""
    with gr.Tab(label("weights.title", context.language), id="weights") as tab:
        WeightsTab(context, environ).build(tab)


class WeightsTab:
    """Layout and events. What is on its way is the engine's, so that all pages of all visitors see the same."""

    def __init__(self, context: PageContext, environ: Mapping[str, str]) -> None:
        self.context, self.language, self.environ = context, context.language, environ
        self.downloads: Downloads = context.engine.downloads

    # --- layout

    def build(self, tab: gr.Tab) -> None:
        """The controls on the left, the files on the right."""
        states = self._states()
        first = states[0]
        with gr.Row(elem_classes="ah-columns"):
            with gr.Column(scale=5, min_width=320, elem_classes="ah-side"):
                self._build_side(states, first)
            with gr.Column(scale=8, min_width=320, elem_classes="ah-main"):
                self.status = html(elem_id="weights-status")
                self._build_sure()
                self.files = html(self._files(first, None), elem_id="weights-files")
                self.all = html(view.overview(states, frozenset(), self.language), elem_id="weights-all")
        self.timer = gr.Timer(POLL_S, active=False)
        self._wire(tab)

    def _build_side(self, states: Sequence[VariantState], first: VariantState) -> None:
        counted = totals(states, self.context.engine.folders)
        words = element("h2", text(self._("weights.head"))) + para("", self._("weights.words"))
        html(div("ah-intro", words))
        self.totals = html(view.totals_card(counted, self.language), elem_id="weights-totals")
        self.variant = gr.Dropdown(
            [(view.name_of_variant(state), _key(state)) for state in states],
            value=_key(first),
            label=self._("weights.variant"),
            elem_id="weights-variant",
        )
        self.tick = LicenceTick(self.context, first.spec, first.variant, elem_id="weights-terms")
        self.line = html(view.announcement(first, counted, self.language), elem_id="weights-line")
        with gr.Row(elem_classes="ah-actions"):
            self.fetch = gr.Button(**self._fetch_button(first, None), variant="primary", elem_id="weights-fetch")
            self.stop = gr.Button(self._("weights.stop"), variant="stop", visible=False, elem_id="weights-stop")
            self.delete = gr.Button("", variant="stop", visible=False, elem_id="weights-delete")
        with gr.Accordion(self._("weights.network"), open=False, elem_classes="ah-fold", elem_id="weights-network"):
            self.network = html(self._network(admin=False))
        self.rights = html(para("ah-dim ah-small", self._("weights.no_admin")))

    def _build_sure(self) -> None:
        with gr.Column(visible=False, elem_classes="ah-card ah-sure", elem_id="weights-sure") as self.sure:
            self.sure_words = html()
            with gr.Row(elem_classes="ah-actions"):
                self.yes = gr.Button("", variant="stop", elem_id="weights-yes")
                self.keep = gr.Button(self._("weights.keep"), elem_id="weights-keep")

    # --- events

    def _wire(self, tab: gr.Tab) -> None:
        given = [self.variant, self.tick.control]
        outputs = [
            *(self.status, self.sure, self.files, self.all, self.totals, self.line, self.fetch, self.stop, self.delete),
            *(self.network, self.rights, self.timer, *self.tick.parts),
        ]
        gr.on([tab.select, self.variant.change], self._choose, given, outputs, trigger_mode="always_last", **QUIET)
        self.fetch.click(self._fetch, given, outputs, **QUIET)
        self.stop.click(self._stop, given, outputs, **QUIET)
        self.timer.tick(self._watch, given, outputs, **QUIET)
        self.delete.click(self._ask, [self.variant], [self.sure, self.sure_words, self.yes, self.status], **QUIET)
        self.keep.click(lambda: gr.update(visible=False), None, [self.sure], **QUIET)
        self.yes.click(self._delete, given, outputs, **QUIET)

    def _choose(self, key: str, ticked: Sequence[str] | None, request: gr.Request) -> Updates:
        return {self.status: "", **self._now(key, request, ticked)}

    def _fetch(self, key: str, ticked: Sequence[str] | None, request: gr.Request) -> Updates:
        state = self._state(key)
        accepted = self.context.engine.accepted | self.tick.accepted(ticked)
        try:
            download = self.downloads.start(state.variant.weights, accepted, session=_session(request))
        except AnyhostError as error:
            return {self.status: failed(error, self.language)}
        download.wait(POLL_S)  # what is small is here at once
        return {**self._now(key, request, ticked), **self._watch(key, ticked, request)}

    def _watch(self, key: str, ticked: Sequence[str] | None, request: gr.Request) -> Updates:
        """What the download of the chosen variant does now; at its end everything is shown anew."""
        download = self._download(key)
        if download is None:
            return {self.timer: gr.Timer(active=False)}
        shot = download.snapshot()
        if not shot.finished:
            state = self._state(key)
            return {
                self.status: view.progress(shot, self.language),
                self.files: self._files(state, request),
                self.timer: gr.Timer(active=True),
                **self._buttons(state, download, request),
            }
        kept = self._state(key).partial_bytes
        return {**self._now(key, request, ticked), self.status: view.ended(shot, kept, self.language)}

    def _stop(self, key: str, ticked: Sequence[str] | None, request: gr.Request) -> Updates:
        download = self._download(key)
        if download is None:
            return self._now(key, request, ticked)
        if download.leave(_session(request), for_all=self.context.administers(request)):
            download.wait(POLL_S)
            return self._watch(key, ticked, request)
        words = notice(self._("weights.left_it"), self._("weights.left_words"), alert=True)
        return {**self._now(key, request, ticked), self.status: words, self.timer: gr.Timer(active=False)}

    def _ask(self, key: str, request: gr.Request) -> list[Any]:
        state = self._state(key)
        if not self.context.administers(request) or not state.deletable:
            return [gr.update(visible=False), "", gr.update(), gr.update()]
        rows = [
            element("li", text(f"{size_text(row.bytes)}  {row.path}"), classes="ah-path") for row in state.deletable
        ]
        others = shared(state, self._states())
        words = [element("h3", text(self._("weights.sure"))), para("", self._("weights.sure_words"))]
        words += [
            element("ul", *rows),
            para("ah-warn", self._("weights.also", names=", ".join(others)) if others else ""),
        ]
        button = gr.update(value=self._("weights.yes", size=size_text(state.deletable_bytes)))
        return [gr.update(visible=True), "".join(words), button, ""]

    def _delete(self, key: str, ticked: Sequence[str] | None, request: gr.Request) -> Updates:
        state, folders = self._state(key), self.context.engine.folders
        try:
            if not self.context.administers(request):
                raise WeightsError(self._("weights.no_admin"))
            if self.downloads.busy_files() & {weights.file for weights in state.variant.weights}:
                raise WeightsError(self._("weights.busy"))
            for row in state.deletable:
                delete(row, folders)
        except WeightsError as error:
            return {**self._now(key, request, ticked), self.status: failed(error, self.language)}
        gone = {"size": size_text(state.deletable_bytes), "count": len(state.deletable)}
        words = notice(self._("weights.deleted"), self._("weights.deleted_words", **gone), alert=True)
        return {**self._now(key, request, ticked), self.status: words}

    # --- what is shown

    def _now(self, key: str, request: gr.Request, ticked: Sequence[str] | None) -> Updates:
        """Everything but the status, for the chosen variant as it is now."""
        states, admin = self._states(), self.context.administers(request)
        state = self._state(key)
        counted, busy = totals(states, self.context.engine.folders), self.downloads.busy_files()
        download = self._download(key)
        running = download is not None and not download.finished
        return {
            self.sure: gr.update(visible=False),
            self.files: self._files(state, request),
            self.all: view.overview(states, busy, self.language),
            self.totals: view.totals_card(counted, self.language),
            self.line: view.announcement(state, counted, self.language),
            self.network: self._network(admin=admin),
            self.rights: para("ah-dim ah-small", self._("weights.admin" if admin else "weights.no_admin")),
            self.timer: gr.Timer(active=running),
            **dict(zip(self.tick.parts, self.tick.shown(state.variant, ticked), strict=True)),
            **self._buttons(state, download, request),
        }

    def _buttons(self, state: VariantState, download: Download | None, request: gr.Request) -> Updates:
        admin = self.context.administers(request)
        running = download is not None and not download.finished
        mine = download is not None and running and download.asked_by(_session(request))
        words = self._("weights.delete", size=size_text(state.deletable_bytes))
        return {
            self.fetch: gr.update(**self._fetch_button(state, download), visible=not mine),
            self.stop: gr.update(visible=mine or (running and admin)),
            self.delete: gr.update(value=words, visible=admin and not running and bool(state.deletable)),
        }

    def _fetch_button(self, state: VariantState, download: Download | None) -> dict[str, Any]:
        size = size_text(state.missing_bytes)
        if download is not None and not download.finished:
            return {"value": self._("weights.join"), "interactive": not download.leaving}
        if not state.missing:
            return {"value": self._("weights.complete"), "interactive": False}
        key = "weights.resume" if state.partial_bytes else "weights.fetch"
        return {"value": self._(key, size=size), "interactive": True}

    def _files(self, state: VariantState, request: gr.Request | None) -> str:
        paths = self.context.administers(request)
        return view.files_card(state, self.downloads.busy_files(), self.language, paths=paths)

    def _network(self, *, admin: bool) -> str:
        return view.network(self.context.engine.folders, self.environ, self.language, paths=admin)

    def _states(self) -> tuple[VariantState, ...]:
        return inventory(ADAPTERS, self.context.engine.folders)

    def _state(self, key: str) -> VariantState:
        """The files of a choice as they are now. Asked at every look at a download: the other variants are left out."""
        return variant_state(*self._chosen(key), self.context.engine.folders)

    def _download(self, key: str) -> Download | None:
        return self.downloads.of(self._chosen(key)[1].weights)

    @staticmethod
    def _chosen(key: str) -> tuple[AdapterSpec, Variant]:
        adapter, _, variant = key.partition("/")
        spec = next(spec for spec in ADAPTERS if spec.name == adapter)
        return spec, spec.variant(variant)

    def _(self, key: str, **figures: object) -> str:
        return label(key, self.language, **figures)


def _key(state: VariantState) -> str:
    return f"{state.spec.name}/{state.variant.name}"


def _session(request: gr.Request) -> str:
    return request.session_hash or ""
