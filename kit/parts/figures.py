"""After a run: predicted against measured, and what the ladder did."""

from kit.parts.markup import div, element, para, sentence, text
from kit.parts.memory_bars import measured_bars, pair
from kit.texts import LANGUAGES
from kit.texts.labels import label, name_of
from kit.texts.report import seconds_text
from loader.folders import size_text
from loader.outcome import Result, TraceEntry


def figures(result: Result, language: str, *, requests: int | None = None) -> str:
    """What the run took beside what the plan said, and its trace.

    Args:
        result: the run.
        language: of the words.
        requests: how many of the plan's batches the run was made of, where that is not what its items say.
    """
    made = result.plan
    pools = ("device", "host") if made.peak_bytes["device"] else ("host",)
    head = element("h3", text(label("figures.title", language)))
    predicted = result.predicted_seconds if requests is None else made.predicted_seconds * requests
    rows = [
        pair(
            label("fact.time", language),
            (predicted, seconds_text(predicted)),
            (result.seconds, result_time(result)),
            language,
        ),
        *(_memory(result, pool, language, alone=len(pools) == 1) for pool in pools),
    ]
    keys = div(
        "ah-legend",
        element("span", text(label("figures.predicted", language)), classes="ah-key ah-predicted"),
        element("span", text(label("figures.measured", language)), classes="ah-key ah-measured"),
    )
    return element(
        "section",
        element("header", head, keys, classes="ah-head"),
        element("p", text(ran(result, language)), classes="ah-headline", data_say=""),
        *rows,
        measured_bars(result, language),
        para("ah-dim", _loading(result, language)),
        trace(result.trace, language),
        classes="ah-card ah-figures",
        aria_label=label("figures.title", language),
    )


def _memory(result: Result, pool: str, language: str, *, alone: bool) -> str:
    name, before, after = label("fact.memory", language), result.plan.peak_bytes[pool], result.peak_bytes.get(pool, 0)
    if not alone:
        name = name_of("device", result.plan.device, language) if pool == "device" else label("bars.ram", language)
    return pair(name, (before, size_text(before)), (after, size_text(after)), language)


def ran(result: Result, language: str) -> str:
    """What ran where, in which precision, on which weights."""
    made = result.plan
    return label(
        "figures.ran",
        language,
        model=f"{made.situation.spec.title} {made.variant}",
        device=name_of("device", made.device, language),
        dtype=" + ".join(dict.fromkeys(p.compute_dtype for p in made.components)),
        height=made.size[0],
        width=made.size[1],
        weights=LANGUAGES[language].PROVENANCE.get(result.weights, result.weights),
    )


def result_time(result: Result) -> str:
    """Seconds the run took."""
    return seconds_text(result.seconds)


def _loading(result: Result, language: str) -> str:
    if not result.load_seconds:
        return label("figures.loaded", language)
    return label("figures.loading", language, seconds=seconds_text(result.load_seconds))


def trace(entries: tuple[TraceEntry, ...], language: str) -> str:
    """What did not go as first planned, step by step."""
    title = element("h4", text(label("trace.title", language)))
    if not entries:
        return title + para("ah-dim", label("trace.nothing", language))
    items = [
        element(
            "li",
            element("strong", text(sentence(LANGUAGES[language].EVENTS.get(entry.event, entry.event)))),
            para("", sentence(label("trace.entry", language, unit=entry.unit, why=entry.why))),
            para("ah-flips", label("trace.change", language, change=entry.plan_change)) if entry.plan_change else "",
        )
        for entry in entries
    ]
    return title + element("ol", *items, classes="ah-trace")
