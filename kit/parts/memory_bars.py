"""Memory part by part as bars: what each component is predicted to take, and after a run what it took."""

from collections.abc import Mapping, Sequence

from kit.parts.markup import bar, div, element, para, span, text
from kit.texts.labels import label, name_of
from loader.folders import size_text
from loader.memory import working_bytes
from loader.outcome import Result
from loader.plan import Placement, Plan


def predicted_activations(made: Plan) -> dict[str, int]:
    """By component, the bytes it is predicted to need beyond its weights while it computes."""
    variant = made.situation.spec.variant(made.variant)
    factor = variant.saver_factor if made.savers else 1.0
    return {
        p.name: working_bytes(variant.component(p.name), made.shape, p.compute_dtype, factor, on_host=p.device == "cpu")
        for p in made.components
    }


def predicted_bars(made: Plan, language: str) -> str:
    """Weights and activations of every component, all bars to one scale."""
    working = predicted_activations(made)
    most = max((p.bytes + working[p.name] for p in made.components), default=0) or 1
    rows = [_row(p, working[p.name], most, language) for p in made.components]
    keys = div(
        "ah-legend",
        element("span", text(label("bars.weights", language)), classes="ah-key ah-measured"),
        element("span", text(label("bars.activations", language)), classes="ah-key ah-working"),
    )
    sleeping = any(p.residency != "resident" for p in made.components)
    return div(
        "ah-bars",
        element("header", element("h4", text(label("bars.title", language))), keys, classes="ah-head"),
        *rows,
        para("ah-dim", label("bars.sum", language)) if sleeping else "",
    )


def _row(placed: Placement, working: int, most: int, language: str) -> str:
    said = label(
        "bars.part",
        language,
        name=placed.name,
        weights=size_text(placed.bytes),
        working=size_text(working),
        device=name_of("device", placed.device, language),
    )
    fills = (
        element("span", style=f"width:{placed.bytes / most * 100:.2f}%", classes="ah-fill"),
        element("span", style=f"width:{working / most * 100:.2f}%", classes="ah-fill ah-working"),
    )
    figures = label("bars.figures", language, weights=size_text(placed.bytes), working=size_text(working))
    return div(
        "ah-part-row",
        span("ah-part-name", placed.name, aria_hidden="true"),
        element("span", *fills, classes="ah-bar ah-stacked", role="img", aria_label=said),
        span("ah-number", figures, aria_hidden="true"),
    )


# --- after a run ------------------------------------------------------------------------------------------------


def held_at_once(made: Plan, held: Mapping[str, int], pool: str) -> int:
    """Bytes of weights that are in ``pool`` together, of components that hold ``held``.

    Where parts sleep between stages that is the largest stage; where all stay it is their sum.
    """
    here = [p for p in made.components if (p.device == "cpu") == (pool == "host")]
    if all(p.residency == "resident" for p in here):
        return sum(held.get(p.name, 0) for p in here)
    variant = made.situation.spec.variant(made.variant)
    stages: dict[str, int] = {}
    for placed in here:
        stage = variant.component(placed.name).stage
        stages[stage] = stages.get(stage, 0) + held.get(placed.name, 0)
    return max(stages.values(), default=0)


def measured_bars(result: Result, language: str) -> str:
    """Predicted beside measured: the weights of each component, and what the peak of the run had beyond them."""
    made, held = result.plan, result.component_bytes
    if not held:
        return ""
    pool = "device" if made.peak_bytes["device"] else "host"
    expected = {p.name: p.bytes for p in made.components}
    rows: list[tuple[str, int, int | None]] = [(name, count, held.get(name)) for name, count in expected.items()]
    # Streamed blocks: how much of the weights is on the device at the peak is not known from their bytes.
    if all(p.residency != "blocks" for p in made.components):
        used = {name: count for name, count in expected.items() if name in held}
        before = made.peak_bytes[pool] - held_at_once(made, used, pool)
        after = result.peak_bytes.get(pool, 0) - held_at_once(made, held, pool)
        rows.append((label("bars.rest", language), max(0, before), max(0, after)))
    most = max((max(before, after or 0) for _, before, after in rows), default=0)
    pairs = [_measured(name, before, after, most, language) for name, before, after in rows]
    title = element("h4", text(label("bars.title", language)))
    return div("ah-bars ah-bars-measured", title, *pairs)


def _measured(name: str, before: int, after: int | None, most: int, language: str) -> str:
    unused = label("bars.not_loaded", language)
    measured = (after or 0, size_text(after) if after is not None else unused)
    return pair(name, (before, size_text(before)), measured, language, most=most)


def pair(
    name: str, predicted: tuple[float, str], measured: tuple[float, str], language: str, *, most: float = 0.0
) -> str:
    """Two bars, each a number with its words; each says by itself what it is of.

    Args:
        name: what is measured.
        predicted: number and words of the plan.
        measured: number and words of the run.
        language: of the words.
        most: the number of a full bar; the larger of the two where it is left out.
    """
    most = most or max(predicted[0], measured[0]) or 1.0
    both: Sequence[tuple[str, tuple[float, str]]] = (("predicted", predicted), ("measured", measured))
    lines = [
        div(
            "ah-pair-line",
            bar(value / most, f"{name}, {label(f'figures.{kind}', language)}: {words}", tone=f"ah-{kind}"),
            element("span", text(words), classes="ah-number", aria_hidden="true"),
        )
        for kind, (value, words) in both
    ]
    named = element("span", text(name), classes="ah-pair-name", aria_hidden="true")
    return div("ah-pair", named, div("ah-pair-lines", *lines))
