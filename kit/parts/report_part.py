"""A report bundle of the last run, below the plan's card: what was run and why, to be replayed elsewhere."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from kit.parts.markup import para
from kit.parts.plain import html
from kit.parts.saving import Saving
from kit.texts.labels import label
from loader.bundle import Bundle, bundle_of, write_bundle
from loader.outcome import Result
from loader.plan import Plan

KEPT_SECONDS = 3600

Updates = Mapping[Any, Any]


class ReportPart:
    """A button that saves the bundle, there once a run has ended.

    Args:
        language: of the words.
        status: where an error is shown.
        prefix: of element ids.

    Attributes:
        bundle: the visitor's.
        outputs: everything the updates set.
    """

    def __init__(self, language: str, status: gr.HTML, prefix: str) -> None:
        self.bundle = gr.State(None, time_to_live=KEPT_SECONDS)
        self.saving = Saving(language, status)
        with gr.Row(visible=False, elem_classes="ah-report", elem_id=f"{prefix}-report") as self.box:
            self.button = gr.Button(label("bundle.save", language), size="sm", elem_id=f"{prefix}-report-save")
            html(para("ah-dim", label("bundle.words", language)))
        self.outputs = [self.bundle, self.box]
        self.saving.on(self.button, _save, [self.bundle])

    def of(self, result: Result) -> Updates:
        """Of a run that ended well."""
        return self._shown(bundle_of(replace(result, outputs=())))

    def of_error(self, error: Exception, planned: Plan) -> Updates:
        """Of a run that an error ended, ``planned`` where that was before it began."""
        ended: Result | None = getattr(error, "ended", None)
        return self._shown(bundle_of(ended or planned, error))

    def none(self) -> Updates:
        """Of a run that has only begun."""
        return {self.bundle: None, self.box: gr.update(visible=False)}

    def _shown(self, bundle: Bundle) -> Updates:
        return {self.bundle: bundle, self.box: gr.update(visible=True)}


def _save(folder: Path, bundle: Bundle | None) -> Path | None:
    if bundle is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{bundle.plan.adapter}-{bundle.plan.variant}-report.json"
    write_bundle(path, bundle)
    return path
