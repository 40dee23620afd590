"""What came of trying several plans, as a record (JSON), as rows, and as text for a terminal."""

from typing import Any

from kit.texts.labels import label
from kit.texts.report import seconds_text
from loader.candidates import Trial
from loader.tuned import milliseconds, words_of
from loader.tuning import Tuning

COLUMNS = ("way", "ms", "range", "drift", "note")


def tuning_record(tuning: Tuning) -> dict[str, Any]:
    """For ``tune --json``: every way that was tried, the winner (null where the machine was too busy), the rounds."""
    plan = tuning.plan
    return {
        "adapter": plan.adapter,
        "variant": plan.variant,
        "device": plan.device,
        "size": list(plan.size),
        "winner": None if tuning.winner is None else words_of(tuning.winner),
        "kept": tuning.winner is not None,
        "rounds": {"quiet": tuning.quiet, "all": tuning.rounds},
        "seconds": round(tuning.seconds, 1),
        "tried": [
            {
                "way": words_of(trial.way),
                "dtype": trial.way.dtype,
                "memory_format": trial.way.memory_format,
                "attention": trial.way.attention,
                "compile": trial.way.compile,
                "batch": trial.way.batch,
                "ms": [round(seconds * 1000, 2) for seconds in trial.seconds],
                "median_ms": round(trial.median * 1000, 2),
                "drift": trial.drift,
                "problem": trial.problem,
                "detail": trial.detail,
            }
            for trial in tuning.trials
        ],
    }


def subject(tuning: Tuning) -> str:
    """What was tried: model, size, device."""
    plan = tuning.plan
    return f"{plan.situation.spec.title} {plan.variant}, {plan.size[0]}×{plan.size[1]}, {plan.device}"


def verdict(tuning: Tuning, language: str) -> str:
    """What is used from now on, in a sentence or two."""
    if tuning.winner is None:
        return label("tune.disturbed", language, quiet=tuning.quiet, rounds=tuning.rounds)
    planned = tuning.trials[0]
    best = next(trial for trial in tuning.trials if trial.way == tuning.winner)
    figures = {"way": words_of(best.way), "ms": f"{milliseconds(best.median):g}"}
    if best is planned:
        return label("tune.stays", language, **figures)
    said = label("tune.won", language, **figures)
    if planned.median and not planned.problem:
        times = f"{planned.median / best.median:.2f}"
        gain = label("tune.gain", language, way=words_of(planned.way), times=times)
        return f"{said} {gain}" if said.endswith(".") else said + gain
    return said


def rows(tuning: Tuning, language: str) -> list[tuple[str, ...]]:
    """One row a way, in the order of ``COLUMNS``."""
    return [_row(trial, tuning, language) for trial in tuning.trials]


def _row(trial: Trial, tuning: Tuning, language: str) -> tuple[str, ...]:
    notes = [label("tune.planned", language)] if trial is tuning.trials[0] else []
    if trial.way == tuning.winner:
        notes.append(label("tune.fastest", language))
    if trial.problem:
        key = trial.problem if trial.problem in ("slow", "drift") else "failed"
        notes.append(label(f"tune.{key}", language, detail=trial.detail))
    ends = f"{milliseconds(min(trial.seconds)):g} – {milliseconds(max(trial.seconds)):g}" if trial.seconds else "–"
    return (
        words_of(trial.way),
        f"{milliseconds(trial.median):g}" if trial.seconds else "–",
        ends,
        f"{trial.drift:.4f}",
        label("terms.join", language).join(notes),
    )


def tuning_text(tuning: Tuning, language: str = "en") -> str:
    """The same for a terminal."""
    head = tuple(label(f"tune.column.{name}", language) for name in COLUMNS)
    table = [head, *rows(tuning, language)]
    widths = [max(len(row[i]) for row in table) for i in range(len(COLUMNS) - 1)]
    lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in table]
    counted = label(
        "tune.rounds", language, quiet=tuning.quiet, rounds=tuning.rounds, seconds=seconds_text(tuning.seconds)
    )
    return "\n".join(
        [subject(tuning), *(f"  {line.rstrip()}" for line in lines), f"{counted}. {verdict(tuning, language)}"]
    )
