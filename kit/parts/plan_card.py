"""The plan card: before anything loads, what will run where, in which precision, why, and what it will cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kit.parts.compiling_lines import compiling_lines
from kit.parts.context import PageContext
from kit.parts.markup import bar, div, element, link, para, sentence, span, table, text
from kit.parts.memory_bars import predicted_bars
from kit.texts import LANGUAGES, flips_when, refusal, why
from kit.texts.comparison import Comparison
from kit.texts.labels import label, name_of
from kit.texts.report import seconds_text
from loader.decision import Decision, Rejected
from loader.folders import Folders, find, size_text
from loader.knowledge import Correction
from loader.memory import gib
from loader.plan import Placement, Plan, applied_correction
from loader.spec import AdapterSpec, Licence, Variant, Weights

PRECISION_RULES = frozenset(
    ("low_precision_pays", "precision_first", "component_keeps_dtype", "quarantined", "not_finite", "not_implemented")
)


@dataclass(frozen=True)
class Download:
    """What of a variant's weights is not on this disk yet.

    Attributes:
        bytes: their announced sizes.
        origins: where they would come from, first choice first.
    """

    bytes: int
    origins: tuple[str, ...]


def download_of(variant: Variant, folders: Folders) -> Download:
    """Bytes to fetch before ``variant`` can run; what ships with the project or lies on the disk costs nothing."""
    missing = [weights for weights in variant.weights if find(weights, folders) is None]
    origins = dict.fromkeys(_origin(weights) for weights in missing)
    return Download(sum(weights.bytes for weights in missing), tuple(origins))


def _origin(weights: Weights) -> str:
    first = weights.sources[0]
    return f"huggingface.co/{first.location}" if first.kind == "hub" else first.location.split("/")[2]


def plan_card(made: Plan, context: PageContext, *, baseline: Plan | None = None, runnable: bool = True) -> str:
    """The card of a plan, or of a refusal.

    Args:
        made: the plan for the wishes as they stand.
        context: the page it is shown on.
        baseline: the plan without any wish, to say what the wishes cost; None leaves that out.
        runnable: False when the model's network is not in yet.
    """
    language = context.language
    spec = made.situation.spec
    parts = [_head(made, language, runnable=runnable)]
    if made.refusal is not None:
        parts.append(_refused(made.refusal, language))
    else:
        parts.append(element("p", text(headline(made, language)), classes="ah-headline"))
    if made.situation.host.title != context.host.title:
        parts.append(para("ah-dim", label("cluster.planned_on", language, host=made.situation.host.title)))
    if baseline is not None:
        parts.append(para("ah-consequence", consequence(made, baseline, language)))
    parts.append(_facts(made, context))
    if made.fits:
        parts += [_components(made, language), compiling_lines(made, context.engine, language)]
        parts.append(predicted_bars(made, language))
        parts.append(_decisions([d for d in made.decisions if d is not made.refusal], language))
    parts.append(_foot(spec, made, context))
    return element("section", *parts, classes="ah-card ah-plan", aria_label=label("plan.title", language))


def plan_line(made: Plan, context: PageContext) -> str:
    """The plan in a sentence or two, for beside the button that starts it."""
    language = context.language
    if made.refusal is not None:
        return para("ah-line ah-bad", sentence(refusal(made.refusal, language)))
    fetch = download_of(made.situation.spec.variant(made.variant), context.engine.folders)
    words = (
        headline(made, language)
        + " "
        + label("plan.line", language, seconds=seconds_text(made.predicted_seconds), gib=gib(_main_pool(made)[1]))
    )
    if fetch.bytes:
        licences = ", ".join(licence.name for licence in _licences(made))
        words += " " + label("plan.line_download", language, size=size_text(fetch.bytes), licence=licences)
    return para("ah-line", words)


def headline(made: Plan, language: str) -> str:
    """What runs where, in which precision, at which size."""
    variant = made.situation.spec.variant(made.variant)
    dtypes = " + ".join(dict.fromkeys(p.compute_dtype for p in made.components))
    key = "plan.headline_batch" if made.batch > 1 else "plan.headline"
    return label(
        key,
        language,
        model=f"{made.situation.spec.title} {variant.name}",
        device=name_of("device", made.device, language),
        dtype=dtypes,
        height=made.size[0],
        width=made.size[1],
        batch=made.batch,
    )


def consequence(made: Plan, baseline: Plan, language: str) -> str:
    """What the wishes change against the plan without any, "" when nothing."""
    if made.refusal is not None or baseline.refusal is not None or made.situation.wishes == baseline.situation.wishes:
        return ""
    changes = _changes(Comparison(baseline, made), language)
    if not changes:
        return label("plan.same", language)
    costs = [int(d.params["seconds"]) for d in made.decisions if d.rule == "compile_wish" and "seconds" in d.params]
    compiling = " " + label("plan.compile_cost", language, seconds=seconds_text(max(costs))) if costs else ""
    said = label(
        "plan.consequence",
        language,
        changes=changes,
        before=seconds_text(baseline.predicted_seconds),
        after=seconds_text(made.predicted_seconds),
        before_gib=gib(_main_pool(baseline)[1]),
        after_gib=gib(_main_pool(made)[1]),
    )
    return said + compiling


def _changes(compared: Comparison, language: str) -> str:
    asked = {"variant", "device", "size", "amount"}
    if compared.here.savers != compared.there.savers:
        asked.add("residency")
    rows = [row for row in compared.rows(language) if row.differs and row.key in asked]
    whole = [f"{label(f'what_if.{row.key}', language)}: {row.here} → {row.there}" for row in rows]
    return label("terms.join", language).join([*whole, *compared.parts(language)])


# --- parts of the card ------------------------------------------------------------------------------------------


def _head(made: Plan, language: str, *, runnable: bool) -> str:
    if not runnable:
        state, tone = label("plan.state_planned", language), "ah-quiet"
    elif made.fits:
        state, tone = label("plan.state_fits", language), "ah-good"
    else:
        state, tone = label("plan.state_refused", language), "ah-bad"
    title = element("h3", text(label("plan.title", language)))
    return element("header", title, span(f"ah-pill {tone}", state), classes="ah-head")


def _refused(decision: Decision, language: str) -> str:
    flips = flips_when(decision, language)
    return div(
        "ah-notice ah-bad",
        element("p", text(sentence(refusal(decision, language)))),
        _rejected(decision, language),
        para("ah-flips", label("plan.flips", language, what=flips)) if flips else "",
        role="status",
    )


def _facts(made: Plan, context: PageContext) -> str:
    language, variant = context.language, made.situation.spec.variant(made.variant)
    facts = []
    if made.fits:
        facts += [_time_fact(made, language), _memory_fact(made, language)]
    facts += [_download_fact(variant, context), _licence_fact(made, language)]
    return element("dl", *facts, classes="ah-facts")


def _fact(name: str, value: str, *below: str) -> str:
    return div("ah-fact", element("dt", text(name)), element("dd", element("strong", value), *below))


def _time_fact(made: Plan, language: str) -> str:
    one_pass = made.steps == 1 and made.frames == 1
    if made.batch > 1:
        per = label("fact.per_batch", language, batch=made.batch)
    else:
        per = label("fact.per_picture" if one_pass else "fact.per_request", language)
    learned = applied_correction(made)
    about = label("fact.about", language, value=seconds_text(made.predicted_seconds))
    before = seconds_text(made.predicted_seconds / learned.seconds)
    basis = _learned(learned, before, seconds_text(made.predicted_seconds), language)
    basis = basis or label("fact.estimated", language)
    return _fact(label("fact.time", language), text(about), para("", per), para("ah-dim", basis))


def _learned(learned: Correction, before: str, after: str, language: str) -> str:
    """What runs on this machine made of a figure, "" where there were none."""
    if not learned.runs:
        return ""
    key = "fact.confirmed" if before == after else "fact.corrected"
    one = "_one" if learned.runs == 1 else ""
    return label(f"{key}{one}", language, before=before, after=after, runs=learned.runs)


def _memory_fact(made: Plan, language: str) -> str:
    rows = []
    for pool in ("device", "host"):
        peak, budget = made.peak_bytes[pool], made.budget_bytes[pool]
        if pool == "device" and not peak:
            continue
        where = label("fact.ram", language)
        if pool == "device":
            where = label("fact.on", language, device=name_of("device", made.device, language))
        value = label("fact.gib", language, value=gib(peak))
        words = label("fact.of", language, budget=gib(budget), where=where)
        rows += [element("strong", text(value)), bar(peak / budget if budget else 1.0, f"{value} {words}")]
        rows.append(para("", words))
        if pool == _main_pool(made)[0]:
            learned = applied_correction(made)
            before = label("fact.gib", language, value=gib(int(peak / learned.bytes)))
            # A run that did not need every part teaches no memory: then nothing is said.
            rows.append(para("ah-dim", _learned(learned, before, value, language)) if before != value else "")
    return div("ah-fact", element("dt", text(label("fact.memory", language))), element("dd", *rows))


def _main_pool(made: Plan) -> tuple[str, int]:
    pool = "device" if made.peak_bytes["device"] else "host"
    return pool, made.peak_bytes[pool]


def _download_fact(variant: Variant, context: PageContext) -> str:
    language = context.language
    fetch = download_of(variant, context.engine.folders)
    name = label("fact.download", language)
    if not fetch.bytes:
        return _fact(name, text(label("fact.nothing", language)), para("", label("fact.on_disk", language)))
    origins = label("fact.origins", language, origins=", ".join(fetch.origins))
    return _fact(name, text(size_text(fetch.bytes)), para("ah-breaks", origins))


def _licences(made: Plan) -> tuple[Licence, ...]:
    return tuple(dict.fromkeys(w.licence for w in made.situation.spec.variant(made.variant).weights))


def _licence_fact(made: Plan, language: str) -> str:
    code, weights = made.situation.spec.code_licence, _licences(made)
    names = "<br>".join(link(licence.url, licence.name) for licence in weights)
    below = [element("p", text(label("fact.code_licence", language)), " ", link(code.url, code.name))]
    free = all(licence.commercial for licence in (code, *weights))
    below.append(para("" if free else "ah-warn", label("fact.commercial" if free else "fact.no_commercial", language)))
    below += [para("ah-dim", licence.note) for licence in weights if licence.note]
    if any(licence.accept for licence in weights):
        below.append(para("ah-warn", label("fact.accept", language)))
    return _fact(label("fact.licence", language), names, *below)


def _components(made: Plan, language: str) -> str:
    head = [label(f"column.{c}", language) for c in ("part", "device", "dtype", "residency", "layout", "compile")]
    head.append(label("column.weights", language))
    return table(
        head, (_component_row(p, language) for p in made.components), caption=label("plan.components", language)
    )


def _component_row(placed: Placement, language: str) -> tuple[str, ...]:
    dtype: str = placed.compute_dtype
    if placed.storage_dtype != dtype:
        dtype = label("plan.stored", language, compute=dtype, storage=placed.storage_dtype)
    layout = name_of("layout", placed.memory_format, language)
    if placed.packed:
        layout = f"{layout}, {name_of('weights', 'packed', language)}"
    return (
        element("strong", text(placed.name)),
        text(name_of("device", placed.device, language)),
        text(dtype),
        text(name_of("residency", placed.residency, language)),
        text(layout),
        text(name_of("compile", placed.compile, language)),
        text(size_text(placed.bytes)),
    )


def _decisions(decisions: list[Decision], language: str) -> str:
    if not decisions:
        return ""
    items = [element("li", *decision_parts(group, language)) for group in grouped(decisions)]
    title = element("h4", text(label("plan.why", language)))
    return title + element("ul", *items, classes="ah-decisions")


def grouped(decisions: Sequence[Decision]) -> list[tuple[Decision, ...]]:
    """Decisions that say the same of several components, together, in the order of the first of each."""
    groups: dict[str, list[Decision]] = {}
    for decision in decisions:
        groups.setdefault(repr(replace(decision, subject="")), []).append(decision)
    return [tuple(group) for group in groups.values()]


OTHER_TOPICS = {
    "channels_last": "layout",
    "packed": "weights",
    "packing_failed": "weights",
    "packing_quarantined": "weights",
    "fuse_then_cast": "layers",
    "keep_fp32": "parts",
}


def _topic(rule: str) -> str:
    """What of a component a rule is about."""
    if rule.startswith(("fp16_", "bf16_", "int8_", "dtype_")) or rule in PRECISION_RULES:
        return "precision"
    if rule.startswith("compile_"):
        return "compile"
    return OTHER_TOPICS.get(rule, "")


def decision_parts(group: Sequence[Decision], language: str, *, mark: str = "") -> tuple[str, str]:
    """What was decided, with ``mark`` (markup) after it, and why: the two halves of an item of ``ah-decisions``."""
    decision = group[0]
    topic = _topic(decision.rule)
    subject = ", ".join(name_of("subject", d.subject, language) for d in group)
    if topic:
        subject = f"{label(f'topic.{topic}', language)}: {subject}"
    wanted, got = (name_of(topic, value, language) for value in (decision.wanted, decision.got))
    change = div(
        "ah-change",
        span("ah-subject", subject),
        element("b", text(got)),
        _instead(wanted, language) if wanted and wanted != got else "",
        mark,
    )
    flips = flips_when(decision, language)
    return (
        change,
        div(
            "ah-reason",
            para("", sentence(why(decision, language))),
            _rejected(decision, language),
            para("ah-flips", label("plan.flips", language, what=flips)) if flips else "",
        ),
    )


def _instead(wanted: str, language: str) -> str:
    # A line through a word is not read out.
    return element("s", span("ah-hidden", f"{label('access.instead', language)} "), text(wanted))


def _rejected(decision: Decision, language: str) -> str:
    if not decision.rejected:
        return ""
    what = "; ".join(f"{r.what}: {_figure(r, language)}" for r in decision.rejected)
    return para("ah-rejected", label("plan.rejected", language, what=what))


def _figure(rejected: Rejected, language: str) -> str:
    """The figure that spoke against an alternative, with its unit in words."""
    if rejected.unit == "s":
        return seconds_text(rejected.number)
    times = rejected.unit.removeprefix("× the time of ")
    if times != rejected.unit:
        return label("unit.times", language, number=f"{rejected.number:g}", what=times)
    return f"{rejected.number:g} {name_of('unit', rejected.unit, language)}"


def _foot(spec: AdapterSpec, made: Plan, context: PageContext) -> str:
    language = context.language
    provenance = LANGUAGES[language].PROVENANCE
    variant = spec.variant(made.variant)
    if variant.provenance != "published":
        words = provenance[variant.provenance]
        return para("ah-note", sentence(label("plan.provenance", language, provenance=words)))
    if spec.preview and made.situation.wishes.variant is None and download_of(variant, context.engine.folders).bytes:
        return para("ah-note", label("plan.fallback", language, note=provenance["preview"]))
    return ""
