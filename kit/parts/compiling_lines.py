"""Where compiling stands, on the plan card: one line for each component that is compiled beside its requests."""

from typing import Any

from kit.parts.markup import para
from kit.texts.labels import label
from kit.texts.report import seconds_text
from loader.compiling import Standing
from loader.plan import Plan


def compiling_lines(made: Plan, engine: Any, language: str) -> str:
    """Markup of the lines; "" where nothing is compiled, or where the engine is somewhere else and cannot say."""
    standings = getattr(engine, "standings", None)
    if standings is None:
        return ""
    told = (standing_words(standing, language) for standing in standings(made))
    return "".join(para("ah-note", words) for words in told if words)


def standing_words(standing: Standing, language: str) -> str:
    """One component's standing in a sentence, "" while nothing has begun."""
    if standing.state == "eager":
        return ""
    key = f"compiling.{standing.state}"
    times = standing.times
    if standing.state == "reverted":
        key, times = f"{key}_{standing.cause}", 1 / times if times else 0.0
    words = label(
        key,
        language,
        component=standing.component,
        times=f"{times:.2g}" if times >= 10 else f"{times:.2f}",
        compiled_ms=f"{standing.compiled_seconds * 1000:.1f}",
        eager_ms=f"{standing.eager_seconds * 1000:.1f}",
        seconds=seconds_text(standing.seconds),
        detail=standing.detail,
    )
    if standing.state == "compiled" and standing.warm:
        words += " " + label("compiling.warm", language)
    return words
