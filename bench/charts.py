"""Bars drawn as SVG: legible at any width, in a light and a dark page alike, and as a file of its own.

The drawing has no view box: bars are shares of the width and words keep their size, on a phone as on a desk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.rows import Row
from kit.parts.markup import element, text

LINE, BAR, GROUP = 40, 8, 30  # pixels of a row, of its bar, and of a heading
FILE_WIDTH, MARGIN = 720, 20
MIB = 2**20
XMLNS = "http://www.w3.org/2000/svg"
# As in the page's style sheet; a file has no other.
FILE_STYLE = """
svg { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; }
.ah-paper { fill: #ffffff; } text { fill: #1c1b19; } .ah-chart-value, .ah-chart-title { font-weight: 600; }
.ah-chart-track { fill: #e9e7e2; } .ah-chart-bar { fill: #459b9b; } .ah-chart-planned { fill: #146668; }
.ah-chart-published { fill: #a5a29a; } .ah-chart-peer { fill: #9a7b3f; } .ah-chart-spread { stroke: #1c1b19; }
@media (prefers-color-scheme: dark) {
  .ah-paper { fill: #1c1b19; } text { fill: #eae7e0; } .ah-chart-track { fill: #34322e; }
  .ah-chart-bar { fill: #459b9b; } .ah-chart-planned { fill: #aed8d5; } .ah-chart-published { fill: #77736a; }
  .ah-chart-peer { fill: #c9a45c; } .ah-chart-spread { stroke: #eae7e0; }
}
"""


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        name: what it is of.
        group: heading above the bars that belong together, "" for none.
        value: its length, above zero.
        words: the value as it is written.
        kind: one of ``bench.rows.Kind``: how it is coloured.
        spread: from where to where the middle half of the measurements lies.
    """

    name: str
    group: str
    value: float
    words: str
    kind: str
    spread: tuple[float, float] | None = None


def svg(bars: Sequence[Bar], title: str) -> str:
    """The bars one below the other, as markup for a page; ``title`` is what a screen reader says."""
    return _drawing(bars, title, width="100%")


def svg_file(bars: Sequence[Bar], title: str) -> str:
    """The bars as a file of their own, with the title on it."""
    return _drawing(bars, title, width=str(FILE_WIDTH), alone=True)


def _drawing(bars: Sequence[Bar], title: str, *, width: str, alone: bool = False) -> str:
    most = max((max(bar.value, bar.spread[1] if bar.spread else 0.0) for bar in bars), default=0.0) or 1.0
    top = 34 if alone else 0
    parts: list[str] = []
    group = ""
    for bar in bars:
        if bar.group and bar.group != group:
            parts.append(element("text", text(bar.group), x="0", y=str(top + 20), classes="ah-chart-title"))
            top += GROUP
        group = bar.group
        parts.append(_bar(bar, most, top))
        top += LINE
    if not alone:
        return element(
            "svg", *parts, classes="ah-chart", width=width, height=str(top), role="img", aria_label=title, xmlns=XMLNS
        )
    head = element("text", text(title), x="0", y="18", classes="ah-chart-title")
    inner = element(
        "svg", head, *parts, x=str(MARGIN), y=str(MARGIN), width=str(FILE_WIDTH - 2 * MARGIN), height=str(top)
    )
    paper = element("rect", width="100%", height="100%", rx="8", classes="ah-paper")
    style = f"<style>{FILE_STYLE}</style>"
    return (
        element(
            "svg",
            style,
            paper,
            inner,
            width=width,
            height=str(top + 2 * MARGIN),
            role="img",
            aria_label=title,
            xmlns=XMLNS,
        )
        + "\n"
    )


def _bar(bar: Bar, most: float, top: int) -> str:
    def share(value: float) -> str:
        return f"{min(100.0, value / most * 100):.2f}%"

    kind = {"adapted": ""}.get(bar.kind, f" ah-chart-{bar.kind}")
    edge, below = str(top + 20), str(top + 20 + BAR + 3)
    drawn = [
        element("text", text(bar.name), x="0", y=str(top + 14)),
        element("text", text(bar.words), x="100%", y=str(top + 14), text_anchor="end", classes="ah-chart-value"),
        element("rect", x="0", y=edge, width="100%", height=str(BAR), rx="4", classes="ah-chart-track"),
        element("rect", x="0", y=edge, width=share(bar.value), height=str(BAR), rx="4", classes=f"ah-chart-bar{kind}"),
    ]
    if bar.spread is not None and bar.spread[1] > bar.spread[0]:
        low, high = (share(value) for value in bar.spread)
        drawn.append(element("line", x1=low, x2=high, y1=below, y2=below, stroke_width="2", classes="ah-chart-spread"))
    return "".join(drawn)


# --- what is drawn of a table -------------------------------------------------------------------------------------

Name = Callable[[Row], str]


def time_bars(rows: Sequence[Row], name: Name, group: Name) -> list[Bar]:
    """Milliseconds a picture: the median, and from quartile to quartile."""
    found = [(row, row.ms_per_image) for row in rows]
    return [
        Bar(name(row), group(row), ms.median, f"{ms.median:.1f} ms", row.kind, (ms.low, ms.high))
        for row, ms in found
        if ms is not None
    ]


def rate_bars(rows: Sequence[Row], name: Name, group: Name) -> list[Bar]:
    """Pictures a second."""
    return [
        Bar(name(row), group(row), row.images_per_second, f"{row.images_per_second:.1f}/s", row.kind)
        for row in rows
        if row.images_per_second
    ]


def memory_bars(rows: Sequence[Row], name: Name, group: Name) -> list[Bar]:
    """Peak memory."""
    return [
        Bar(name(row), group(row), row.peak / MIB, f"{row.peak / MIB:.0f} MiB", row.kind) for row in rows if row.peak
    ]
