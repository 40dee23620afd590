"""What a tab says while it waits, works, stops or fails."""

from collections.abc import Mapping

from kit.parts.markup import div, element, meter, para, sentence, text
from kit.texts import error_text, stage
from kit.texts.labels import label
from kit.texts.report import seconds_text
from loader.errors import (
    AnyhostError,
    Cancelled,
    DoesNotFitError,
    InputError,
    LicenceNotAcceptedError,
    WeightsError,
)
from loader.folders import size_text
from loader.outcome import Step

# Stages whose steps are bytes.
BYTE_STAGES = frozenset({"downloading", "extracting", "checking"})
FIVES_FROM, MINUTES_FROM = 10, 90  # seconds of a wait


def progress(step: Step, language: str, *, stopping: bool = False) -> str:
    """A step as a panel: what is done, how far, how long still; for one who waits, which place and how long."""
    if step.stage == "waiting" and step.total and not stopping:
        return _in_line(step, language)
    counted = step.total > 1 or (step.total == 1 and step.index == 1)
    words = label("state.stopping", language) if stopping else stage(step.stage, step.detail, language)
    amount = _amount(step, language) if counted else ""
    left = ""
    if step.seconds_left is not None:
        left = label("state.left", language, seconds=seconds_text(step.seconds_left))
    # The stage alone is spoken as it comes: a voice that reads every count never gets to its end.
    named = element("strong", text(words), data_say="")
    line = div("ah-progress-words", named, element("span", text(amount), classes="ah-dim"))
    share = step.index / step.total if counted else None
    return div("ah-card ah-progress", line, meter(share, words, f"{amount} {left}".strip()), para("ah-dim", left))


def _in_line(step: Step, language: str) -> str:
    place = label("queue.place", language, place=_ordinal(step.index, language))
    words, overdue = place, ""
    if step.seconds_left:
        words = label("queue.place_and_time", language, place=place, seconds=_about(step.seconds_left))
    elif step.seconds_left is not None:
        overdue = label("queue.overdue", language)
    # The place is spoken when it changes; the seconds change all the time.
    named = element("strong", text(words), data_say=place)
    total = element("span", text(label("queue.total", language, total=step.total)), classes="ah-dim")
    line = div("ah-progress-words", named, total)
    return div("ah-card ah-progress ah-waiting", line, meter(None, words, ""), para("ah-dim", overdue))


def _ordinal(number: int, language: str) -> str:
    if language != "en":
        return str(number)
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _about(seconds: float) -> str:
    """Seconds as far as an estimate reaches: in steps of five from ten on."""
    if seconds >= MINUTES_FROM:
        return seconds_text(seconds)
    step = 1 if seconds < FIVES_FROM else 5
    return f"{max(1, round(seconds / step) * step)} s"


def _amount(step: Step, language: str) -> str:
    if step.stage in BYTE_STAGES:
        return label("state.of", language, done=size_text(step.index), total=size_text(step.total))
    return label("state.of", language, done=step.index, total=step.total)


def waiting(language: str) -> str:
    """Shown from the click until the first step."""
    return progress(Step("waiting", 0, 0), language)


def failed(error: Exception, language: str, *, finished: str = "") -> str:
    """An error as the user should meet it: what went wrong, with its figures and the remedy.

    ``finished`` is what had been done before it, in words.
    """
    before = "\n" + label("kept.words", language, what=finished) if finished else ""
    if isinstance(error, Cancelled):
        return stopped(language, before)
    if isinstance(error, AnyhostError):
        words = error_text(error, language)
        if not isinstance(error, InputError):  # those begin with the name of a file, which keeps its spelling
            words = sentence(words)
        return _notice(label(_title_of(error), language), words + before, tone="ah-bad", alert=True)
    words = label("error.unexpected_words", language, error=f"{type(error).__name__}: {_first_line(error)}")
    return _notice(label("error.unexpected", language), words + before, tone="ah-bad", alert=True)


_TITLES: Mapping[type[AnyhostError], str] = {
    InputError: "error.input",
    DoesNotFitError: "error.refused",
    LicenceNotAcceptedError: "error.terms",
    WeightsError: "error.weights",
}


def _title_of(error: AnyhostError) -> str:
    return next((key for kind, key in _TITLES.items() if isinstance(error, kind)), "error.run")


def stopped(language: str, before: str = "") -> str:
    """Stop was pressed and the work has ended; ``before`` is a line about what had been done."""
    return _notice(label("state.stopped", language), label("state.stopped_words", language) + before)


def notice(title: str, words: str, *, alert: bool = False) -> str:
    """Something worth knowing that is not a failure; ``alert`` where it answers what the user just did."""
    return _notice(title, words, alert=alert)


def _notice(title: str, words: str, *, tone: str = "", alert: bool = False) -> str:
    lines = [para("", line) for line in words.splitlines() if line.strip()]
    # An alert is read as it comes; anything else waits for the end of what is being said, see page/access.js.
    return div(
        f"ah-card ah-notice {tone}".strip(),
        element("h3", text(title)),
        *lines,
        role="alert" if alert else None,
        data_say=None if alert else f"{title}. {words}",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]
