"""Terms of the planned weights, to be read and ticked before these are fetched or run."""

from collections.abc import Collection, Sequence
from typing import Any

import gradio as gr

from kit.parts.context import QUIET, PageContext
from kit.parts.markup import div, element, link, para, text
from kit.parts.plain import html
from kit.parts.planning import Planning
from kit.parts.wishes_panel import WishesPanel
from kit.texts.labels import label
from loader.acceptance import Terms, open_terms, terms_of
from loader.errors import InputError
from loader.folders import size_text
from loader.spec import AdapterSpec, Variant
from loader.wishes import Wishes


class LicenceTick:
    """The terms a model's planned variant asks for, one tick each; nothing is shown where it asks for none.

    What is ticked belongs to one open page of one visitor: it is a value of ``control`` and travels with the request
    to ``Engine.run(..., accepted=...)``. Terms that the engine has as accepted for everybody are named, not asked for.

    Args:
        context: of the page.
        spec: the model.
        variant: whose terms to begin with; the one planned without wishes where it is left out.
        elem_id: of the ticks, ``<name of the model>-terms`` by default.

    Attributes:
        terms: names, links, notes and covered bytes.
        control: the ticks; its value goes to ``accepted``.
    """

    def __init__(
        self, context: PageContext, spec: AdapterSpec, variant: Variant | None = None, *, elem_id: str | None = None
    ) -> None:
        self.context, self.spec = context, spec
        planned = variant or self._planned(Wishes())
        self.terms = html(self.markup(planned))
        self.control = gr.CheckboxGroup(
            **self._choices(planned),
            value=[],
            show_label=False,
            container=False,
            elem_id=elem_id or f"{spec.name}-terms",
        )

    @property
    def parts(self) -> list[Any]:
        """What ``shown`` updates, in its order."""
        return [self.terms, self.control]

    def accepted(self, values: Collection[str] | None) -> frozenset[str]:
        """Names of licences ticked, from the value of ``control``."""
        return frozenset(values or ())

    def shown(self, variant: Variant, ticked: Collection[str] | None = None) -> list[Any]:
        """Updates of ``parts`` for a variant; ticks that still apply stay."""
        names = {terms.licence.name for terms in self._open(variant)}
        kept = [name for name in ticked or () if name in names]
        return [self.markup(variant), gr.update(**self._choices(variant), value=kept)]

    def wire(self, panel: WishesPanel, planning: Planning) -> None:
        """Follow the wishes: another variant may come under other terms."""

        def again(ticked: Sequence[str] | None, *values: Any) -> list[Any]:
            try:
                return self.shown(self._variant(planning.plan(panel.read(values)).variant), ticked)
            except InputError:
                return [gr.update(), gr.update()]

        triggers = [control.change for control in panel.controls]
        gr.on(triggers, again, [self.control, *panel.controls], self.parts, trigger_mode="always_last", **QUIET)

    def markup(self, variant: Variant) -> str:
        """The terms of a variant's weights as a card, "" where none have to be accepted."""
        language = self.context.language
        asked = self._open(variant)
        standing = [t.licence for t in terms_of(variant.weights) if t not in asked]
        said = para("ah-dim", label("terms.deployer", language, names=_names(standing))) if standing else ""
        if not asked:
            return said
        items = [element("li", *self._item(terms)) for terms in asked]
        return div(
            "ah-terms",
            element("h3", text(label("terms.title", language))),
            element("ul", *items),
            para("ah-dim", label("terms.line", language)),
            said,
        )

    def _item(self, terms: Terms) -> tuple[str, ...]:
        language, licence = self.context.language, terms.licence
        count = len(terms.weights)
        files = label("terms.file" if count == 1 else "terms.files", language, count=count)
        covers = label("terms.covers", language, files=files, size=size_text(terms.bytes))
        return (element("strong", link(licence.url, licence.name)), para("", licence.note), para("ah-dim", covers))

    def _choices(self, variant: Variant) -> dict[str, Any]:
        names = [terms.licence.name for terms in self._open(variant)]
        words = [label("terms.accept", self.context.language, name=name) for name in names]
        return {"choices": list(zip(words, names, strict=True)), "visible": bool(names)}

    def _open(self, variant: Variant) -> tuple[Terms, ...]:
        return open_terms(variant.weights, self.context.engine.accepted)

    def _planned(self, wishes: Wishes) -> Variant:
        return self._variant(self.context.engine.plan(self.spec, wishes).variant)

    def _variant(self, name: str) -> Variant:
        """A refused plan may name no variant there is; its terms are then those of the default."""
        names = {variant.name for variant in self.spec.variants}
        return self.spec.variant(name if name in names else self.spec.default)


def _names(licences: Sequence[Any]) -> str:
    return ", ".join(licence.name for licence in licences)
