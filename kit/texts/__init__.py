"""Prose for what the loader decided, in the reader's language. No gradio here: the command line speaks it too."""

import string
from collections.abc import Mapping
from types import ModuleType

from kit.texts import en, zh
from loader.decision import Decision
from loader.errors import AnyhostError, DoesNotFitError, InputError, LicenceNotAcceptedError, QueueFullError

LANGUAGES: Mapping[str, ModuleType] = {"en": en, "zh": zh}
LANGUAGE_VARIABLE = "ANYHOST_LANGUAGE"
PROVENANCE_OF: Mapping[str, str] = en.PROVENANCE
EVENTS_OF: Mapping[str, str] = en.EVENTS


class _Gaps(dict[str, object]):
    """A missing figure shows as a dash instead of losing the whole sentence."""

    def __missing__(self, key: str) -> str:
        return "–"


def language_from(environ: Mapping[str, str]) -> str:
    """The language named by ``ANYHOST_LANGUAGE``, English if it names none.

    Raises:
        InputError: a language there are no texts in.
    """
    named = environ.get(LANGUAGE_VARIABLE, "").strip().lower() or "en"
    if named not in LANGUAGES:
        raise InputError(f"{LANGUAGE_VARIABLE}={named}: there are texts in {', '.join(LANGUAGES)}")
    return named


def _fill(template: str, decision: Decision, language: str) -> str:
    values = _Gaps(decision.params)
    page: Mapping[str, str] = LANGUAGES[language].PAGE
    # Figures that are words: where a speed is from, and what a spec says of its parts.
    values.update({k: page.get(f"{k}.{values[k]}", values[k]) for k in ("evidence", "why") if k in values})
    values.update(subject=decision.subject, wanted=decision.wanted, got=decision.got)
    return string.Formatter().vformat(template, (), values)


def why(decision: Decision, language: str = "en") -> str:
    """Why the decision was taken, with its figures."""
    return _fill(LANGUAGES[language].RULES[decision.rule], decision, language)


def flips_when(decision: Decision, language: str = "en") -> str:
    """What would change the answer, or an empty text."""
    if not decision.flips:
        return ""
    return _fill(LANGUAGES[language].FLIPS[decision.flips], decision, language)


def refusal(decision: Decision, language: str = "en") -> str:
    """A refused wish or a request that does not fit, as one sentence with the remedy."""
    texts = LANGUAGES[language]
    if decision.rule in ("does_not_fit", "nothing_fits", "nothing_left"):
        return _fill(texts.RULES[decision.rule], decision, language) + _stop(language)
    template = texts.REFUSED_NEAREST if decision.params.get("nearest") else texts.REFUSED
    values = _Gaps(decision.params)
    values.update(subject=decision.subject, wanted=decision.wanted, why=why(decision, language))
    return string.Formatter().vformat(template, (), values)


def _stop(language: str) -> str:
    """What ends a sentence."""
    stop: str = LANGUAGES[language].PAGE["language.stop"]
    return stop


def error_text(error: AnyhostError, language: str = "en") -> str:
    """An error as the user should read it."""
    if isinstance(error, DoesNotFitError) and error.decision is not None:
        return refusal(error.decision, language)
    page: Mapping[str, str] = LANGUAGES[language].PAGE
    if isinstance(error, LicenceNotAcceptedError):
        terms = page["terms.join"].join(f"{licence.name} ({licence.url})" for licence in error.licences)
        return page["terms.refused"].format(terms=terms)
    if isinstance(error, QueueFullError):
        seconds = f"{max(1, round(error.seconds))} s"
        return page["queue.full"].format(waiting=error.waiting, limit=error.limit, seconds=seconds)
    return str(error)


def stage(name: str, detail: Mapping[str, object], language: str = "en") -> str:
    """What a step is doing."""
    return string.Formatter().vformat(LANGUAGES[language].STAGES[name], (), _Gaps(detail))
