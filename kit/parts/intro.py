"""The head of a tab: what the model does and where it comes from."""

from kit.parts.markup import div, element, link, text
from kit.texts.labels import label, name_of
from loader.spec import AdapterSpec


def intro(spec: AdapterSpec, language: str) -> str:
    """Title, task and upstream of a model."""
    origin = element(
        "p",
        text(label("intro.upstream", language)),
        " ",
        link(f"https://github.com/{spec.upstream}", spec.upstream),
        classes="ah-dim",
    )
    task = name_of("task", spec.name, language)
    words = element("p", text(label(f"intro.{spec.name}", language)))
    return div("ah-intro", element("h2", text(task)), words, origin)
