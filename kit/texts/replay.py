"""A bundle replayed, as a record (JSON) and as text for a terminal: the plan as it was and as it is now."""

from typing import Any

from kit.texts import EVENTS_OF, LANGUAGES, refusal
from kit.texts.comparison import Comparison, comparison_table, host_title
from kit.texts.report import decision_record, plan_record, seconds_text
from loader.bundle import Bundle, Replayed
from loader.compare import only_in
from loader.decision import Decision


def replay_record(bundle: Bundle, replayed: Replayed) -> dict[str, Any]:
    """``{reproduces, identical, was, now, differences[], only_then[], only_now[], trace[], seconds, error}``.

    ``was`` and ``now`` are plans as of ``plan --json``, ``only_then`` and ``only_now`` decisions.
    """
    was, now = replayed.was, replayed.now
    return {
        "reproduces": replayed.reproduces,
        "identical": was == now,
        "was": plan_record(was),
        "now": plan_record(now),
        "differences": [
            {"what": d.what, "subject": d.subject, "was": d.here, "now": d.there} for d in replayed.differences
        ],
        "only_then": [decision_record(d) for d in only_in(was, now)],
        "only_now": [decision_record(d) for d in only_in(now, was)],
        "trace": [{"unit": t.unit, "event": t.event, "why": t.why, "plan_change": t.plan_change} for t in bundle.trace],
        "seconds": bundle.seconds,
        "error": bundle.error,
    }


def replay_text(bundle: Bundle, replayed: Replayed, language: str = "en") -> str:
    """What ran where and how it ended; both plans side by side with ≠ before what differs; whether it is the same."""
    words = LANGUAGES[language].REPORT
    was, now = replayed.was, replayed.now
    compared = Comparison(was, now)
    lines = [words["replay_head"].format(title=compared.title, machine=host_title(was.situation.host, language))]
    lines += _account(bundle, language)
    lines += ["", *comparison_table(compared, (words["replay_now"], words["replay_was"]), language)]
    for key, made in (("replay_was", was), ("replay_now", now)):
        if made.refusal is not None:
            lines.append(f"  {words[key]}: {refusal(made.refusal, language)}")
    if parts := compared.parts(language):
        lines += [f"  {words['against_parts']}", *(f"    - {part}" for part in parts)]
    for key, found in (("replay_only_then", only_in(was, now)), ("replay_only_now", only_in(now, was))):
        if found:
            lines += [f"  {words[key]}", *(f"    - {_decided(decision)}" for decision in found)]
    return "\n".join([*lines, "", words[_verdict(replayed)]])


def _verdict(replayed: Replayed) -> str:
    if replayed.was == replayed.now:
        return "replay_identical"
    return "replay_same" if replayed.reproduces else "replay_differs"


def _account(bundle: Bundle, language: str) -> list[str]:
    """What became of the run."""
    words = LANGUAGES[language].REPORT
    lines = []
    if bundle.seconds:
        predicted = seconds_text(bundle.plan.predicted_seconds)
        lines.append(words["replay_took"].format(seconds=seconds_text(bundle.seconds), predicted=predicted))
    lines += [f"  {t.unit}: {EVENTS_OF.get(t.event, t.event)}: {t.why} → {t.plan_change}" for t in bundle.trace]
    if bundle.error:
        lines.append(words["replay_error"].format(error=bundle.error))
    return lines


def _decided(decision: Decision) -> str:
    change = f"{decision.wanted} → {decision.got}" if decision.wanted else decision.got
    return f"{decision.subject} {change} ({decision.rule})"
