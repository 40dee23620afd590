"""What the page has for a keyboard and a screen reader alone: links past its parts, and the words of ``access.js``."""

import json

from kit.parts.markup import element, text
from kit.texts.labels import label

# Said by the script of the page; {name} and the like are filled in there.
SCRIPT_WORDS = {
    "remove": ("name",),
    "space": ("name",),
    "left": ("name",),
    "right": ("name",),
    "share": ("share",),
    "point": (),
    "cross": ("x", "y"),
}


def access(language: str) -> str:
    """Links to the controls and to the result of the tab that is open, seen when they have the focus, and the words."""
    links = (_skip("to_controls", ".ah-side", language), _skip("to_result", ".ah-main", language))
    skips = element("nav", *links, classes="ah-skips", aria_label=label("access.skips", language))
    words = {
        key: label(f"access.{key}", language, **{name: f"{{{name}}}" for name in names})
        for key, names in SCRIPT_WORDS.items()
    }
    spoken = json.dumps(words, ensure_ascii=False)
    return skips + element("span", id="ah-words", data_language=_tag(language), data_words=spoken, hidden="")


def _skip(key: str, goal: str, language: str) -> str:
    # Without its script the link leads to the tabs, which have the address.
    return element("a", text(label(f"access.{key}", language)), href="#tabs", data_skip=goal)


def _tag(language: str) -> str:
    return {"zh": "zh-Hans"}.get(language, language)
