"""The tick by which a visitor says that a person's picture may be used."""

import gradio as gr

from kit.texts.labels import label


def consent_tick(language: str, *, elem_id: str | None = None) -> gr.Checkbox:
    """Off on every visit: consent is for one person's picture, not for a browser."""
    return gr.Checkbox(
        value=False,
        label=label("consent.tick", language),
        info=label("consent.info", language),
        elem_id=elem_id,
        elem_classes="ah-consent",
    )
