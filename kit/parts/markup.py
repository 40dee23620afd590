"""HTML in small pieces. Everything that is not markup written here is escaped: file names come from strangers."""

import html
from collections.abc import Iterable


def text(value: object) -> str:
    """``value`` as text inside an element or an attribute."""
    return html.escape(str(value), quote=True)


def element(tag: str, *children: str, classes: str = "", **attributes: str | None) -> str:
    """``<tag …>children</tag>``. Children are markup already; attributes are escaped, None leaves one out.

    An underscore in an attribute's name stands for a hyphen (``aria_label``).
    """
    named = {"class": classes or None, **{name.replace("_", "-"): value for name, value in attributes.items()}}
    written = "".join(f' {name}="{text(value)}"' for name, value in named.items() if value is not None)
    return f"<{tag}{written}>{''.join(children)}</{tag}>"


def div(classes: str, *children: str, **attributes: str | None) -> str:
    """A block of a class."""
    return element("div", *children, classes=classes, **attributes)


def span(classes: str, value: object, **attributes: str | None) -> str:
    """Text of a class."""
    return element("span", text(value), classes=classes, **attributes)


def para(classes: str, value: object) -> str:
    """A paragraph of plain text, nothing for an empty one."""
    return element("p", text(value), classes=classes) if str(value) else ""


def bar(share: float, label: str, *, tone: str = "") -> str:
    """A horizontal bar filled to ``share`` (0..1, more is shown full); ``label`` is what a screen reader says."""
    width = max(0.0, min(1.0, share)) * 100
    fill = element("span", style=f"width:{width:.2f}%", classes=f"ah-fill {tone}".strip())
    return element("span", fill, classes="ah-bar", role="img", aria_label=label)


def meter(share: float | None, name: str, words: str) -> str:
    """How far something has come.

    Args:
        share: 0..1; None where nobody knows, shown as a bar that runs.
        name: of what is under way.
        words: the amount done as a screen reader should say it.
    """
    if share is None:
        return div("ah-bar ah-running", element("span"), role="progressbar", aria_label=name)
    percent = max(0.0, min(1.0, share)) * 100
    fill = element("span", style=f"width:{percent:.2f}%", classes="ah-fill")
    return div(
        "ah-bar",
        fill,
        role="progressbar",
        aria_label=name,
        aria_valuemin="0",
        aria_valuemax="100",
        aria_valuenow=f"{percent:.0f}",
        aria_valuetext=words or None,
    )


def table(head: Iterable[str], rows: Iterable[Iterable[str]], *, caption: str, classes: str = "") -> str:
    """A table that scrolls by itself where it is wider than the page. Cells are markup already."""
    top = element("tr", *(element("th", text(name), scope="col") for name in head))
    body = "".join(element("tr", *(element("td", cell) for cell in row)) for row in rows)
    whole = element(
        "table",
        element("caption", text(caption), classes="ah-hidden"),
        element("thead", top),
        element("tbody", body),
        classes="ah-table",
    )
    return div(f"ah-scroll {classes}".strip(), whole, tabindex="0", role="region", aria_label=caption)


def link(url: str, label: str) -> str:
    """A link to elsewhere, or plain text where there is no address."""
    if not url.startswith(("https://", "http://")):
        return text(label)
    return element("a", text(label), href=url, target="_blank", rel="noopener noreferrer")


def sentence(words: str) -> str:
    """``words`` with a capital and a full stop. A name in front (bf16, head.scales) keeps its spelling."""
    words = words.strip().rstrip(":,;")
    if not words:
        return ""
    stop = "。" if words[-1] > "\u2e7f" else "."  # Chinese words end in Chinese punctuation
    ended = words if words[-1] in ".!?…。！？" else f"{words}{stop}"
    first = ended.split(maxsplit=1)[0].rstrip(",.:;!?…")
    return ended[0].upper() + ended[1:] if first.isalpha() else ended
