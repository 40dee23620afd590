"""The page of weights as markup: what is here, file by file, and how a download goes."""

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from kit.parts.markup import bar, div, element, link, para, span, table, text
from kit.parts.states import failed, notice
from kit.texts import stage
from kit.texts.labels import label
from kit.texts.report import seconds_text
from kit.texts.weights_report import announced, checksum_words, file_words, origin_of, variant_words
from loader import hub
from loader.downloads import Snapshot, stopped
from loader.folders import Folders, size_text
from loader.inventory import FileState, Totals, VariantState
from loader.spec import Weights


def name_of_variant(state: VariantState) -> str:
    """Model, variant and what that is, for a list of choices."""
    return f"{state.spec.title} {state.variant.name}: {state.variant.title}"


# --- all variants -----------------------------------------------------------------------------------------------


def overview(states: Sequence[VariantState], busy: frozenset[str], language: str) -> str:
    """Every variant in one table, model by model."""
    head = [label(f"weights.{name}", language) for name in ("variant", "state", "size", "licence")]
    rows = (_variant_row(state, busy, language) for state in states)
    title = label("weights.all", language)
    return element(
        "section",
        element("h3", text(title)),
        table(head, rows, caption=title, classes="ah-weights-all ah-list"),
        classes="ah-card",
        aria_label=title,
    )


def _variant_row(state: VariantState, busy: frozenset[str], language: str) -> tuple[str, ...]:
    words, tone = _variant_words(state, busy, language)
    return (
        element("strong", text(f"{state.spec.title} {state.variant.name}")) + para("ah-dim", state.variant.title),
        span(f"ah-pill {tone}", words),
        text(size_text(state.bytes)),
        "<br>".join(link(licence.url, licence.name) for licence in state.licences),
    )


def _variant_words(state: VariantState, busy: frozenset[str], language: str) -> tuple[str, str]:
    if any(f.weights.file in busy for f in state.missing):
        return label("weights.coming", language), "ah-busy"
    return variant_words(state, language)


# --- one variant ------------------------------------------------------------------------------------------------


def files_card(state: VariantState, busy: frozenset[str], language: str, *, paths: bool) -> str:
    """Every file of a variant: state, size, licence, checksum; where it lies only with ``paths``."""
    head = [label(f"weights.{name}", language) for name in ("file", "state", "size", "licence", "checksum")]
    title = label("weights.files_of", language, name=f"{state.spec.title} {state.variant.name}")
    words, tone = _variant_words(state, busy, language)
    notes = [
        para("ah-dim ah-breaks", label("weights.passed", language, why=why))
        for f in state.files
        for why in f.passed_over
        if paths
    ]
    return element(
        "section",
        element("header", element("h3", text(title)), span(f"ah-pill {tone}", words), classes="ah-head"),
        table(head, (_file_row(f, busy, language, paths=paths) for f in state.files), caption=title, classes="ah-list"),
        *notes,
        classes="ah-card ah-weights",
        aria_label=title,
    )


def _file_row(state: FileState, busy: frozenset[str], language: str, *, paths: bool) -> tuple[str, ...]:
    weights, below = state.weights, ""
    words, tone = file_words(state, language)
    where = label("weights.from", language, origin=origin_of(weights))
    if state.found is not None:
        where = label(f"weights.origin.{state.found.origin}", language)
        below = para("ah-dim ah-path", state.found.path) if paths else ""
    elif weights.file in busy:
        words, tone = label("weights.coming", language), "ah-busy"
    size = state.found.bytes if state.found else weights.bytes
    licence = weights.licence
    return (
        element("strong", text(weights.file)) + para("ah-dim", where) + below,
        span(f"ah-pill {tone}", words),
        text(size_text(size)),
        link(licence.url, licence.name),
        _sum(state) + para("ah-dim", checksum_words(state, language)),
    )


def _sum(state: FileState) -> str:
    if not state.sha256:
        return ""
    return element("code", text(f"{state.sha256[:12]}…"), title=state.sha256)


def announcement(state: VariantState, totals: Totals, language: str) -> str:
    """What a click would fetch, how large that is, from where, and whether there is room for it."""
    on_hub = sum(f.missing_bytes for f in state.missing if _goes_to_hub(f.weights))
    needs = (
        (on_hub, totals.free_hub, "HF_HOME"),
        (state.missing_bytes - on_hub, totals.free, "ANYHOST_CACHE"),
    )
    short = [
        label("weights.short", language, free=size_text(free), short=size_text(need - free), variable=variable)
        for need, free, variable in needs
        if need > free
    ]
    words = para("ah-line ah-breaks", announced(state, language))
    return words + "".join(para("ah-line ah-bad", line) for line in short)


def _goes_to_hub(weights: Weights) -> bool:
    first = next((s for s in weights.sources if s.kind != "asset"), None)
    return first is not None and first.kind == "hub"


# --- a download -------------------------------------------------------------------------------------------------


def progress(shot: Snapshot, language: str) -> str:
    """A download on its way: which file, how much, how fast, how long still."""
    told = shot.progress
    if told is None:
        line = div("ah-progress-words", element("strong", text(label("weights.beginning", language))))
        return _panel(line, div("ah-bar ah-running", element("span")))
    words = stage(told.stage, {"file": told.file}, language)
    amount = ""
    if told.total:
        amount = label("weights.progress", language, done=size_text(told.done), total=size_text(told.total))
    line = div("ah-progress-words", element("strong", text(words)), element("span", text(amount), classes="ah-dim"))
    if told.total:
        filled = bar(told.done / told.total, f"{words} {amount}")
    else:
        filled = div("ah-bar ah-running", element("span"))
    return _panel(line, filled, para("ah-dim", _pace(shot, language)))


def _pace(shot: Snapshot, language: str) -> str:
    parts = []
    if shot.count > 1:
        parts.append(label("weights.number", language, number=shot.number, count=shot.count))
    if shot.speed and shot.progress is not None and shot.progress.stage == "downloading":
        parts.append(label("weights.speed", language, speed=size_text(shot.speed)))
    if shot.seconds_left is not None:
        parts.append(label("weights.left", language, time=seconds_text(shot.seconds_left)))
    return " · ".join(parts)


def _panel(*parts: str) -> str:
    return div("ah-card ah-progress", *parts, role="status", aria_live="polite")


def ended(shot: Snapshot, kept: int, language: str) -> str:
    """How a download ended.

    Args:
        shot: its last word.
        kept: bytes of unfinished files that are kept.
        language: of the words.
    """
    if shot.error is None:
        return notice(label("weights.done", language), label("weights.done_words", language))
    if stopped(shot):
        return notice(
            label("weights.stopped", language), label("weights.stopped_words", language, size=size_text(kept))
        )
    error = shot.error
    return failed(error if isinstance(error, Exception) else RuntimeError(str(error)), language)


# --- around it --------------------------------------------------------------------------------------------------


def totals_card(totals: Totals, language: str) -> str:
    """Disk taken and disk left."""
    whole = sum(totals.by_origin.values())
    by = [
        element("p", text(size_text(count)), " ", text(label(f"weights.origin.{origin}", language)), classes="ah-dim")
        for origin, count in sorted(totals.by_origin.items(), key=lambda pair: -pair[1])
    ]
    taken = _fact(
        label("weights.totals", language),
        label("weights.total", language, size=size_text(whole), count=totals.files),
        *by,
    )
    room = [para("ah-dim", label("weights.free_cache", language))]
    if totals.free_hub != totals.free:
        room.append(element("strong", text(size_text(totals.free_hub))))
        room.append(para("ah-dim", label("weights.free_hub", language)))
    return element(
        "dl", taken, _fact(label("weights.free", language), size_text(totals.free), *room), classes="ah-facts ah-two"
    )


def _fact(name: str, value: str, *below: str) -> str:
    return div("ah-fact", element("dt", text(name)), element("dd", element("strong", text(value)), *below))


def network(folders: Folders, environ: Mapping[str, str], language: str, *, paths: bool) -> str:
    """What the network and the folders are set to, and which variable changes it."""
    site = label("weights.hub_off" if hub.offline() else "weights.hub_on", language)
    mirror = urlsplit(environ.get("HF_ENDPOINT", "")).hostname
    if mirror and not hub.offline():
        site += ". " + label("weights.hub_mirror", language, host=mirror)
    proxied = any(environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"))
    own = label("weights.own_none", language)
    if folders.own:
        own = label("weights.own_count", language, count=len(folders.own))
    rows = [
        (label("weights.hub", language), site, ""),
        (label("weights.proxy", language), label("weights.proxy_on" if proxied else "weights.proxy_off", language), ""),
        (label("weights.own", language), own, "\n".join(map(str, folders.own))),
        (label("weights.cache", language), label("weights.cache_hint", language), str(folders.cache)),
    ]
    items = [
        element("dt", text(name))
        + element("dd", text(value), *(para("ah-dim ah-path", line) for line in where.splitlines() if paths))
        for name, value, where in rows
    ]
    return element("dl", *items, classes="ah-settings")
