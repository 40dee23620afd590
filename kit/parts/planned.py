"""The tab of a model whose network is not in yet: what it would do here, and what that would take."""

import gradio as gr

from kit.parts.context import PageContext
from kit.parts.intro import intro
from kit.parts.plain import html
from kit.parts.planning import Planning
from kit.parts.states import notice
from kit.parts.wishes_panel import WishesPanel
from kit.texts.labels import label
from loader.spec import AdapterSpec
from loader.wishes import Wishes


def planned_tab(context: PageContext, spec: AdapterSpec) -> None:
    """Plan card and wishes of ``spec`` on this host; nothing to run."""
    language = context.language
    planning = Planning(context, spec, runnable=False)
    with gr.Row(elem_classes="ah-columns"):
        with gr.Column(scale=5, min_width=320, elem_classes="ah-side"):
            html(intro(spec, language))
            html(notice(label("planned.title", language), label("planned.words", language, model=spec.title)))
            with gr.Accordion(label("wish.title", language), open=True, elem_classes="ah-fold"):
                panel = WishesPanel(context, spec)
        with gr.Column(scale=8, min_width=320, elem_classes="ah-main"):
            card = html(planning.show(Wishes()).card)
    planning.wire(panel, card)
