"""Links from the page in one language to the same page in another. The address is what remembers the choice."""

from kit.parts.markup import element, text
from kit.texts import LANGUAGES
from kit.texts.labels import label

CODES = {"en": "en", "zh": "zh-Hans"}  # BCP 47
# Theme and the like stand in the query; the other language keeps them.
KEEP_QUERY = """for (const link of element.querySelectorAll("a[data-language]")) link.search = location.search;"""


def language_links(language: str, first: str) -> str:
    """Every language by its own name: a link, or plain text for the one being read.

    Args:
        language: of this page.
        first: the one the page has without a path.
    """
    items = [element("li", _link(other, language, first)) for other in LANGUAGES]
    return element("nav", element("ul", *items), classes="ah-languages", aria_label=label("language.title", language))


def _link(other: str, language: str, first: str) -> str:
    name, code = text(label("language.name", other)), CODES.get(other, other)
    if other == language:
        return element("span", name, lang=code, aria_current="page")
    # Relative, for the page may be served below a path: from ``/`` to ``zh``, from ``/zh`` back to ``./``.
    address = "./" if other == first else other
    return element("a", name, href=address, lang=code, hreflang=code, data_language=other)
