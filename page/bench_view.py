"""What the page of benchmarks shows: how far one has come, tables beside their charts, and figures while serving."""

from collections.abc import Callable, Mapping, Sequence

from adapters import adapter
from bench.charts import MIB, Bar, memory_bars, rate_bars, svg, time_bars
from bench.rows import Progress, Report, Row
from bench.session import Snapshot
from kit.parts.markup import div, element, meter, para, sentence, span, table, text
from kit.parts.states import notice
from kit.texts import LANGUAGES
from kit.texts.labels import label, name_of
from kit.texts.report import seconds_text
from loader.folders import size_text
from loader.host import GIB
from loader.live import Figures

NONE = "–"
# Milliseconds of DAMO-YOLO on an RTX 4090 as they circulate, by what was done, and which of our rows is the like of it.
PUBLISHED: Mapping[str, tuple[float, str]] = {
    "fp32": (45.2, "as published"),
    "low": (32.1, "merged bf16"),
    "compile": (28.7, "merged fp32, compiled"),
    "both": (21.5, "merged bf16, compiled"),
}
# How kinds of errors are called; any other is a failed run.
ERRORS: Mapping[str, str] = {
    "InputError": "error.input",
    "DoesNotFitError": "error.refused",
    "LicenceNotAcceptedError": "error.terms",
    "WeightsError": "error.weights",
    "WeightsUnavailableError": "error.weights",
    "CheckpointMismatchError": "error.weights",
}


# --- a bench under way ------------------------------------------------------------------------------------------


def progress(shot: Snapshot, language: str) -> str:
    """What the bench does now, or how it ended; nothing where it gave a report."""
    if shot.state == "stopped":
        return notice(label("state.stopped", language), label("state.stopped_words", language))
    if shot.state == "failed":
        words = label("bench.failed_words", language, error=shot.error)
        return notice(label("bench.failed", language), words, alert=True)
    return _under_way(shot, language) if shot.going_on else ""


def _under_way(shot: Snapshot, language: str) -> str:
    now = shot.progress
    if shot.state == "waiting" or now is None:
        words = label("bench.stage.waiting" if shot.state == "waiting" else "bench.stage.start", language)
        return div("ah-card ah-progress", _spoken(words, ""), meter(None, words, ""))
    words = label(f"bench.stage.{now.stage}", language, config=config_words(now.config, language))
    amount = label("bench.pieces", language, done=now.done, total=now.total)
    share = now.done / now.total if now.total else None
    return div("ah-card ah-progress", _spoken(words, amount), meter(share, words, amount))


def _spoken(words: str, amount: str) -> str:
    return div(
        "ah-progress-words",
        element("strong", text(words), data_say=""),
        element("span", text(amount), classes="ah-dim"),
    )


def rows_so_far(now: Progress | None, asked: str) -> tuple[Row, ...]:
    """Rows of the adapter that have a time already."""
    return () if now is None else tuple(row for row in now.rows if row.adapter == asked and row.ms is not None)


# --- tables and charts ------------------------------------------------------------------------------------------


def results(found: Report | None, language: str, *, note: str = "") -> str:
    """Every table of a report with its charts; ``note`` says where it comes from."""
    if found is None or not found.rows:
        return div("ah-card", para("ah-dim", label("bench.none", language)))
    return "".join(_result(found, rows, language, note) for rows in found.tables())


def _result(found: Report, rows: Sequence[Row], language: str, note: str) -> str:
    name, machine = _title(rows, language), found.machine
    words = label(
        "bench.machine",
        language,
        title=machine.title,
        gib=f"{machine.ram_bytes / GIB:.0f}",
        torch=machine.torch,
        date=machine.date,
        weights=_weights(rows[0].weights, language),
    )
    pill = span("ah-pill ah-quiet", note) if note else ""
    return element(
        "section",
        element("header", element("h3", text(name)), pill, classes="ah-head"),
        para("ah-dim", words),
        para("ah-headline", _headline(rows, language)),
        para("ah-dim", "" if all(row.quiet for row in rows) else label("bench.disturbed", language)),
        _charts(rows, name, language),
        _table(rows, name, language),
        classes="ah-card ah-bench",
        aria_label=name,
    )


def _title(rows: Sequence[Row], language: str) -> str:
    first = rows[0]
    title = adapter(first.adapter).title
    return label("bench.of", language, model=title, variant=first.variant, height=first.size[0], width=first.size[1])


def _weights(name: str, language: str) -> str:
    return LANGUAGES[language].PROVENANCE.get(name, name_of("bench.weights", name, language))


def _headline(rows: Sequence[Row], language: str) -> str:
    """The planned row against the first, at the smallest batch."""
    planned = next((row for row in rows if row.kind == "planned" and row.ms_per_image and row.speed_up), None)
    first = next((row for row in rows if row.kind == "published" and row.ms_per_image), None)
    if planned is None or first is None or planned.ms_per_image is None or first.ms_per_image is None:
        return ""
    return label(
        "bench.headline",
        language,
        planned=f"{planned.ms_per_image.median:.1f}",
        first=f"{first.ms_per_image.median:.1f}",
        times=f"{planned.speed_up:.1f}",
    )


def _charts(rows: Sequence[Row], title: str, language: str) -> str:
    """Charts of the smallest batch, and those of each larger one folded away: all of them were twelve screens."""
    batches = sorted({row.batch for row in rows})
    first, *others = (
        _charts_of([row for row in rows if row.batch == batch], title, batch if len(batches) > 1 else 0, language)
        for batch in batches
    )
    folded = "".join(
        element(
            "details", element("summary", text(label("bench.batch", language, count=batch))), charts, classes="ah-why"
        )
        for batch, charts in zip(batches[1:], others, strict=True)
        if charts
    )
    drawn = first + folded
    return drawn + para("ah-dim ah-small", label("bench.chart.key", language)) if drawn else ""


def _charts_of(rows: Sequence[Row], title: str, batch: int, language: str) -> str:
    """Time, throughput and memory of rows of one batch, which is named where it is not 0."""

    def name(row: Row) -> str:
        return config_words(row.config, language)

    at_once = label("bench.batch", language, count=batch) if batch else ""
    drawn: list[str] = []
    for key, draw in (("time", time_bars), ("rate", rate_bars), ("memory", memory_bars)):
        bars: list[Bar] = draw(rows, name, lambda _: "")
        if bars:
            what = ", ".join(words for words in (label(f"bench.chart.{key}", language), at_once) if words)
            figure = element("figcaption", text(what)) + svg(bars, f"{title}: {what}")
            drawn.append(element("figure", figure))
    return div("ah-charts", *drawn) if drawn else ""


def _table(rows: Sequence[Row], title: str, language: str) -> str:
    columns = ("config", "batch", "median", "spread", "rate", "speed", "memory", "drift", "rounds", "quiet")
    head = [label(f"bench.col.{column}", language) for column in columns]
    return table(
        head,
        [_cells(row, language) for row in rows],
        caption=label("bench.as_table", language, what=title),
        classes="ah-numbers",
    )


def _cells(row: Row, language: str) -> list[str]:
    ms = row.ms_per_image
    named = text(config_words(row.config, language))
    if ms is None:
        return [named, str(row.batch), text(row.error or NONE), *[NONE] * 7]
    return [
        element("strong", named) if row.kind == "planned" else named,
        str(row.batch),
        f"{ms.median:.1f}",
        f"{ms.low:.1f}–{ms.high:.1f}",
        NONE if row.images_per_second is None else f"{row.images_per_second:.1f}",
        NONE if row.speed_up is None else text(label("bench.times", language, times=f"{row.speed_up:.2f}")),
        NONE if row.peak is None else f"{row.peak / MIB:.0f} MiB",
        NONE if row.drift is None else f"{row.drift:.4f}",
        str(row.repeats),
        text(label("bench.yes" if row.quiet else "bench.no", language)),
    ]


def config_words(config: str, language: str) -> str:
    """A configuration's name in the reader's language, part by part."""
    return label("live.join", language).join(name_of("bench.config", part, language) for part in config.split(", "))


def reference(found: Report | None, language: str) -> str:
    """The figures that circulate for DAMO-YOLO beside the rows that are alike, at one picture at once."""
    rows = {row.config: row for row in (found.rows if found is not None else ()) if row.batch == 1}
    head = [
        label("bench.reference.what", language),
        label("bench.reference.there", language),
        label("bench.reference.here", language),
    ]
    first = rows.get("as published")
    lines = [
        [
            text(label(f"bench.reference.{key}", language)),
            text(_against(there, PUBLISHED["fp32"][0])),
            _like(rows.get(like), first),
        ]
        for key, (there, like) in PUBLISHED.items()
    ]
    planned = [text(config_words("planned", language)), NONE, _like(rows.get("planned"), first)]
    title = label("bench.reference", language)
    return element(
        "section",
        element("h3", text(title)),
        para("ah-dim", label("bench.reference_words", language)),
        table(head, [*lines, planned], caption=label("bench.as_table", language, what=title), classes="ah-numbers"),
        classes="ah-card",
        aria_label=title,
    )


def _like(row: Row | None, first: Row | None) -> str:
    ms, base = (None if one is None else one.ms_per_image for one in (row, first))
    if ms is None:
        return NONE
    return text(_against(ms.median, ms.median if base is None else base.median))


def _against(ms: float, base: float) -> str:
    share = (ms / base - 1) * 100
    return f"{ms:.1f} ms" + ("" if abs(share) < 0.05 else f" ({share:+.1f} %)".replace("-", "−"))


# --- while serving ----------------------------------------------------------------------------------------------


def live(all_figures: Sequence[Figures], held: Callable[[str], int], language: str) -> str:
    """Numbers and small charts of every model that ran; ``held`` gives the bytes of its weights in memory now."""
    title = label("live.title", language)
    models = [_model(figures, held(figures.adapter), language) for figures in all_figures]
    return element(
        "section",
        element("h3", text(title)),
        para("ah-dim", label("live.words", language)),
        *(models or [para("", label("live.none", language))]),
        classes="ah-card ah-live",
        aria_label=title,
    )


def _model(figures: Figures, held: int, language: str) -> str:
    def _(key: str, **values: object) -> str:
        return label(f"live.{key}", language, **values)

    count = len(figures.seconds)
    peaks = [float(peak) for peak in figures.peaks]
    errors = {name_of_error(kind, language): number for kind, number in figures.errors.items()}
    events = {LANGUAGES[language].EVENTS.get(event, event): number for event, number in figures.events.items()}
    facts = (
        _fact(
            _("time"),
            seconds_text(figures.average) if count else NONE,
            _spark(figures.seconds, _("times_chart", count=count)),
        ),
        _fact(_("rate"), f"{figures.per_minute:.1f}", para("", _("items", count=figures.items))),
        _fact(_("memory"), size_text(peaks[-1]) if peaks else NONE, _spark(peaks, _("memory_chart", count=count))),
        _fact(_("held"), size_text(held) if held else NONE, ""),
        _fact(_("runs"), str(figures.runs), para("", _("stopped", count=figures.stopped) if figures.stopped else "")),
        _fact(_("events"), str(sum(events.values()) or _("nothing")), para("", _counted(events, language))),
        _fact(_("errors"), str(sum(errors.values()) or _("nothing")), para("", _counted(errors, language))),
    )
    return element(
        "section",
        element("h4", text(adapter(figures.adapter).title)),
        element("dl", *facts, classes="ah-facts ah-live-facts"),
        aria_label=adapter(figures.adapter).title,
    )


def _fact(name: str, value: str, below: str) -> str:
    return div("ah-fact", element("dt", text(name)), element("dd", element("strong", text(value)), below))


def _counted(counts: Mapping[str, int], language: str) -> str:
    said = [
        label("live.one", language, what=sentence(what).rstrip(".。"), count=count) for what, count in counts.items()
    ]
    return label("live.join", language).join(said)


def name_of_error(kind: str, language: str) -> str:
    """What a kind of error is called on the page."""
    return label(ERRORS.get(kind, "error.run"), language)


def _spark(values: Sequence[float], title: str) -> str:
    """A line of the last values from zero up; nothing for fewer than two."""
    if len(values) < 2:
        return ""
    most, last = max(values) or 1.0, len(values) - 1
    points = " ".join(f"{100 * i / last:.1f},{23 - 21 * value / most:.1f}" for i, value in enumerate(values))
    line = element("polyline", points=points)
    return element(
        "svg", line, classes="ah-spark", viewBox="0 0 100 24", preserveAspectRatio="none", role="img", aria_label=title
    )
