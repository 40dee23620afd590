"""HTML components without Gradio's own styling and scripts: the page's style sheet is the only one."""

import gradio as gr


def html(value: str = "", *, elem_id: str | None = None, js: str | None = None) -> gr.HTML:
    """A component that shows markup made by this project; ``js`` runs once it is there, with its ``element``."""
    return gr.HTML(value, apply_default_css=False, js_on_load=js, elem_id=elem_id, elem_classes="ah-html")
