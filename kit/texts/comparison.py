"""Two plans side by side as text: the rows the what-if page and ``plan --against`` both show, and their record."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kit.texts import LANGUAGES, flips_when, refusal
from kit.texts.labels import label, name_of
from kit.texts.report import decision_record, memory_text, plan_record, seconds_text
from loader.compare import Aspect, Difference, compare, flippable, only_in
from loader.decision import Decision
from loader.host import PROBED, Host
from loader.plan import Placement, Plan

# Rows in the order they are read, each with the properties of a plan it sums up.
ROWS: tuple[tuple[str, tuple[Aspect, ...]], ...] = (
    ("state", ("fits",)),
    ("variant", ("variant",)),
    ("device", ("device",)),
    ("dtype", ("compute_dtype", "storage_dtype")),
    ("residency", ("residency", "savers")),
    ("compile", ("compile",)),
    ("size", ("size",)),
    ("amount", ("batch", "steps", "frames")),
    ("peak", ("peak_device", "peak_host")),
    ("seconds", ("seconds",)),
)
# Of a plan that is refused nothing else would happen.
REFUSED_ROWS = ("state", "variant")
# What differs in single components, each with the word for it.
PART_NAMES = {
    "device": "what_if.device",
    "dtype": "what_if.dtype",
    "residency": "what_if.residency",
    "memory_format": "column.layout",
    "attention": "what_if.attention",
    "compile": "what_if.compile",
    "packed": "column.weights",
}


@dataclass(frozen=True)
class Row:
    """One property of two plans.

    Attributes:
        key: of ``ROWS``.
        there: its value in the plan looked at.
        here: its value in the one it is compared with.
        differs: the plans differ in it, be it in one component only.
        times: how many times as slow (above 1) or fast (below 1) it is, where it is a time that differs.
    """

    key: str
    there: str
    here: str
    differs: bool
    times: float | None = None


@dataclass(frozen=True)
class Comparison:
    """One model on two machines."""

    here: Plan
    there: Plan

    @property
    def differences(self) -> tuple[Difference, ...]:
        return compare(self.here, self.there)

    @property
    def new_decisions(self) -> tuple[Decision, ...]:
        """Taken there and not here."""
        return only_in(self.there, self.here)

    @property
    def title(self) -> str:
        return self.there.situation.spec.title

    def parts(self, language: str) -> tuple[str, ...]:
        """What differs in single components, each line naming those that differ in the same."""
        lines: dict[str, list[str]] = {}
        for name in dict.fromkeys(d.subject for d in self.differences if d.subject):
            before, now = self.here.component(name), self.there.component(name)
            for kind in dict.fromkeys(_kind(d.what) for d in self.differences if d.subject == name):
                was, became = (_part(placed, kind, language) for placed in (before, now))
                change = f"{label(PART_NAMES[kind], language)}: {was} → {became}"
                lines.setdefault(change, []).append(name)
        return _bracketed(lines, language)

    def flips(self, language: str) -> tuple[str, ...]:
        """What would change decisions there, each line naming those it would change."""
        decided: dict[tuple[str, str], list[str]] = {}
        for decision in flippable(self.there):
            change = f"{decision.wanted} → {decision.got}" if decision.wanted else decision.got
            decided.setdefault((flips_when(decision, language), change), []).append(decision.subject)
        lines: dict[str, list[str]] = {}
        for (flips, change), subjects in decided.items():
            lines.setdefault(flips, []).append(f"{', '.join(subjects)} {change}")
        return _bracketed(lines, language)

    def rows(self, language: str) -> tuple[Row, ...]:
        """Every property, whether it differs or not."""
        keys = [key for key, _ in ROWS if self.there.fits or key in REFUSED_ROWS]
        return tuple(self._row(key, dict(ROWS)[key], language) for key in keys)

    def _row(self, key: str, aspects: tuple[Aspect, ...], language: str) -> Row:
        there, here = cell(self.there, key, language), cell(self.here, key, language)
        found = [d for d in self.differences if d.what in aspects]
        times = next((d.ratio for d in found if d.what == "seconds"), None)
        return Row(key, there, here, bool(found), times)


def host_name(host: Host, language: str = "en") -> str:
    """A machine in a few words: this one, a named one in the reader's language, or what its file calls it."""
    if host.name == PROBED:
        return label("what_if.here", language)
    return host.name or host.title


def host_title(host: Host, language: str = "en") -> str:
    """What a machine is, in the reader's language where it is a named one."""
    # A file may carry a named host's name and be another machine.
    named = name_of("machine", host.name) == host.title
    return name_of("machine", host.name, language) if named else host.title


def cell(plan: Plan, key: str, language: str = "en") -> str:
    """One property of a plan in a few words; a plan that is refused has its answer only."""
    nothing = label("what_if.nothing", language)
    if key == "state":
        return label("plan.state_fits" if plan.fits else "plan.state_refused", language)
    if not plan.fits:
        return plan.variant if key == "variant" else nothing
    return {
        "variant": lambda: plan.variant,
        "device": lambda: name_of("device", plan.device, language),
        "dtype": lambda: _dtype(
            _joined(p.compute_dtype for p in plan.components),
            _joined(p.storage_dtype for p in plan.components if p.storage_dtype != p.compute_dtype),
            language,
        ),
        "residency": lambda: _joined(
            [*(name_of("residency", p.residency, language) for p in plan.components), *plan.savers]
        ),
        "compile": lambda: _joined(name_of("compile", p.compile, language) for p in plan.components),
        "size": lambda: f"{plan.size[0]}×{plan.size[1]}",
        "amount": lambda: _amount(plan, language),
        "peak": lambda: memory_text(plan, language),
        "seconds": lambda: label("what_if.about", language, seconds=seconds_text(plan.predicted_seconds)),
    }[key]()


def _bracketed(lines: Mapping[str, Sequence[str]], language: str) -> tuple[str, ...]:
    words = LANGUAGES[language].REPORT
    return tuple(words["against_line"].format(what=k, whom=words["against_join"].join(v)) for k, v in lines.items())


def _kind(what: Aspect) -> str:
    return "dtype" if what in ("compute_dtype", "storage_dtype") else what


def _part(placed: Placement, kind: str, language: str) -> str:
    if kind == "dtype":
        return _dtype(placed.compute_dtype, placed.storage_dtype, language)
    if kind == "packed":
        return name_of("weights", "packed" if placed.packed else "laid out in every call", language)
    return name_of({"memory_format": "layout"}.get(kind, kind), str(getattr(placed, kind)), language)


def times_text(times: float, language: str = "en") -> str:
    """How many times as fast or slow."""
    factor = max(times, 1 / times)
    figure = f"{factor:.1f}" if factor < 9.95 else f"{factor:.0f}"
    return label("what_if.faster" if times < 1 else "what_if.slower", language, times=figure)


def _dtype(compute: str, storage: str, language: str) -> str:
    return compute if storage in ("", compute) else label("plan.stored", language, compute=compute, storage=storage)


def _joined(words: Iterable[str]) -> str:
    return " + ".join(dict.fromkeys(words))


def _amount(plan: Plan, language: str) -> str:
    first = label("what_if.pictures_one" if plan.batch == 1 else "what_if.pictures", language, count=plan.batch)
    more = [
        label(f"what_if.{name}", language, count=count)
        for name, count in (("steps", plan.steps), ("frames", plan.frames))
        if count > 1
    ]
    return LANGUAGES[language].REPORT["join"].join([first, *more])


# --- for programs -----------------------------------------------------------------------------------------------


def comparison_record(compared: Comparison) -> dict[str, Any]:
    """``{adapter, here, there, differences[{what, subject, here, there, ratio}], only_there[], flips[]}``.

    ``here`` and ``there`` are plans as of ``plan --json``, ``only_there`` decisions.
    """
    return {
        "adapter": compared.there.adapter,
        "here": plan_record(compared.here),
        "there": plan_record(compared.there),
        "differences": [
            {"what": d.what, "subject": d.subject, "here": d.here, "there": d.there, "ratio": d.ratio}
            for d in compared.differences
        ],
        "only_there": [decision_record(d) for d in compared.new_decisions],
        "flips": [
            {"rule": d.rule, "subject": d.subject, "got": d.got, "flips_when": flips_when(d)}
            for d in flippable(compared.there)
        ],
    }


# --- for a terminal ---------------------------------------------------------------------------------------------


def comparison_text(compared: Comparison, language: str = "en") -> str:
    """One model on two machines: a table with ≠ before what differs, then its parts, then what would change it."""
    words = LANGUAGES[language].REPORT
    here, there = (host_name(plan.situation.host, language) for plan in (compared.here, compared.there))
    text = [compared.title, *comparison_table(compared, (there, here), language)]
    if not compared.differences:
        text.append(f"  {words['against_same']}")
    if compared.there.refusal is not None:
        text.append(f"  {refusal(compared.there.refusal, language)}")
    for title, lines in (("against_parts", compared.parts(language)), ("against_flips", compared.flips(language))):
        if lines:
            text += [f"  {words[title].format(there=there)}", *(f"    - {line}" for line in lines)]
    return "\n".join(text)


def comparison_table(compared: Comparison, heads: tuple[str, str], language: str = "en") -> list[str]:
    """The rows as lines, with ≠ before what differs; ``heads`` are those of ``there`` and of ``here``."""
    return _columns([["", "", *heads], *(_line(row, language) for row in compared.rows(language))])


def _line(row: Row, language: str) -> list[str]:
    there = row.there if row.times is None else f"{row.there} ({times_text(row.times, language)})"
    return ["≠" if row.differs else "", label(f"what_if.{row.key}", language), there, row.here]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(_width(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  " + "  ".join(_padded(c, w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """Columns of a terminal: a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
